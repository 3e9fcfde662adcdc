#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the Debian packages of a build folder that was configured with -DTDN_DEB=ON; where lintian is installed, its
# errors fail.
#
# usage: tools/deb.sh FOLDER
set -euo pipefail
cd "$1"
rm -f ./*.deb
if ! cpack -G DEB >cpack.log 2>&1; then
    cat cpack.log >&2
    exit 1
fi
ls -- *.deb
if command -v lintian >/dev/null; then
    # initial-upload-closes-no-bugs: these packages are not Debian's own.
    lintian --allow-root --fail-on error --suppress-tags initial-upload-closes-no-bugs ./*.deb
fi

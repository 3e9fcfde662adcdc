#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Unpacks Debian packages of another architecture into a folder, for building against and for running under qemu-user.
# The system stays as it is: apt works on lists and a cache of its own below FOLDER, and needs no root. Does nothing
# when the folder holds these packages already.
#
# usage: tools/sysroot.sh ARCHITECTURE FOLDER PACKAGE...      e.g. arm64 build-aarch64/sysroot libzip-dev
set -euo pipefail
architecture=$1 folder=$2
shift 2
[ "$(cat "$folder/.holds" 2>/dev/null)" = "$architecture $*" ] && exit 0

rm -rf "$folder"
mkdir -p "$folder/.apt/lists/partial" "$folder/.apt/archives/partial"
apt=$(cd "$folder/.apt" && pwd)
: >"$apt/status"
apt_get() {
    apt-get -q -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
        -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" -o Debug::NoLocking=1 -o APT::Sandbox::User= \
        -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" "$@"
}
log=$apt/log
echo "Fetching Debian packages for $architecture: $*"
if ! { apt_get update && apt_get install -y --no-install-recommends --download-only "$@"; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "sysroot.sh: apt-get could not fetch the packages for $architecture: $*" >&2
    exit 1
fi
for package in "$apt"/archives/*.deb; do
    dpkg-deb -x "$package" "$folder"
done
rm -rf "$folder/.apt"
echo "$architecture $*" >"$folder/.holds"

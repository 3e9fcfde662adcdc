#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Configures and builds one folder, saying little: the log of configuring is shown only where that fails.
#
# usage: tools/build.sh FOLDER [CMAKE OPTION...]      JOBS=N
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
mkdir -p "$folder"
if ! cmake -S . -B "$folder" "$@" >"$folder/configure.log" 2>&1; then
    cat "$folder/configure.log" >&2
    exit 1
fi
# CMake's progress lines without those of each library.
cmake --build "$folder" -j "${JOBS:-$(nproc)}" -- --no-print-directory |
    { grep -v -e 'Built target' -e 'Consolidate compiler' -e 'Scanning dependencies' || true; }

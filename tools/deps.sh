#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that a target needs and that are missing. Says nothing and takes no time when all are
# there; says what to do where it cannot install. On systems without dpkg it only looks for the commands.
#
# usage: tools/deps.sh GROUP...      build, test, clang, format, aarch64, deb
set -euo pipefail

packages_of() {
    case $1 in
    build) echo gcc libc6-dev cmake make libjansson-dev libzip-dev ;;
    test) echo gcc libc6-dev cmake make libjansson-dev libzip-dev libcmocka-dev binutils python3 python3-venv zsh ;;
    clang) echo clang "$(clang_runtime)" ;;
    format) echo clang-format ;;
    aarch64) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user llvm ;;
    deb) echo dpkg-dev file pkg-config binutils debootstrap ;;
    *) echo "deps.sh: unknown group '$1'" >&2 && return 2 ;;
    esac
}

# The sanitizers' and libFuzzer's package is named after the version that `clang` depends on.
clang_runtime() {
    local version
    version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
    echo "libclang-rt-${version:-14}-dev"
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_of() {
    local package
    for package in "$@"; do
        installed "$package" || echo "$package"
    done
}

look_for_commands() {
    local command
    for command in cc cmake make; do
        command -v "$command" >/dev/null || { echo "deps.sh: '$command' is needed and not there" >&2; exit 1; }
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -- "$@"
    fi
}

install() {
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        echo "Tendon needs these Debian packages: $*" >&2
        echo "Please have them installed:  apt-get install --no-install-recommends $*" >&2
        exit 1
    fi
    echo "Installing Debian packages: $*"
    local log
    log=$(mktemp)
    if ! { as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1; then
        cat "$log" >&2
        echo "deps.sh: apt-get could not install: $*" >&2
        exit 1
    fi
    rm -f "$log"
}

if ! command -v dpkg-query >/dev/null; then
    look_for_commands
    exit 0
fi
for group in "$@"; do
    # shellcheck disable=SC2046 # package names hold no blanks
    missing=$(missing_of $(packages_of "$group"))
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install $missing
done

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs Tendon as its users do, and builds the C example against what is installed, by pkg-config and by CMake:
#   1. `make install` below a scratch DESTDIR, which is then moved: nothing installed may know where it lay;
#   2. the Debian packages on a bare Debian (debootstrap) without this tree: the run time installs alone, the example
#      runs, and removing the packages leaves nothing behind.
# Where there can be no bare Debian (no root, no mirror), the packages are unpacked into a folder and used from there;
# the last line says which of the two it was. Closes with "N passed, N failed".
#
# usage: tests/install.sh BUILD_FOLDER PACKAGES_FOLDER      from the project's root; SKIP_BARE=1: without a bare Debian
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1 packages=$2
mkdir -p "$packages/test"
work=$(cd "$packages/test" && pwd)
passed=0 failed=0

# check WHAT COMMAND...: runs it; shows its output where it fails.
check() {
    local what=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        echo "ok    $what"
        passed=$((passed + 1))
    else
        echo "FAIL  $what: $*"
        sed 's/^/      /' "$work/log"
        failed=$((failed + 1))
        return 1
    fi
}

# ---- The example, as a project of its own ----
example=$work/example
rm -rf "$example"
mkdir -p "$example"
cp examples/c/minimal.c examples/emg/emg_tcn.onnx "$example"
cat >"$example/CMakeLists.txt" <<'EOF'
cmake_minimum_required(VERSION 3.16)
project(example C)
find_package(Tendon 0.1 REQUIRED)
add_executable(minimal minimal.c)
target_link_libraries(minimal PRIVATE Tendon::tendon)
add_executable(compiler compiler.c)
target_link_libraries(compiler PRIVATE Tendon::tendon-build)
EOF
cat >"$example/compiler.c" <<'EOF'
#include <stdio.h>
#include <tendon/build.h>
int main(int argc, char **argv)
{
    tdn_error error = {{0}};
    tdn_model *model = NULL;
    tdn_build_options options = TDN_BUILD_OPTIONS_INIT;
    int failed = argc != 3 || tdn_model_load(&model, argv[1], NULL, &error) ||
                 tdn_build_file(model, &options, argv[2], &error);
    tdn_model_free(model);
    puts(failed ? error.text : tdn_version());
    return failed;
}
EOF

# The steps of a user, in the example's folder: the same text here, in the unpacked packages and in the bare Debian.
cat >"$example/by-pkg-config.sh" <<'EOF'
set -eu
cc minimal.c -o by-pkg-config $(pkg-config --cflags --libs tendon)
cc compiler.c -o compiler-by-pkg-config $(pkg-config --cflags --libs tendon-build)
pkg-config --exact-version="$(tendon --version | sed 's/tendon //')" tendon
tendon build emg_tcn.onnx -o emg.plan
test "$(./by-pkg-config emg.plan)" = rest
./compiler-by-pkg-config emg_tcn.onnx compiled.plan
test "$(./by-pkg-config compiled.plan)" = rest
EOF
cat >"$example/by-cmake.sh" <<'EOF'
set -eu
rm -rf by-cmake
cmake -S . -B by-cmake "$@"
cmake --build by-cmake
by-cmake/compiler emg_tcn.onnx compiled.plan
test "$(by-cmake/minimal compiled.plan)" = rest
EOF

# in_tree PREFIX: the steps against a tree that is not where the system looks.
in_tree() {
    local prefix=$1 libs
    libs=$(dirname "$(find "$prefix" -name 'libtendon.so.0')") || return 1
    (
        cd "$example" || exit 1
        export PATH=$prefix/bin:$PATH LD_LIBRARY_PATH=$libs PKG_CONFIG_PATH=$libs/pkgconfig
        bash by-pkg-config.sh && bash by-cmake.sh -DCMAKE_PREFIX_PATH="$prefix"
    )
}

# ---- 1. make install ----
wanted="bin/tendon include/tendon/tendon.h include/tendon/build.h share/man/man1/tendon.1
    share/bash-completion/completions/tendon share/zsh/site-functions/_tendon share/doc/tendon/LICENSE"

all_there() {
    local prefix=$1 name missing=''
    for name in $wanted; do
        [ -s "$prefix/$name" ] || missing+=" $name"
    done
    for name in libtendon.so libtendon-build.so; do
        readelf -d "$prefix"/lib*/$name.0 | grep -q "SONAME.*\[$name\.0\]" || missing+=" the soname of $name"
        [ -L "$prefix/lib/$name" ] || missing+=" $name"
    done
    [ -z "$missing" ] || { echo "missing:$missing"; return 1; }
}

names_no_folder() { # nothing that is text may hold this machine's folders
    ! grep -rIl -e "$PWD" -e "$work" "$1"
}

rm -rf "$work/dest" "$work/moved"
if check "make install, PREFIX and DESTDIR" \
    env DESTDIR="$work/dest" cmake --install "$build" --prefix /opt/tendon; then
    check "everything is there" all_there "$work/dest/opt/tendon"
    check "no folder of this machine in it" names_no_folder "$work/dest/opt/tendon"
    check "pkg-config and CMake find it below DESTDIR" in_tree "$work/dest/opt/tendon"
    mkdir -p "$work/moved" && mv "$work/dest/opt/tendon" "$work/moved/elsewhere"
    check "and where it was moved to" in_tree "$work/moved/elsewhere"
fi

# ---- 2. Debian packages ----
file_of() { # the newest of a package
    ls -t "$packages/$1"_*.deb 2>/dev/null | head -n 1
}
all_packages="libtendon0 libtendon-build0 libtendon-dev tendon"
debs=()
for name in $all_packages; do
    debs+=("$(file_of "$name")")
    check "package $name" test -e "${debs[-1]}"
done

depends_on() { # PACKAGE PATTERN: each of its dependencies fits the pattern
    dpkg-deb -f "$(file_of "$1")" Depends | tr ',' '\n' | { ! grep -v -E "^ *($2)( |$)"; }
}
check "libtendon0 needs libc alone" depends_on libtendon0 'libc6'
check "libtendon-build0 needs libc and libtendon0" depends_on libtendon-build0 'libc6|libtendon0'
check "tendon needs libc, libjansson and libzip" depends_on tendon 'libc6|libjansson4|libzip4t?6?4?'

bare=$work/bare
root_works() { [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null; }

make_bare() {
    [ -e "$bare/.done" ] && return 0
    rm -rf "$bare"
    echo "Making a bare Debian in $bare"
    debootstrap --variant=minbase --include=gcc,libc6-dev,make,cmake,pkg-config bookworm "$bare" >"$work/bare.log" 2>&1 &&
        rm -rf "$bare/var/cache/apt/archives" && mkdir -p "$bare/var/cache/apt/archives/partial" && touch "$bare/.done"
}

in_bare() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot "$bare" bash -c 'cd /root/example && "$@"' bare "$@"
}

# Files and packages of the system, but what package managers and ldconfig keep for themselves.
snapshot() {
    (cd "$bare" && find . -path ./root -prune -o -path ./var/lib/apt -prune -o -path ./var/lib/dpkg -prune -o \
        -path ./var/cache -prune -o -path ./var/log -prune -o -path ./tmp -prune -o -path ./etc/ld.so.cache -prune -o \
        -path ./etc/resolv.conf -prune -o -path ./etc/hosts -prune -o ! -type d -print | sort)
    in_bare dpkg-query -W -f '${Package} ${db:Status-Status}\n'
}

test_in_bare() {
    rm -rf "$bare/root/example"
    cp -r "$example" "$bare/root/"
    cp -L /etc/resolv.conf /etc/hosts "$bare/etc/" 2>/dev/null
    cp "${debs[@]}" "$bare/root/example/"
    local ours
    ours=$(cd "$packages" && ls -- *.deb | sed 's,^,./,')
    snapshot >"$work/before"
    check "the run time installs alone, by dpkg" in_bare dpkg -i "./$(basename "${debs[0]}")"
    # shellcheck disable=SC2086 # names of packages hold no blanks
    check "all packages install, by apt" in_bare \
        bash -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' bash $ours
    check "the example by pkg-config" in_bare bash by-pkg-config.sh
    check "the example by CMake" in_bare bash by-cmake.sh
    check "the run time does without the other packages" in_bare \
        bash -c 'dpkg -r tendon libtendon-dev libtendon-build0 && test "$(./by-pkg-config emg.plan)" = rest'
    # shellcheck disable=SC2086
    check "packages are removed" in_bare bash -c 'dpkg --purge "$@" && apt-get autoremove --purge -y -qq' \
        bash $all_packages
    snapshot >"$work/after"
    check "and leave nothing behind" diff "$work/before" "$work/after"
}

test_unpacked() {
    rm -rf "$work/unpacked"
    local deb
    for deb in "${debs[@]}"; do
        check "$(basename "$deb") unpacks" dpkg-deb -x "$deb" "$work/unpacked"
    done
    check "the example by pkg-config and CMake" in_tree "$work/unpacked/usr"
}

if [ -z "${SKIP_BARE:-}" ] && root_works && make_bare; then
    before=$failed
    test_in_bare
    [ "$failed" = "$before" ] || rm -f "$bare/.done" # it may be spoilt: the next run makes another
    how="on a bare Debian"
else
    [ -e "$work/bare.log" ] && [ ! -e "$bare/.done" ] && tail -n 5 "$work/bare.log"
    test_unpacked
    how="unpacked into a folder, not on a bare Debian (that takes root, debootstrap and a mirror)"
fi
echo "packages tested $how"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]

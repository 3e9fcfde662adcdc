#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the tests of a build folder and closes with one plain line: "N passed, N failed".
#
# usage: tools/test.sh FOLDER [c | small | aarch64]
#     c        C tests alone
#     small    C tests and those Python tests that are marked `small` (sanitizers make the others slow)
#     aarch64  of a build for AArch64, under qemu: C tests, small networks, and plans that build/tendon made for it
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
folder=$1 part=${2:-all}
passed=0 failed=0

run_c() {
    local log=$folder/ctest.log total bad
    ctest --test-dir "$folder" -j "$(nproc)" --output-on-failure --no-tests=error 2>&1 | tee "$log"
    read -r bad total < <(sed -n 's/.*tests passed, \([0-9]*\) tests* failed out of \([0-9]*\).*/\1 \2/p' "$log")
    if [ -z "${total:-}" ]; then # ctest itself failed
        failed=$((failed + 1))
        return
    fi
    passed=$((passed + total - bad)) failed=$((failed + bad))
}

# count ATTRIBUTE FILE: of the test suite in pytest's JUnit file.
count() {
    sed -n "s/.*<testsuite [^>]*$1=\"\([0-9]*\)\".*/\1/p" "$2" | head -n 1
}

# run_python COMMAND WORDS_FOR_PYTEST...
run_python() {
    local report=$folder/pytest.xml status
    rm -f "$report"
    TENDON=$1 build/venv/bin/python -m pytest -q -p no:cacheprovider --junitxml="$report" "${@:2}"
    status=$?
    if [ ! -e "$report" ] || [ $status -gt 1 ]; then # pytest itself failed, or found no test
        failed=$((failed + 1))
        return
    fi
    local bad
    bad=$(($(count failures "$report") + $(count errors "$report")))
    passed=$((passed + $(count tests "$report") - $(count skipped "$report") - bad)) failed=$((failed + bad))
}

# A command that runs the folder's under qemu, and the two kinds of Python tests for it. Emulated kernels are slow: the
# tests of the command line, which are the same everywhere, are left to the other builds.
run_aarch64() {
    local qemu there=$PWD/$folder/tendon-under-qemu
    qemu="$(command -v qemu-aarch64 || command -v qemu-aarch64-static) -L $PWD/$folder/sysroot $PWD/$folder/tendon"
    printf '#!/bin/sh\nexec %s "$@"\n' "$qemu" >"$there"
    chmod +x "$there"
    run_python "$there" -m small tests/python/test_zoo_runs.py tests/python/test_models.py tests/python/test_exports.py
    TENDON_AARCH64=$there run_python "$PWD/build/tendon" tests/aarch64
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}
run_c
case $part in
c) ;;
small) run_python "$PWD/$folder/tendon" -m small tests/python ;;
aarch64) run_aarch64 ;;
*) run_python "$PWD/$folder/tendon" tests/python ;;
esac
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]

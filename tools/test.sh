#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the tests of a build folder and closes with one plain line: "N passed, N failed".
#
# usage: tools/test.sh FOLDER [c | small]
#     c      C tests alone
#     small  C tests and those Python tests that are marked `small` (sanitizers make the others slow)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
folder=$1 part=${2:-all}
passed=0 failed=0

run_c() {
    local log=$folder/ctest.log total bad
    ctest --test-dir "$folder" --output-on-failure --no-tests=error 2>&1 | tee "$log"
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

run_python() {
    local report=$folder/pytest.xml select=() status
    [ "$part" = small ] && select=(-m small)
    rm -f "$report"
    TENDON=$PWD/$folder/tendon build/venv/bin/python -m pytest -q -p no:cacheprovider --junitxml="$report" \
        "${select[@]}" tests/python
    status=$?
    if [ ! -e "$report" ] || [ $status -gt 1 ]; then # pytest itself failed, or found no test
        failed=$((failed + 1))
        return
    fi
    local bad
    bad=$(($(count failures "$report") + $(count errors "$report")))
    passed=$((passed + $(count tests "$report") - $(count skipped "$report") - bad)) failed=$((failed + bad))
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}
run_c
[ "$part" = c ] || run_python
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs each fuzz target for some seconds, from the corpus that the tests replay. New inputs stay in the build folder;
# one that fails is worth a copy in tests/fuzz/corpus/<target>/, with the fix.
#
# usage: tools/fuzz.sh FOLDER SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1 seconds=$2
for program in "$folder"/tests/fuzz_*; do
    [ -x "$program" ] || continue
    target=${program##*/fuzz_}
    mkdir -p "$folder/corpus/$target" "$folder/found"
    echo "fuzz_$target for $seconds s"
    "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$folder/found/$target-" "$folder/corpus/$target" "tests/fuzz/corpus/$target" ||
        { echo "fuzz_$target failed: the input is in $folder/found/"; exit 1; }
done

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What Tendon does, on a real model and real data: compiles the EMG classifier, holds the plan against the reference
# and the labels of the recorded test windows, and measures it. Every line shown with a $ can be typed as it stands.
#
# usage: tools/demo.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
tendon=$1/tendon plan=$1/emg.plan
model=examples/emg/emg_tcn.onnx data=examples/emg/test.npz

say_and_do() {
    printf '\n$ %s\n' "$*"
    "$@"
}

say_and_do "$tendon" build "$model" -o "$plan"
# Accuracy is of all windows; the reference, which is plain and slow, is compared on the first hundred.
say_and_do "$tendon" validate "$model" "$plan" --data "$data" --samples=100
say_and_do "$tendon" bench "$plan" --inputs="$data" --duration=3

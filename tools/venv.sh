#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes build/venv with the packages of tests/python/requirements.txt; does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/venv wanted=tests/python/requirements.txt
cmp -s "$wanted" "$venv/requirements.txt" && exit 0
echo "Installing Python packages of $wanted"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check -r "$wanted"
cp "$wanted" "$venv/requirements.txt"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes a Python virtual environment with the packages of a requirements file; does nothing when it is up to date.
#
# usage: tools/venv.sh [REQUIREMENTS FOLDER]      (tests/python/requirements.txt in build/venv)
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=${1:-tests/python/requirements.txt} venv=${2:-build/venv}
cmp -s "$wanted" "$venv/requirements.txt" && exit 0
echo "Installing Python packages of $wanted"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check -r "$wanted"
cp "$wanted" "$venv/requirements.txt"

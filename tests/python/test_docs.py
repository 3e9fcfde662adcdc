# SPDX-License-Identifier: Apache-2.0
"""The manual and the completions know what the command knows: its commands and the options of each."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
MANUAL = ROOT / "docs" / "man" / "tendon.1"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


COMMANDS = re.findall(r"^  ([a-z]+)  +[a-z]", output(TENDON, "--help"), flags=re.M)


def options(command):
    """{option: what the help calls its value, or ""} of a command's help."""
    rows = re.findall(r"^  (?:-\w, )?(--[\w-]+)(?:=(\S+))?(?:  |$)", output(TENDON, command, "--help"), flags=re.M)
    assert rows
    return dict(rows)


def sections():
    """{heading: options named below it} of the manual, where .Fl marks them and -NAME is a long one."""
    found, heading = {}, ""
    for line in MANUAL.read_text().splitlines():
        words = line.split()
        if line.startswith((".Ss ", ".Sh ")):
            heading = line[4:]
        if {"Fl", ".Fl"} & set(words):
            found.setdefault(heading, set()).update("-" + w for w in words if re.fullmatch(r"-[A-Za-z][\w-]+", w))
        found.setdefault(heading, set())
    return found


def test_there_are_commands():
    assert {"build", "run", "bench", "validate", "inspect"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_manual(command):
    named = sections()[command] - {"--help"}
    assert named <= set(re.findall(r"--[A-Za-z][\w-]+", output(TENDON, command, "--help")))
    if command != "trtexec":  # its flags are another program's: the manual names a few
        assert set(options(command)) <= named


def test_manual_explains_what_commands_share():
    shared, manual = sections()["Options of several commands"], MANUAL.read_text()
    assert {option for command in COMMANDS for option in options(command)} >= shared
    for also in re.findall(r"^Also\n\.Fl (.*) \.$", manual, flags=re.M):
        assert {"-" + word for word in also.split() if word != ","} <= shared


# ---- Completion ----------------------------------------------------------------------------------


def bash(*words):
    """What bash offers for the last of the words, split at = as bash does."""
    line = [part for word in words for part in re.findall(r"=|[^=]+", word) or [""]]
    script = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _tendon; printf '%s\\n' "${COMPREPLY[@]}"
    """
    return output("bash", "-c", script, "bash", ROOT / "completion" / "tendon.bash", *line).split()


def test_bash_commands():
    assert set(bash(TENDON, "")) == {*COMMANDS, "--help", "--version"}
    assert bash(TENDON, "val") == ["validate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_options(command):
    known = {name + ("=" if value else "") for name, value in options(command).items()}
    assert set(bash(TENDON, command, "--")) == known | {"--help"}


def test_bash_values():
    assert bash(TENDON, "build", "--precision=") == ["fp32", "fp16", "bf16", "int8"]
    assert bash(TENDON, "build", "--precision=i") == ["int8"]
    assert bash(TENDON, "build", "--precision", "fp1") == ["fp16"]


def test_bash_files(tmp_path, monkeypatch):
    (tmp_path / "emg net.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert bash(os.path.abspath(TENDON), "build", "emg")[0] == "emg"
    assert bash(os.path.abspath(TENDON), "build", "--output=emg")[0] == "emg"


def zsh(*words):
    """What the function hands to zsh's own machinery, which needs a terminal and is replaced by two printers."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    script = """
        _describe() { print -l -- ${(P)2} }
        _arguments() { print -l -- "$@" }
        file=$1; shift
        words=("$@") CURRENT=$#
        source $file
    """
    return output("zsh", "-f", "-c", script, "zsh", ROOT / "completion" / "_tendon", *words).splitlines()


def test_zsh_commands():
    assert [line.split(":")[0] for line in zsh(TENDON, "")] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_zsh_options(command):
    specs = zsh(TENDON, command, "--")
    named = {m.group(1): bool(m.group(2)) for m in (re.match(r"\*(--[\w-]+)(=?)\[", spec) for spec in specs) if m}
    assert named == {name: bool(value) for name, value in options(command).items()}


def test_zsh_values():
    specs = zsh(TENDON, "build", "")
    assert any(re.fullmatch(r"\*--precision=\[.*\]:fp32\|fp16\|bf16\|int8:\(fp32 fp16 bf16 int8\)", spec) for spec in specs)
    assert any(re.fullmatch(r"\*-o\[.*\]:PLAN:_files", spec) for spec in specs)

# SPDX-License-Identifier: Apache-2.0
"""What the command says to typical mistakes: the file, the node, the reason, and what to do, in a line or two."""

import os
import pty
import re
import select
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, FAILED, USAGE, INPUT = 0, 1, 2, 3
HELP = subprocess.run([TENDON, "--help"], capture_output=True, text=True).stdout
COMMANDS = [name for name in re.findall(r"^  (\w+)  +\w", HELP, re.M) if name != "tendon"]


def tendon(line, folder, **options):
    return subprocess.run([TENDON, *line], capture_output=True, text=True, timeout=120, cwd=folder, **options)


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def save(path, nodes, inputs, outputs, weights=()):
    weights = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def save_models(folder):
    weights = {"w1": np.ones((6, 5), np.float32), "w2": np.ones((5, 3), np.float32)}
    node = helper.make_node
    mlp = [
        node("MatMul", ["x", "w1"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    save(folder / "fixed.onnx", mlp, [value("x", [2, 6])], [value("y", [2, 3])], weights)
    save(folder / "mlp.onnx", mlp, [value("x", ["batch", 6])], [value("y", ["batch", 3])], weights)
    two = [node("Sub", ["p", "q:0"], ["d"], name="sub")]
    save(folder / "two.onnx", two, [value("p", [1, 4]), value("q:0", [1, 4])], [value("d", [1, 4])])
    odd = [
        node("Wild", ["x"], ["a"], name="n1", domain="acme"),
        node("Wilder", ["a"], ["y"], name="n3", domain="acme"),
    ]
    save(folder / "odd.onnx", odd, [value("x", [1, 3])], [value("y", [1, 3])])
    head = [node("MatMul", ["x", "w1"], ["y"], name="head/fc")]
    save(folder / "rows.onnx", head, [value("x", [2, 7])], [value("y", [2, 5])], weights)
    save(folder / "missing.onnx", head, [value("x", [2, 6])], [value("y", [2, 5])])
    axis = [node("Softmax", ["x"], ["y"], name="sm", axis=5)]
    save(folder / "axis.onnx", axis, [value("x", [2, 7])], [value("y", [2, 7])])
    whole = (folder / "fixed.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("this is no model\n")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "page.onnx").write_text("<!DOCTYPE html><html></html>\n")


def save_arrays(folder):
    def ones(*shape):
        return np.ones(shape, np.float32)

    files = {
        "in": {"x": ones(2, 6)},
        "key": {"emg": ones(2, 6)},
        "shape": {"x": ones(2, 7)},
        "f64": {"x": np.ones((2, 6))},
        "extra": {"x": ones(2, 6), "z": ones(1)},
        "rank": {"x": ones(6)},
        "three": {"x": ones(3, 6)},
        "nan": {"x": ones(2, 6) * np.nan},
        "only_p": {"p": ones(1, 4)},
        "uneven": {"p": ones(2, 4), "q:0": ones(3, 4)},
        "objects": {"x": np.array([None, 1], dtype=object)},
        "big": {"x": ones(2, 6).astype(">f4")},
        "expected": {"x": ones(2, 6), "y": ones(2, 9)},
        "label": {"x": ones(2, 6), "label": np.array([0, 1, 2])},
    }
    for name, arrays in files.items():
        np.savez(folder / f"{name}.npz", **arrays)
    np.save(folder / "x.npy", ones(2, 6))
    (folder / "text.npz").write_text("x")
    (folder / "empty.npz").write_bytes(b"")


def save_plans(folder):
    for name, options in [("fixed", []), ("arm", ["--target=armv8-a"])]:
        run = tendon(["build", "fixed.onnx", "-o", f"{name}.plan", *options], folder)
        assert run.returncode == DONE, run.stderr
    whole = (folder / "fixed.plan").read_bytes()
    (folder / "cut.plan").write_bytes(whole[:3000])
    (folder / "head.plan").write_bytes(whole[:20])
    flipped = bytearray(whole)
    flipped[2000] ^= 0xFF
    (folder / "flip.plan").write_bytes(flipped)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    save_models(folder)
    save_arrays(folder)
    save_plans(folder)
    return folder


# The command line, its exit code, and a regular expression that the whole message matches.
MESSAGES = [
    # Commands and options
    ("bilud fixed.onnx", USAGE, r"there is no command 'bilud'; did you mean 'build'\? \(tendon --help lists them\)"),
    ("run", USAGE, r"which file\? usage: tendon run PLAN\|MODEL\.onnx .*\n  tendon run --help lists the options"),
    ("inspect fixed.plan fixed.onnx", USAGE, r"'fixed\.onnx' is one argument too many\n.*inspect --help.*"),
    ("build fixed.onnx -o a --precison=fp16", USAGE, r"unknown option --precison; did you mean --precision\?\n.*"),
    ("bench fixed.plan -x", USAGE, r"unknown option -x\n.*bench --help.*"),
    ("bench fixed.plan --profile=yes", USAGE, r"--profile=yes: --profile takes no value\n.*"),
    ("bench fixed.plan --rate", USAGE, r"--rate needs a value: --rate=HZ\n.*"),
    ("bench fixed.plan --rate=0", USAGE, r"--rate=0: expected a number from 0\.001 to 10000000\n.*"),
    ("bench fixed.plan --duration=abc", USAGE, r"--duration=abc: expected a number from 0 to 1000000\n.*"),
    ("bench fixed.plan --duration=", USAGE, r"--duration=: the value is empty\n.*"),
    ("bench fixed.plan --iterations=1.5", USAGE, r"--iterations=1\.5: expected a whole number from 1 to \d+\n.*"),
    ("bench fixed.plan --times", USAGE, r"--times goes with --json=FILE"),
    ("build fixed.onnx -o a --threads=-1", USAGE, r"--threads=-1: expected a whole number from 0 to 1024\n.*"),
    ("build fixed.onnx -o a --cores=0,x", USAGE, r"--cores=0,x: expected numbers .* and ranges, as 0,1 or 0,2-5"),
    ("build fixed.onnx -o a --cores=1-0", USAGE, r"--cores=1-0: expected numbers from 0 to 1023 and ranges, .*"),
    ("bench fixed.plan --cores=0,0", USAGE, r"core 0 is named twice"),
    ("run fixed.plan -i in.npz --cores=0-1023", USAGE, r"core \d+ is not there: cores are 0 to \d+"),
    ("build fixed.onnx -o a --optimization-level=high", USAGE, r"--optimization-level=high: .* from 0 to 5\n.*"),
    ("build fixed.onnx -o a --precision=fp8", USAGE, r"--precision=fp8: expected fp32, fp16, bf16 or int8"),
    ("build fixed.onnx -o a --target=avx1024", USAGE, r"no target 'avx1024'; there are: native, x86-64, .*armv8-a.*"),
    ("build fixed.onnx -o a --dump=nopass", USAGE, r"--dump=nopass: no pass .*\n  expected: all, import, .*drop-dead.*"),
    ("build fixed.onnx", USAGE, r"where does the plan go\? add -o FILE\.plan"),
    ("build -o a", USAGE, r"which model\? usage: tendon build MODEL\.onnx -o PLAN \[options\]"),
    ("run fixed.plan -i in.npz --precision=int8", USAGE, r"fixed\.plan is compiled already: --precision, .* for models"),
    ("run fixed.plan -i in.npz --shapes=x:2x6", USAGE, r"fixed\.plan is compiled already, .*: drop --shapes"),
    ("inspect fixed.plan --shapes=x:1x6", USAGE, r"fixed\.plan is a plan, with its own shapes: drop --shapes"),
    # Shapes and states
    ("build mlp.onnx -o a --shapes=x:2x7", INPUT, r"input 'x' of mlp\.onnx takes the shape \S+x6, not 2x7"),
    ("build fixed.onnx -o a --shapes=x:3x6", INPUT, r"input 'x' of fixed\.onnx takes the shape 2x6, not 3x6"),
    ("build mlp.onnx -o a --shapes=y:2x6", USAGE, r"mlp\.onnx has no input 'y'; its inputs: x"),
    ("build mlp.onnx -o a --shapes=x:2,6", USAGE, r"shape '6': expected NAME:1x3x8, several with commas between"),
    ("build mlp.onnx -o a --shapes=x:2*6", USAGE, r"shape 'x:2\*6': expected numbers with an x between, as 1x3x8"),
    (
        "build mlp.onnx -o a --min-shapes=x:4x6 --max-shapes=x:1x6",
        USAGE,
        r"input 'x', axis 0: not 1 <= min <= opt <= max",
    ),
    ("build mlp.onnx -o a --shapes=x:4x6 --max-shapes=x:4x6", USAGE, r"give either --shapes or --min-shapes, .*"),
    (
        "build fixed.onnx -o a --state=x:z",
        USAGE,
        r"--state=x:z: expected INPUT:OUTPUT .*\n  inputs: x; outputs: y",
    ),
    ("run fixed.onnx -i in.npz --state=x", USAGE, r"--state=x: expected INPUT:OUTPUT .*\n  inputs: x; outputs: y"),
    ("bench fixed.plan --shapes=x:9x9", INPUT, r"no program takes x 9x9, nor that as samples .*\n  there are: x 2x6"),
    ("bench fixed.plan --shapes=z:2x6", USAGE, r"--shapes: there is no input 'z'\n  expected: x float32 2x6"),
    # Models
    ("build nothere.onnx -o a", INPUT, r"cannot open 'nothere\.onnx': No such file or directory"),
    ("build . -o a", INPUT, r"cannot read '\.': it is not a regular file"),
    ("build fixed.plan -o a", INPUT, r"fixed\.plan is a plan already: build takes an ONNX model"),
    (
        "build odd.onnx -o a",
        INPUT,
        r"2 nodes of odd\.onnx not supported: acme\.Wild 'n1' \(.*\); acme\.Wilder 'n3' \(.*\)\n  tendon inspect .*",
    ),
    ("inspect odd.onnx", FAILED, r"odd\.onnx cannot be compiled: 2 of its nodes are not supported"),
    ("build rows.onnx -o a", INPUT, r"rows of 7 meet columns of 6; while .* 'head/fc' \(MatMul\) of rows\.onnx"),
    ("build missing.onnx -o a", INPUT, r"'w1' is made by no node, input or initializer; .*'head/fc'.* missing\.onnx"),
    ("build axis.onnx -o a", INPUT, r"axis 5 outside rank 2; while .* 'sm' \(Softmax\) of axis\.onnx"),
    ("build cut.onnx -o a", INPUT, r"damaged or cut off at byte \d+.* reading cut\.onnx\n  was it copied whole\?.*"),
    ("inspect text.onnx", INPUT, r"damaged or cut off .* reading text\.onnx\n  was it copied whole\?.*"),
    ("build empty.onnx -o a", INPUT, r"the file is empty; while reading empty\.onnx\n  was it copied whole\?.*"),
    ("build lfs.onnx -o a", INPUT, r"damaged .*lfs\.onnx\n  it is a pointer of Git LFS: `git lfs pull` .*"),
    ("build page.onnx -o a", INPUT, r"damaged .*page\.onnx\n  it looks like a web page: .*"),
    ("build in.npz -o a", INPUT, r"damaged .*in\.npz\n  it is a zip archive .*: export the model as ONNX"),
    ("run x.npy -i in.npz", INPUT, r"damaged .*x\.npy\n  the file does not begin as a plan does, .*"),
    # Arrays
    ("run fixed.plan", USAGE, r"give the inputs as an \.npz file\n  expected: x float32 2x6"),
    ("run fixed.plan -i nothere.npz", INPUT, r"cannot open 'nothere\.npz': No such file or directory"),
    ("run fixed.plan -i key.npz", INPUT, r"key\.npz: there is no array 'x', it has 'emg'\n  expected: x float32 2x6"),
    ("run two.onnx -i only_p.npz", INPUT, r"only_p\.npz: there is no array 'q:0', it has 'p'\n  expected: p .*, q:0 .*"),
    ("run two.onnx -i x.npy", INPUT, r"x\.npy: there is no array 'p', it has '\(no name\)'\n  expected: p .*, q:0 .*"),
    ("run fixed.plan -i extra.npz", INPUT, r"extra\.npz: array 'z' is no input, output or label of the model\n.*"),
    ("run fixed.plan -i shape.npz", INPUT, r"shape\.npz: no program takes x 2x7, .*\n  there are: x 2x6"),
    ("run fixed.plan -i three.npz", INPUT, r"three\.npz: no program takes x 3x6, .*\n  there are: x 2x6"),
    ("run two.onnx -i uneven.npz", INPUT, r"uneven\.npz: no program takes p 2x4, q:0 3x4, .*\n  there are: p 1x4, .*"),
    ("run fixed.plan -i rank.npz", INPUT, r"rank\.npz: 'x' has shape 6, which has 1 dimension, not 2\n  expected: .*"),
    ("run fixed.plan -i f64.npz", INPUT, r"f64\.npz: 'x' is float64, .* wants float32: save it with \.astype.*\n.*"),
    ("run fixed.plan -i nan.npz", INPUT, r"nan\.npz: 'x' is NaN at \[0, 0\]\n  --allow-nan lets NaN pass"),
    ("run fixed.plan -i objects.npz", INPUT, r"objects\.npz: 'x' has type \|O: it holds Python objects\n  expected: .*"),
    ("run fixed.plan -i big.npz", INPUT, r"big\.npz: 'x' has type >f4: it is big-endian; save it with \.astype.*\n.*"),
    ("run fixed.plan -i text.npz", INPUT, r"neither an \.npz nor an \.npy file, or damaged .* reading text\.npz"),
    ("run fixed.plan -i empty.npz", INPUT, r"the file is empty; while reading empty\.npz"),
    ("run in.npz -i fixed.plan", INPUT, r"neither an \.npz nor an \.npy file, .* reading fixed\.plan"),
    ("validate fixed.onnx --data=expected.npz", INPUT, r"expected\.npz: .*'y' has shape 2x9; the engine gives 2x3"),
    ("validate fixed.onnx --data=label.npz", INPUT, r"label\.npz: no output has a row for each of the 3 labels.*"),
    # Plans
    ("bench nothere.plan", INPUT, r"cannot open 'nothere\.plan': No such file or directory"),
    ("run head.plan -i in.npz", INPUT, r"not a tendon plan .* loading 'head\.plan'\n  copy it again, or build it .*"),
    ("run cut.plan -i in.npz", INPUT, r"damaged plan: 3000 bytes, where .* 'cut\.plan'\n  copy it again, .*"),
    ("bench flip.plan", INPUT, r"damaged plan: the checksum of .* 'flip\.plan'\n  copy it again, .*"),
    ("validate fixed.onnx two.onnx", INPUT, r"not a tendon plan .* 'two\.onnx'\n  a plan is wanted here: tendon build .*"),
    ("validate fixed.plan", USAGE, r"fixed\.plan is a plan; the model comes first: tendon validate MODEL\.onnx .*"),
    ("validate two.onnx fixed.plan", USAGE, r"the plan has no input 'p': is it the plan of another model\?\n.*"),
    # Where results go
    ("build fixed.onnx -o no/a.plan", INPUT, r"cannot write 'no/a\.plan': there is no folder 'no'; make it first"),
    ("build fixed.onnx -o .", INPUT, r"cannot write '\.': it is a folder; add a file name"),
    ("build fixed.onnx -o fixed.onnx", USAGE, r"'fixed\.onnx' is the input: the output would overwrite it"),
    ("run fixed.plan -i in.npz -o no/o.npz", INPUT, r"cannot write 'no/o\.npz': there is no folder 'no'; .*"),
    ("run fixed.plan -i in.npz -o in.npz", USAGE, r"'in\.npz' is the input: the output would overwrite it"),
    ("run fixed.plan -i in.npz -o x.npy/o.npz", INPUT, r"cannot write 'x\.npy/o\.npz': 'x\.npy' is no folder"),
    ("bench fixed.plan --report=no/r.html", INPUT, r"cannot write 'no/r\.html': there is no folder 'no'; .*"),
    ("bench fixed.plan --json=fixed.plan", USAGE, r"'fixed\.plan' is the input: the output would overwrite it"),
]


@pytest.mark.parametrize("line, code, words", MESSAGES, ids=[line for line, *_ in MESSAGES])
def test_a_mistake_is_answered_in_words(folder, line, code, words):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    run = tendon(line.split(), folder)
    text = run.stderr.removesuffix("\n")
    assert run.returncode == code, text
    assert re.fullmatch("tendon: " + words, text), text
    assert len(text.splitlines()) <= 2 and len(text) < 500 and "\033" not in text
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_plan_for_another_cpu_names_the_command_that_builds_one(folder):
    machine = os.uname().machine
    if machine == "aarch64":
        pytest.skip("the plan is for this machine")
    run = tendon(["bench", "arm.plan"], folder)
    assert run.returncode == INPUT
    words = r"tendon: the plan has sections for armv8-a, but this CPU is (\S+); .*: (tendon build .*) -o PLAN; .*'arm\.plan'\n"
    match = re.fullmatch(words, run.stderr)
    assert match, run.stderr
    again = tendon([*match[2].split()[1:], "-o", "again.plan"], folder)
    (folder / "again.plan").unlink()
    assert again.returncode == DONE, again.stderr


# --- Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(folder, command):
    """A screen of 80 x 40 at most, an example that is a command, and every option that it shows is known."""
    assert {"build", "run", "bench", "validate", "inspect"} <= set(COMMANDS)
    text = tendon([command, "--help"], folder).stdout
    lines = text.splitlines()
    if command != "trtexec":  # whose flags are another program's, and many
        assert len(lines) <= 40 and max(map(len, lines)) <= 80, text
    example = text.split("example:\n  ")[1]
    assert example.startswith(f"tendon {command} ")
    used = set(re.findall(r"--[a-z][\w-]*", example))
    assert used <= set(re.findall(r"--[a-zA-Z][\w-]*", text.split("example:")[0])), used


# --- Terminals and pipes


def on_a_terminal(line, folder, **environment):
    try:
        master, slave = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal to be had: {error}")
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    run = subprocess.Popen([TENDON, *line], stdout=slave, stderr=slave, env=plain | environment, cwd=folder)
    os.close(slave)
    text = b""
    while select.select([master], [], [], 60)[0]:
        try:
            more = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        text += more
    os.close(master)
    run.wait(timeout=60)
    return text.decode()


COLOUR, BAR = re.compile(r"\033\[\d+m"), "measuring ["
BENCH = ["bench", "fixed.plan", "--duration=0.3", "--warmup=0"]


def test_a_terminal_gets_colour_and_progress(folder):
    text = on_a_terminal(BENCH, folder, TERM="xterm")
    assert BAR in text and COLOUR.search(text)
    assert "warming up [" in on_a_terminal(["bench", "fixed.plan", "--iterations=1"], folder, TERM="xterm")
    assert text.rindex(BAR) < text.rindex("\033[K") < text.index("=== Performance summary ===")
    assert COLOUR.search(on_a_terminal(["bench", "nothere"], folder, TERM="xterm"))


@pytest.mark.parametrize("environment", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_colour_can_be_refused(folder, environment):
    for line in (BENCH, ["bench", "nothere"], ["inspect", "odd.onnx"]):
        text = on_a_terminal(line, folder, **environment)
        assert not COLOUR.search(text)
        if "NO_COLOR" not in environment:
            assert "\033" not in text and BAR not in text


def test_a_pipe_gets_plain_text(folder):
    for line in (BENCH, ["bench", "nothere"], ["inspect", "odd.onnx"], ["build", "fixed.onnx", "-o", "/dev/null"]):
        run = tendon(line, folder, env=os.environ | {"TERM": "xterm"})
        assert "\033" not in run.stdout + run.stderr and "\r" not in run.stdout + run.stderr


# --- Which figure to quote


def quote(folder, *options):
    run = tendon(["bench", "fixed.plan", "--warmup=0", "--threads=1", *options], folder)
    assert run.returncode == DONE, run.stderr
    summary = run.stdout.split("=== Performance summary ===\n")[1]
    assert summary.count("Quote: ") == 1
    return re.search(r"^Quote: (.*)$", summary, re.M)[1], summary


def test_the_summary_says_which_figure_to_quote(folder):
    words, summary = quote(folder, "--iterations=1000")
    p99 = float(re.search(r"^Latency: .* percentile\(99%\) = (\S+) ms", summary, re.M)[1])
    found = re.match(r"latency p99 = (\S+) ms \(median \S+ ms\) of 1000 calls back to back, 1 thread, \S+\.", words)
    assert float(found[1]) == pytest.approx(p99, rel=1e-3)
    words, summary = quote(folder, "--iterations=99")
    median = float(re.search(r"^Latency: .* median = (\S+) ms", summary, re.M)[1])
    found = re.match(r"median = (\S+) ms of 99 calls back to back, .* So few calls have no p99", words)
    assert float(found[1]) == pytest.approx(median, rel=1e-3)
    words, summary = quote(folder, "--iterations=100", "--rate=1000")
    p99 = float(re.search(r"^Response: .* percentile\(99%\) = (\S+) ms", summary, re.M)[1])
    found = re.match(r"response p99 = (\S+) ms at 1000 Hz \(median \S+ ms\), (\d+) of (\d+) deadlines missed", words)
    assert float(found[1]) == pytest.approx(p99, rel=1e-3)
    assert f"Deadlines: {found[2]} of {found[3]} missed" in summary

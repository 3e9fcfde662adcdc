# SPDX-License-Identifier: Apache-2.0
"""The models that bench/peers.py measures, and for each the one file of inputs that all engines run on."""
import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TEN = ("snn", "tcn", "spiking_tcn", "hybrid", "stgcn_M1", "stgcn_M2", "stgcn_M5", "policy", "sc2_bq", "ssd300")
SPIKING = ("snn", "spiking_tcn")
OTHERS = ("emg",)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Model:
    """An ONNX file, the file of its inputs and, once asked for, that of its reference outputs."""

    def __init__(self, name, path, inputs, folder):
        from tendon import inspect  # needs the folder of the libraries, which the command line names

        self.name, self.path, self.folder = name, Path(path), folder
        declared = inspect(str(path))["inputs"]
        self.names = [i["name"] for i in declared]
        self.inputs = folder / f"{name}.inputs.npz"
        feeds = self._feeds(declared, inputs)
        np.savez(self.inputs, **feeds)
        self.symbols = {
            d: extent
            for i in declared
            for d, extent in zip(i["declared"], feeds[i["name"]].shape)
            if isinstance(d, str)
        }
        described = inspect(str(path), {n: x.shape for n, x in feeds.items()})
        self.flops = described.get("flops", 0)
        moved = sum(x.nbytes for x in feeds.values()) + 4 * described.get("parameters", 0)
        self.bytes = moved + sum(4 * math.prod(o["shape"]) for o in described["outputs"] if o.get("shape"))
        self.key = hashlib.sha256(Path(path).read_bytes() + self.inputs.read_bytes()).hexdigest()
        self.reference = self.samples = self.quantized = None

    def _feeds(self, declared, inputs):
        """One sample of each input: the first of the file's, or seeded normal values (integers: 0)."""
        rng, feeds = np.random.default_rng(0), {}
        given = np.load(inputs) if inputs else {}
        for i in declared:
            shape = [d if isinstance(d, int) and d >= 0 else 1 for d in i["declared"]]
            dtype = np.dtype(i["dtype"])
            if i["name"] in given:
                x = given[i["name"]]
                fixed = isinstance(i["declared"][0], int) if shape else False
                if fixed and x.ndim == len(shape) and x.shape[0] > shape[0]:
                    x = x[: shape[0]]
            elif inputs:
                raise SystemExit(f"peers: {inputs} has no array '{i['name']}' for {self.path}")
            else:
                x = rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
            feeds[i["name"]] = np.ascontiguousarray(x, dtype)
        return feeds

    def refer(self, cache):
        """Evaluates the reference, which is slow, unless an earlier session did."""
        import tendon

        self.reference = cache / f"{self.name}.{self.key[:16]}.npz"
        if not self.reference.exists():
            say(f"{self.name}: evaluating the reference (kept in {cache})")
            with np.load(self.inputs) as feeds:
                outputs = tendon.reference(str(self.path), dict(feeds))
            cache.mkdir(parents=True, exist_ok=True)
            part = self.reference.with_suffix(".part.npz")
            np.savez(part, **{f"out{i}": y for i, y in enumerate(outputs)})
            part.rename(self.reference)


def write_one_operator(path):
    """The model whose time is an engine's call and nothing else."""
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def find_models(args, folder):
    """Those of --models and those named as files."""
    models, zoo = [], Path(args.zoo)
    names = args.models.split(",") if args.models else ([] if args.files else [*TEN, *OTHERS])
    if "stgcn" in names:
        at = names.index("stgcn")
        names[at : at + 1] = [n for n in TEN if n.startswith("stgcn")]
    if unknown := [n for n in names if n not in (*TEN, *OTHERS)]:
        raise SystemExit(f"peers: no model {', '.join(unknown)}; there are {', '.join((*TEN, *OTHERS))}")
    missing = [n for n in names if n in TEN and not (zoo / f"{n}.onnx").exists()]
    if missing:
        say(f"writing {', '.join(missing)} to {zoo}")
        command = [sys.executable, ROOT / "tools/zoo.py", "--out", zoo, "--only", ",".join(missing)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in names:
        if name == "emg":
            models.append(Model(name, ROOT / "examples/emg/emg_tcn.onnx", ROOT / "examples/emg/test.npz", folder))
        else:
            models.append(Model(name, zoo / f"{name}.onnx", zoo / f"{name}.npz", folder))
    return models + [Model(Path(f).stem, f, args.inputs, folder) for f in args.files]

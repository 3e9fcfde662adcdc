# SPDX-License-Identifier: Apache-2.0
"""Tendon in Python, with onnxruntime's habits.

    session = tendon.InferenceSession("emg.onnx")          # or a plan, or the bytes of either
    logits, = session.run(None, {"emg": window})           # numpy in, numpy out
    tendon.build("emg.onnx", "emg.plan", shapes={"emg": (1, 200, 8)})

Arrays are bound where they lie: an input is copied only if it is not contiguous, outputs are written where they are
returned. Other Python threads run while the engine does.
"""

import ctypes
import json
import math
import operator
import os
import threading
from typing import NamedTuple, Optional

import numpy as np

from . import _c
from ._c import ArgumentError, DtypeError, Error, FileError, Handle, ShapeError, Status

__all__ = [
    "ArgumentError", "DtypeError", "Error", "FileError", "InferenceSession", "NodeArg", "ShapeError", "Status",
    "build", "inspect", "reference",
]  # fmt: skip
__version__ = _c.runtime.tdn_version().decode()


class NodeArg(NamedTuple):
    """An input or output. A dimension that is not fixed is its symbol's name, or None; a shape may be unknown: None."""

    name: str
    shape: Optional[list]
    type: str  # as onnxruntime says it: tensor(float)
    code: int  # as Tendon numbers it

    @property
    def dtype(self):
        return _c.numpy_dtype(self.code)


def _node_arg(name, shape, code):
    dtype = _c.dtype_name(code)
    return NodeArg(name.decode(), shape, f"tensor({_c.ORT_NAMES.get(dtype, dtype)})", code)


# ---- Models and builds


class _Model(Handle):
    """An ONNX model, of a path or of bytes. For one thread at a time."""

    def __init__(self, source):
        c = _c.compiler()
        self.source = "the model" if isinstance(source, bytes) else os.fsdecode(source)
        if isinstance(source, bytes):
            pointer = _c.create(c.tdn_model_load_memory, source, len(source), None, None)
        else:
            pointer = _c.create(c.tdn_model_load, _c.encode(source), None)
        super().__init__(pointer, c.tdn_model_free, source)
        self.inputs = self._list(c.tdn_model_n_inputs, c.tdn_model_input)
        self.outputs = self._list(c.tdn_model_n_outputs, c.tdn_model_output)

    def _list(self, count, get):
        args = []
        for i in range(count(self)):
            io = _c.ModelIo()
            get(self, i, io)
            symbols = [symbol and symbol.decode() for symbol in io.symbols]
            shape = [d if d >= 0 else symbols[k] for k, d in enumerate(io.dims[: io.rank])] if io.rank >= 0 else None
            args.append(_node_arg(io.name, shape, io.dtype))
        return args

    def build(self, path=None, log=None, progress=None, calib_data=None, calib_method=None, calib=None, **options):
        """Builds a plan: into the file, or, where there is no path, into memory: (owner, pointer, size)."""
        c, plan, size = _c.compiler(), ctypes.c_void_p(), ctypes.c_size_t()
        with _c.callback(_c.LogFn, log and _log_to(log)) as log_fn:
            with _c.callback(_c.ProgressFn, progress and _progress_to(progress)) as progress_fn:
                o = _build_options(log=log_fn, progress=progress_fn, **options)
                ranges = _calibration(self, o, calib_data, calib_method, calib)
                o.calibration = ranges and ranges._as_parameter_
                try:
                    if path is not None:
                        return _c.call(c.tdn_build_file, self, o, _c.encode(path))
                    _c.call(c.tdn_build, self, o, plan, size)
                except Error as error:
                    if os.path.basename(self.source) not in str(error):
                        error.args = (f"{error}; while compiling {self.source}",)
                    raise
        return Handle(plan, c.tdn_plan_free), plan, size.value


def _log_to(log):
    levels = ("error", "warning", "info", "verbose")
    return lambda _, level, line: log(levels[level], line.decode(errors="replace"))


def _progress_to(progress):
    return lambda _, phase, n_phases, what, fraction: progress(phase, n_phases, what.decode(), fraction)


def _shape_set(shapes):
    """{"x": (1, 3, 8)} for C."""
    specs = (_c.ShapeSpec * len(shapes))()
    for spec, (name, shape) in zip(specs, shapes.items()):
        shape = tuple(map(operator.index, shape))
        spec.input, spec.rank, spec.dims = _c.encode(name), len(shape), _c.dims_of(shape, name)
    return _c.ShapeSet(specs, len(specs))


_PRECISIONS = ("fp32", "fp16", "int8", "bf16")


def _build_options(
    *, shapes=None, min_shapes=None, opt_shapes=None, max_shapes=None, states=None, targets=None, precision="fp32",
    optimization_level=3, build_budget=0, timing_cache=None, max_weights=0, threads=None, cores=None, workspace=0,
    dump=None, log, progress,
):  # fmt: skip
    if precision not in _PRECISIONS:
        raise ArgumentError(f"precision {precision!r} is not one of {', '.join(_PRECISIONS)}")
    o = _c.BuildOptions(_PRECISIONS.index(precision), optimization_level, _threads(threads))
    o.workspace, o.dump, o.log, o.progress = workspace, dump and _c.encode(dump), log, progress
    o.build_budget, o.max_weights = build_budget, max_weights
    o.cores, o.n_cores = _cores(cores)
    o.timing_cache = timing_cache and os.fsencode(timing_cache)
    names = [_c.encode(name) for name in ([targets] if isinstance(targets, str) else targets or [])]
    o.targets, o.n_targets = (ctypes.c_char_p * len(names))(*names), len(names)
    sets = [_shape_set(s) for s in ([shapes] if isinstance(shapes, dict) else shapes or [])]
    o.shapes, o.n_shapes = (_c.ShapeSet * len(sets))(*sets), len(sets)
    any_shapes = opt_shapes or max_shapes or min_shapes
    if any_shapes:
        o.max_shapes = ctypes.pointer(_shape_set(max_shapes or any_shapes))
        o.min_shapes = ctypes.pointer(_shape_set(min_shapes or any_shapes))
        o.opt_shapes = ctypes.pointer(_shape_set(opt_shapes or max_shapes or any_shapes))
    pairs = list(dict(states or {}).items())
    o.states = (_c.StateSpec * len(pairs))(*[(_c.encode(i), _c.encode(out)) for i, out in pairs])
    o.n_states = len(pairs)
    return o


def _threads(threads):
    if threads is None:
        return 0
    if not 1 <= operator.index(threads) <= 1024:
        raise ArgumentError(f"threads is {threads}, not 1 to 1024 or None for all cores")
    return threads


def _cores(cores):
    """An array for C and its length."""
    numbers = [] if cores is None else [operator.index(core) for core in cores]
    if cores is not None and not (numbers and all(0 <= n < 1 << 31 for n in numbers)):
        raise ArgumentError(f"cores is {cores!r}, not a list of cores' numbers or None")
    return (ctypes.c_int32 * len(numbers))(*numbers) if numbers else None, len(numbers)


def _source(model):
    """A path stays one, all that holds bytes becomes bytes."""
    return model if isinstance(model, (str, os.PathLike)) else bytes(memoryview(model))


def _head(source):
    if isinstance(source, bytes):
        return source[:72]
    try:
        with open(source, "rb") as file:
            return file.read(72)
    except (OSError, ValueError):
        return b""  # the engine has the words for it


def _is_plan(source):
    """A damaged plan should still be told from a model, so either of two marks will do."""
    head = _head(source)
    return head.startswith(b"tendon plan ") or head[64:] == b"\x89tdnplan"


def build(model, plan=None, **options):
    """
    Compiles an ONNX model (a path or bytes) into the file `plan`; without one, returns the plan's bytes.

    shapes              {"x": (1, 3, 8)}, or a list of such: one program each. Inputs not named keep the model's shape.
    min_shapes, opt_shapes, max_shapes   instead: a range of batches, programs for powers of two
    states              {"h_in": "h_out"}: after a run the input takes the output's value
    targets             names of CPUs, e.g. ["x86-64-v3", "x86-64-v4"]; the native one if not given
    precision, optimization_level (0..5), threads, workspace (bytes), dump     as `tendon build` takes them
    build_budget (seconds), timing_cache (a file), max_weights (a ratio)       likewise; 0: as the level says, and 2
    cores               numbers of the cores to time kernels on
    calib_data          samples for int8 and fp16: {"x": array}, as `tendon build` cuts an npz along axis 0; or an
                        iterable of such dicts, one for each call, of which copies are kept
    calib_method        for int8: "entropy" (if not given), "minmax", "percentile", "percentile=99.9"
    calib               for int8: a file of ranges, read and checked if it is there, else made from calib_data
    progress, log       called with (phase, n_phases, what, fraction), and with (level, line)
    """
    made = _Model(_source(model)).build(plan, **options)
    if made:
        owner, pointer, size = made
        return ctypes.string_at(pointer, size)


def inspect(path, shapes=None):
    """Describes a plan or a model as a dict; of a model also all that is not supported."""
    if _is_plan(path):
        return json.loads(_c.take_text(_c.create(_c.runtime.tdn_plan_describe, _c.encode(path))))
    model = _Model(_source(path))
    return json.loads(_c.take_text(_c.create(_c.compiler().tdn_model_describe, model, shapes and _shape_set(shapes))))


def reference(model, input_feed, output_names=None, *, threads=None):
    """
    Evaluates the model plainly, node by node: what plans are judged by. Returns a list of arrays; output_names may
    name any value of the model.
    """
    c, model = _c.compiler(), _Model(_source(model))
    arrays = _feed(model.inputs, input_feed)
    shapes = _shape_set({i.name: a.shape for i, a in zip(model.inputs, arrays)})
    pointer = _c.create(c.tdn_reference_create, model, shapes, _threads(threads))
    evaluation = Handle(pointer, c.tdn_reference_free, model)
    _c.call(c.tdn_reference_run, evaluation, _tensors(model.inputs, arrays), len(arrays))
    names = [o.name for o in model.outputs] if output_names is None else output_names
    return [_reference_value(evaluation, name) for name in names]


def _reference_value(evaluation, name):
    tensor = _c.Tensor()
    if _c.compiler().tdn_reference_value(evaluation, _c.encode(name), tensor):
        raise ArgumentError(f"the model has no value '{name}'")
    array = np.empty(tensor.dims[: tensor.rank], _c.numpy_dtype(tensor.dtype))
    ctypes.memmove(array.ctypes.data, tensor.data, array.nbytes)
    return array


# ---- Calibration

_METHODS = ("entropy", "minmax", "percentile")


def _method(text):
    """The number of a method, and the percentile behind a "="; 0: the usual one."""
    name, equals, percentile = text.partition("=")
    try:
        if name in _METHODS and (not equals or (name == "percentile" and 50 <= float(percentile) <= 100)):
            return _METHODS.index(name), float(percentile or 0)
    except ValueError:
        pass
    raise ArgumentError(f"calib_method {text!r} is not {', '.join(_METHODS)} or percentile=P with P from 50 to 100")


def _calibration(model, build, data, method, path):
    """The ranges of values for a build: from samples, from a file, or None."""
    precision = _PRECISIONS[build.precision]
    if precision != "int8" and (path is not None or method or (data is not None and precision != "fp16")):
        raise ArgumentError("calib, calib_data and calib_method are for precision='int8'; calib_data for fp16 too")
    o = _c.CalibrateOptions(*_method(method or ("minmax" if precision == "fp16" else "entropy")), build.n_threads)
    o.states, o.n_states, o.log, o.progress = build.states, build.n_states, build.log, build.progress
    o.data_name = b"calib_data"
    if data is None:
        return None if path is None else _read_ranges(model, o, method, path)
    inputs, shapes, calls = _samples(model, build, data)
    o.shapes, o.n_batches = ctypes.pointer(_shape_set(shapes)), len(calls)
    with _c.callback(_c.NextFn, _next_of([_tensors(inputs, arrays) for arrays in calls])) as o.next:
        if path is not None and os.path.exists(path):
            return _read_ranges(model, o, method, path)
        return _make_ranges(model, o, path)


def _next_of(batches):
    def set_inputs(_, batch, inputs, error):
        inputs[0] = batches[batch]
        return 0

    return set_inputs


def _make_ranges(model, o, path):
    c = _c.compiler()
    ranges = Handle(_c.create(c.tdn_calibrate, model, o), c.tdn_calibration_free)
    if path is not None:
        _c.call(c.tdn_calibration_save, ranges, _c.encode(path))
    return ranges


def _read_ranges(model, o, method, path):
    """If they are of this model, and of the method and the samples where those are given."""
    c, info = _c.compiler(), _c.CalibrationInfo()
    ranges = Handle(_c.create(c.tdn_calibration_load, _c.encode(path)), c.tdn_calibration_free)
    c.tdn_calibration_get_info(ranges, info)
    if not method and info.method:
        o.method, o.percentile = _method(info.method.decode())
    _c.call(c.tdn_calibration_check, ranges, model, o)
    return ranges


def _samples(model, build, data):
    """The inputs, their shapes in a call, and the arrays of each call."""
    states = [state.input.decode() for state in build.states[: build.n_states]]
    inputs = [i for i in model.inputs if i.name not in states]
    given = _first_shapes(build)
    if hasattr(data, "keys"):
        arrays = [_join_front(i, a) for i, a in zip(inputs, _feed(inputs, _without_results(model, data)))]
        shapes = {**{i.name: _call_shape(i, a) for i, a in zip(inputs, arrays)}, **given}
        return inputs, shapes, _cut(arrays, [shapes[i.name] for i in inputs], inputs)
    calls = [[a.copy() for a in _feed(inputs, feed)] for feed in data]  # one buffer may be filled again and again
    first = calls[0] if calls else []
    return inputs, {**given, **{i.name: a.shape for i, a in zip(inputs, first)}}, calls


def _first_shapes(build):
    """Those given for the first program, or for the optimum of a range."""
    sets = build.shapes if build.n_shapes else build.opt_shapes
    specs = sets[0].specs[: sets[0].n_specs] if sets else []
    return {spec.input.decode(): tuple(spec.dims[: spec.rank]) for spec in specs}


def _without_results(model, arrays):
    """A file of inputs may have outputs and labels too."""
    results = {"label", *(o.name for o in model.outputs), *(f"out{k}" for k in range(len(model.outputs)))}
    results -= {i.name for i in model.inputs}
    return {name: arrays[name] for name in arrays if name not in results}


def _join_front(i, array):
    """An axis in front of all of the input's is one of samples, too."""
    is_stacked = i.shape and array.ndim == len(i.shape) + 1 and array.size
    return array.reshape(-1, *array.shape[2:]) if is_stacked else array


def _call_shape(i, array):
    """The model's; what is open there is one sample, and along other axes as the array has it."""
    shape = [None] * array.ndim if i.shape is None else i.shape
    one = (1, *array.shape[1:])
    return tuple(d if isinstance(d, int) else one[k] if k < len(one) else 1 for k, d in enumerate(shape))


def _n_calls(array, shape):
    """How many the array is for, one behind the other along axis 0; 0: it does not fit."""
    n = array.size // max(math.prod(shape), 1)
    return n if array.shape == ((n * shape[0], *shape[1:]) if shape else ()) else 0


def _cut(arrays, shapes, inputs):
    """The arrays of each call."""
    counts = {_n_calls(array, shape) for array, shape in zip(arrays, shapes)}
    if len(counts) != 1 or 0 in counts:
        have, want = (_shapes_text(inputs, some) for some in ([a.shape for a in arrays], shapes))
        raise ShapeError(f"calib_data has {have}: no samples along axis 0 for calls with {want}")
    n = counts.pop()
    stacks = [array.reshape(n, *shape) for array, shape in zip(arrays, shapes)]
    return [[stack[k, ...] for stack in stacks] for k in range(n)]


def _shapes_text(inputs, shapes):
    return ", ".join(f"'{i.name}' as {'x'.join(map(str, s)) or 'scalar'}" for i, s in zip(inputs, shapes))


# ---- Running


def _tensors(inputs, arrays):
    tensors = [_c.make_tensor(i.code, a.shape, i.name, a.ctypes.data) for i, a in zip(inputs, arrays)]
    return (_c.Tensor * len(tensors))(*tensors)


def _feed(inputs, given):
    """The arrays of a feed in the order of the inputs, fit to be bound: the caller's own where they are contiguous."""
    missing = [i.name for i in inputs if i.name not in given]
    if missing or len(given) != len(inputs):
        unknown = [name for name in given if name not in [i.name for i in inputs]]
        what = f"no array for input '{missing[0]}'" if missing else f"there is no input '{unknown[0]}'"
        raise ArgumentError(f"{what}; the inputs are {', '.join(i.name for i in inputs) or 'none'}")
    arrays = [np.asarray(given[i.name]) for i in inputs]
    for i, array in zip(inputs, arrays):
        if array.dtype != i.dtype:
            raise DtypeError(f"'{i.name}' is {i.dtype}, not {array.dtype}: convert it with .astype")
    return [a if a.flags.c_contiguous and a.flags.aligned else np.require(a, None, ["C", "A"]) for a in arrays]


class _Engine(Handle):
    """A loaded plan."""

    def __init__(self, pointer, *keep):
        c = _c.runtime
        super().__init__(pointer, c.tdn_engine_free, *keep)
        self.inputs = self._list(c.tdn_engine_n_inputs(self), c.tdn_engine_input)
        self.outputs = self._list(c.tdn_engine_n_outputs(self), c.tdn_engine_output)

    @classmethod
    def load(cls, source, max_target=None):
        """Of a path, bytes, or (owner, pointer, size) as _Model.build returns it."""
        options = _c.EngineOptions(max_target=max_target and _c.encode(max_target))
        if isinstance(source, (str, os.PathLike)):
            return cls(_c.create(_c.runtime.tdn_engine_load, _c.encode(source), options))
        if isinstance(source, bytes):  # a plan in memory is aligned to 64 bytes
            room = np.empty(len(source) + 64, np.uint8)
            at = -room.ctypes.data % 64
            room[at : at + len(source)] = np.frombuffer(source, np.uint8)
            source = room, room.ctypes.data + at, len(source)
        owner, pointer, size = source
        return cls(_c.create(_c.runtime.tdn_engine_load_memory, pointer, size, options), owner)

    def _list(self, n, get):
        """What holds for all programs; where they differ, or the extent may be smaller, the shape has None."""
        args = []
        for i in range(n):
            infos = [self.info(get, k, i) for k in range(_c.runtime.tdn_engine_n_programs(self))]
            fixed = [{info.dims[a] for info in infos} for a in range(infos[0].rank)]
            for info in infos:
                for axis in range(info.rank):
                    if info.bounded >> axis & 1 or info.batch_axis == axis:
                        fixed[axis].add(None)
            shape = [extents.pop() if len(extents) == 1 else None for extents in fixed]
            args.append(_node_arg(infos[0].name, shape, infos[0].dtype))
        return args

    def info(self, get, program, index):
        info = _c.IoInfo()
        get(self, program, index, info)
        return info


class _Context(Handle):
    """One thread's state over an engine, and the tensors of the shapes it ran last."""

    def __init__(self, engine, pool, profile):
        options = _c.ContextOptions(pool._as_parameter_, profile)
        pointer = _c.create(_c.runtime.tdn_context_create, engine, options)
        super().__init__(pointer, _c.runtime.tdn_context_free, engine, pool)
        self.engine = engine
        self.shapes = None
        self.busy = False

    def check(self, status):
        if status:
            raise _c.failure(status, _c.runtime.tdn_context_error(self))

    def bind(self, tensors, arrays):
        for (name, tensor), array in zip(tensors, arrays):
            tensor.data = array.ctypes.data
            self.check(_c.runtime.tdn_context_bind(self, name, tensor))

    def run(self, arrays, out, tap):
        """Runs on arrays in the order of the inputs; returns all outputs."""
        if self.busy:  # by a tap or a signal's handler
            raise ArgumentError("this thread is inside of a run of this session already")
        self.busy = True
        try:
            results = self._bind_all(arrays, out)
            if tap:
                self._run_tapped(tap)
            else:
                self.check(_c.runtime.tdn_context_run(self))
        finally:
            self.busy = False
        return [self._trim(o, r) if o.bounded else r for o, r in zip(self.results, results)]

    def _run_tapped(self, tap):
        with _c.callback(_c.TapFn, _tap_to(tap)) as tap_fn:
            _c.runtime.tdn_context_set_tap(self, tap_fn, None)
            try:
                self.check(_c.runtime.tdn_context_run(self))
            finally:
                _c.runtime.tdn_context_set_tap(self, _c.TapFn(), None)

    def _bind_all(self, arrays, out):
        shapes = [array.shape for array in arrays]
        if shapes != self.shapes:
            self.shapes = None
            _c.runtime.tdn_context_unbind(self)
            self.inputs = [
                (i.name.encode(), _c.make_tensor(i.code, s, i.name)) for i, s in zip(self.engine.inputs, shapes)
            ]
        self.bind(self.inputs, arrays)
        if self.shapes is None:
            self._prepare_outputs()
            self.shapes = shapes
        results = []
        for o in self.results:
            given = o.name in out
            results.append(_checked(o, out[o.name], arrays + results) if given else np.empty(o.shape, o.dtype))
        self.bind(self.outputs, results)
        return results

    def _prepare_outputs(self):
        """The outputs' shapes in the program that the bound inputs chose."""
        program = max(_c.runtime.tdn_context_program(self), 0)
        self.results = []
        for i, output in enumerate(self.engine.outputs):
            info = self.engine.info(_c.runtime.tdn_engine_output, program, i)
            if not info.bounded:  # with the batch of the inputs
                _c.runtime.tdn_context_output_dims(self, info.name, info.dims)
            shape = tuple(info.dims[: info.rank])
            self.results.append(_Result(output.name, shape, output.dtype, bool(info.bounded)))
        self.outputs = [
            (r.name.encode(), _c.make_tensor(o.code, r.shape, r.name))
            for r, o in zip(self.results, self.engine.outputs)
        ]

    def _trim(self, output, array):
        """The part of an output that this run wrote, where its extent depends on the data."""
        dims = _c.Dims()
        _c.runtime.tdn_context_output_dims(self, output.name.encode(), dims)
        shape = dims[: len(output.shape)]
        return array.reshape(-1)[: int(np.prod(shape, dtype=np.int64))].reshape(shape)

    def steps(self):
        c, program = _c.runtime, max(_c.runtime.tdn_context_program(self), 0)
        for i in range(c.tdn_context_n_steps(self, program)):
            info = _c.StepInfo()
            c.tdn_context_step(self, program, i, info)
            fields = [name for name, _ in info._fields_[1:]]
            values = [getattr(info, name) for name in fields]
            yield {name: v.decode() if isinstance(v, bytes) else v for name, v in zip(fields, values)}


class _Result(NamedTuple):
    name: str
    shape: tuple
    dtype: np.dtype
    bounded: bool


def _checked(output, array, others):
    """The caller's array for an output, if it can be written in place."""
    if not isinstance(array, np.ndarray) or array.dtype != output.dtype:
        raise DtypeError(f"out['{output.name}'] is no array of {output.dtype}")
    if array.shape != output.shape:
        raise ShapeError(f"out['{output.name}'] has the shape {array.shape}, not {output.shape}")
    if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        raise ArgumentError(f"out['{output.name}'] is not contiguous, aligned and writeable")
    if any(np.may_share_memory(array, other) for other in others):
        raise ArgumentError(f"out['{output.name}'] lies in the memory of an input or of another output")
    return array


def _tap_to(tap):
    def copy(_, pointer):
        t = pointer.contents
        dtype = _c.numpy_dtype(t.dtype)
        dims, strides = t.dims[: t.rank], t.strides[: t.rank]
        if 0 in dims:
            return tap(t.name.decode(), np.empty(dims, dtype))
        ends = [(d - 1) * s for d, s in zip(dims, strides)]
        before, behind = sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)
        size = dtype.itemsize
        memory = (ctypes.c_char * ((behind - before + 1) * size)).from_address(t.data + before * size)
        view = np.ndarray(dims, dtype, memory, -before * size, [s * size for s in strides])
        tap(t.name.decode(), view.copy())

    return copy


class InferenceSession:
    """
    A model or plan, ready to run.

    path_or_bytes   of an ONNX file or of a plan
    threads         that share the work of a run; None: all cores
    cores           numbers of the cores that the workers stay on: worker i on cores[i], the first being the caller's,
                    whom os.sched_setaffinity(0, cores[:1]) keeps there; without `threads`, as many as cores
    profile         time each step: see profile()
    max_target      use no section of a plan above this one
    providers, sess_options   taken, for scripts that pass them to onnxruntime, and not looked at
    **options       for a model, those of tendon.build

    A plan is never built. A model is built here if its shapes are fixed or `shapes` or a range is given; otherwise for
    the shapes of the first run's inputs, again for each new set of shapes, and what was built is kept.

    Any number of threads may run one session at once: each has a context, with its own memory and its own states, from
    its first run to its end. They share the worker threads; a run that finds those busy works alone.
    """

    def __init__(
        self,
        path_or_bytes,
        sess_options=None,
        providers=None,
        *,
        threads=None,
        cores=None,
        profile=False,
        max_target=None,
        **options,
    ):
        source = _source(path_or_bytes)
        self._options = dict(options, threads=threads, cores=cores)
        self._max_target = max_target
        self._profile = bool(profile)
        self._pool = _make_pool(threads, cores)
        self._engines = {}  # shapes: engine
        self._building = threading.Lock()
        self._of_thread = threading.local()
        self._model = self._engine = None
        if _is_plan(source):
            if options:
                raise ArgumentError(f"a plan is compiled already: {', '.join(options)} is for models")
            self._engine = _Engine.load(source, max_target)
        else:
            self._model = _Model(source)
            if self._is_fixed():
                self._engine = _Engine.load(self._model.build(**self._options), max_target)
        if self._engine:
            self._inputs, self._outputs = self._engine.inputs, self._engine.outputs
        else:
            states = dict(options.get("states") or {})
            self._inputs = [i for i in self._model.inputs if i.name not in states]
            self._outputs = [o for o in self._model.outputs if o.name not in states.values()]

    def _is_fixed(self):
        if any(self._options.get(name) for name in ("shapes", "min_shapes", "opt_shapes", "max_shapes")):
            return True
        return all(i.shape is not None and all(isinstance(d, int) for d in i.shape) for i in self._model.inputs)

    def get_inputs(self):
        """NodeArgs, with .name, .shape and .type; a dimension that is not fixed is a name or None."""
        return list(self._inputs)

    def get_outputs(self):
        return list(self._outputs)

    def run(self, output_names, input_feed, run_options=None, *, out=None, tap=None):
        """
        Runs once; returns the named outputs, or all of them where output_names is None, as a list of arrays.

        input_feed  {name: array}, bound in place; an array that is not contiguous or not aligned is copied
        out         {name: array} to write outputs into; must be contiguous and as large as the output
        tap         called with (name, array) after each step, with a copy of what it wrote: slow, to look inside

        An output whose shape depends on the data is a view on an array of the largest shape.
        """
        arrays = _feed(self._inputs, input_feed)
        names = [o.name for o in self._outputs]
        for name in [*(output_names or []), *(out or {})]:
            if name not in names:
                raise ArgumentError(f"there is no output '{name}'; the outputs are {', '.join(names)}")
        results = self._context(arrays).run(arrays, out or {}, tap)
        return [results[names.index(name)] for name in (names if output_names is None else output_names)]

    def _context(self, arrays):
        engine = self._engine or self._engine_for(tuple(array.shape for array in arrays))
        mine = self._of_thread.__dict__.setdefault("contexts", {})
        context = mine.get(engine)
        if context is None:
            context = mine[engine] = _Context(engine, self._pool, self._profile)
        self._of_thread.last = context
        return context

    def _engine_for(self, shapes):
        engine = self._engines.get(shapes)
        if engine is None:
            with self._building:
                engine = self._engines.get(shapes)
                if engine is None:
                    named = {i.name: s for i, s in zip(self._inputs, shapes)}
                    plan = self._model.build(**dict(self._options, shapes=named))
                    engine = self._engines[shapes] = _Engine.load(plan, self._max_target)
        return engine

    def warm(self):
        """
        Brings what the calling thread's last run read into the caches, and wakes the workers: for calls with pauses
        between them, a millisecond or so before the next.
        """
        if context := getattr(self._of_thread, "last", None):
            _c.runtime.tdn_context_warm(context)

    def reset(self):
        """Sets the states of the calling thread back to their initial values."""
        for context in self._of_thread.__dict__.get("contexts", {}).values():
            _c.runtime.tdn_context_reset(context)

    def profile(self, reset=False):
        """
        The steps of the program that the calling thread ran last, as dicts: name, kernel, flops, bytes, n_tiles, and,
        in a session made with profile=True, n_runs, total_ns, min_ns and max_ns. Empty before the first run.
        """
        context = self._of_thread.__dict__.get("last")
        steps = list(context.steps()) if context else []
        if context and reset:
            _c.runtime.tdn_context_profile_reset(context)
        return steps


def _make_pool(threads, cores):
    c = _c.runtime
    options = _c.PoolOptions(_threads(threads), -1, None, *_cores(cores))
    return Handle(_c.create(c.tdn_pool_create, options), c.tdn_pool_free)

# SPDX-License-Identifier: Apache-2.0
"""The C interface, as ctypes sees it: libraries, structs, prototypes, statuses and who frees what.

One row for each function of tendon.h, build.h and calibrate.h that the package uses. ctypes releases the GIL for the
time of a call, and takes it back for callbacks. The compiler is opened when it is first needed: a device has the run
time only.
"""

import ctypes
import enum
import functools
import os
import weakref
from contextlib import contextmanager
from ctypes import POINTER, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np

MAX_RANK = 8
Dims = c_int64 * MAX_RANK


# ---- Errors


class Status(enum.IntEnum):
    """What kind of failure it is: tdn_status of tendon.h, where each is explained."""

    ARG = -1
    NOMEM = -2
    IO = -3
    FORMAT = -4
    MODEL = -5
    UNSUPPORTED = -6
    SHAPE = -7
    TARGET = -8
    DEVICE = -9
    CHECK = -10
    INTERNAL = -11


class Error(Exception):
    """A failure, in the engine's words; `status` is its kind. The other errors of this module derive from it."""

    status = Status.INTERNAL

    def __init__(self, text, status=None):
        super().__init__(text)
        if status is not None:
            self.status = Status(status)


class ArgumentError(Error, ValueError):
    """The call broke a rule: an unknown name, a missing input, an option out of range."""

    status = Status.ARG


class DtypeError(ArgumentError, TypeError):
    """An array has another element type than the model's input or output."""


class ShapeError(ArgumentError):
    """No program of the plan takes these shapes, or the model does not."""

    status = Status.SHAPE


class FileError(Error, OSError):
    """The system refused a file."""

    status = Status.IO


KINDS = {Status.ARG: ArgumentError, Status.SHAPE: ShapeError, Status.IO: FileError}


def failure(status, text):
    """The exception for a status. `text` as it comes from C."""
    return KINDS.get(status, Error)(text.decode(errors="replace"), status)


# ---- Structs


class ErrorText(ctypes.Structure):
    _fields_ = [("text", c_char * 2048)]


class Sized(ctypes.Structure):
    """A struct that begins with its size."""

    def __init__(self, *fields, **named):
        super().__init__(ctypes.sizeof(type(self)), *fields, **named)


class Tensor(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("memory", c_int),
        ("rank", c_int32),
        ("dims", Dims),
        ("data", c_void_p),
    ]


class PoolOptions(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_threads", c_int32),
        ("spin_us", c_int32),
        ("allocator", c_void_p),
        ("cores", POINTER(c_int32)),
        ("n_cores", c_int32),
    ]


class EngineOptions(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("allocator", c_void_p),
        ("log", c_void_p),
        ("log_user", c_void_p),
        ("max_target", c_char_p),
    ]


class IoInfo(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("name", c_char_p),
        ("dtype", c_int),
        ("rank", c_int32),
        ("dims", Dims),
        ("batch_axis", c_int32),
        ("bounded", c_uint64),
    ]


class ContextOptions(Sized):
    _fields_ = [("struct_size", c_uint32), ("pool", c_void_p), ("profile", c_int32)]


class Tap(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("name", c_char_p),
        ("step", c_int32),
        ("dtype", c_int),
        ("rank", c_int32),
        ("dims", Dims),
        ("strides", Dims),
        ("data", c_void_p),
    ]


class StepInfo(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("name", c_char_p),
        ("kernel", c_char_p),
        ("flops", c_int64),
        ("bytes", c_int64),
        ("n_tiles", c_int64),
        ("n_runs", c_uint64),
        ("total_ns", c_uint64),
        ("min_ns", c_uint64),
        ("max_ns", c_uint64),
    ]


class ModelIo(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("name", c_char_p),
        ("dtype", c_int),
        ("rank", c_int32),
        ("dims", Dims),
        ("symbols", c_char_p * MAX_RANK),
    ]


class ShapeSpec(ctypes.Structure):
    _fields_ = [("input", c_char_p), ("rank", c_int32), ("dims", Dims)]


class ShapeSet(ctypes.Structure):
    _fields_ = [("specs", POINTER(ShapeSpec)), ("n_specs", c_int32)]


class StateSpec(ctypes.Structure):
    _fields_ = [("input", c_char_p), ("output", c_char_p)]


LogFn = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
ProgressFn = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_int, c_char_p, c_double)
TapFn = ctypes.CFUNCTYPE(None, c_void_p, POINTER(Tap))
NextFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, POINTER(POINTER(Tensor)), c_void_p)


class BuildOptions(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("precision", c_int),
        ("optimization_level", c_int32),
        ("n_threads", c_int32),
        ("targets", POINTER(c_char_p)),
        ("n_targets", c_int32),
        ("shapes", POINTER(ShapeSet)),
        ("n_shapes", c_int32),
        ("min_shapes", POINTER(ShapeSet)),
        ("opt_shapes", POINTER(ShapeSet)),
        ("max_shapes", POINTER(ShapeSet)),
        ("states", POINTER(StateSpec)),
        ("n_states", c_int32),
        ("workspace", c_uint64),
        ("dump", c_char_p),
        ("flags", c_char_p),
        ("log", LogFn),
        ("log_user", c_void_p),
        ("progress", ProgressFn),
        ("progress_user", c_void_p),
        ("max_weights", c_double),
        ("build_budget", c_double),
        ("timing_cache", c_char_p),
        ("cores", POINTER(c_int32)),
        ("n_cores", c_int32),
        ("calibration", c_void_p),
        ("layer_precisions", c_void_p),
        ("n_layer_precisions", c_int32),
        ("product", c_void_p),
        ("product_user", c_void_p),
        ("accuracy", c_char_p),
    ]


class CalibrateOptions(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("method", c_int),
        ("percentile", c_double),
        ("n_threads", c_int32),
        ("shapes", POINTER(ShapeSet)),
        ("states", POINTER(StateSpec)),
        ("n_states", c_int32),
        ("operators", c_void_p),
        ("n_operators", c_int32),
        ("n_batches", c_int64),
        ("next", NextFn),
        ("next_user", c_void_p),
        ("data_name", c_char_p),
        ("origin", c_char_p),
        ("log", LogFn),
        ("log_user", c_void_p),
        ("progress", ProgressFn),
        ("progress_user", c_void_p),
    ]


class CalibrationInfo(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("origin", c_char_p),
        ("method", c_char_p),
        ("graph", c_char_p),
        ("weights", c_char_p),
        ("data", c_char_p),
        ("version", c_char_p),
        ("n_batches", c_int64),
    ]


# ---- Libraries

P, OUT, ERROR = c_void_p, POINTER(c_void_p), POINTER(ErrorText)
RUNTIME = {  # name: (result, *arguments)
    "tdn_version": (c_char_p,),
    "tdn_dtype_name": (c_char_p, c_int),
    "tdn_pool_create": (c_int, OUT, POINTER(PoolOptions), ERROR),
    "tdn_pool_free": (None, P),
    "tdn_engine_load": (c_int, OUT, c_char_p, POINTER(EngineOptions), ERROR),
    "tdn_engine_load_memory": (c_int, OUT, P, c_size_t, POINTER(EngineOptions), ERROR),
    "tdn_engine_free": (None, P),
    "tdn_engine_n_programs": (c_int, P),
    "tdn_engine_n_inputs": (c_int, P),
    "tdn_engine_n_outputs": (c_int, P),
    "tdn_engine_input": (c_int, P, c_int, c_int, POINTER(IoInfo)),
    "tdn_engine_output": (c_int, P, c_int, c_int, POINTER(IoInfo)),
    "tdn_context_create": (c_int, OUT, P, POINTER(ContextOptions), ERROR),
    "tdn_context_free": (None, P),
    "tdn_context_bind": (c_int, P, c_char_p, POINTER(Tensor)),
    "tdn_context_unbind": (None, P),
    "tdn_context_run": (c_int, P),
    "tdn_context_warm": (None, P),
    "tdn_context_output_dims": (c_int, P, c_char_p, Dims),
    "tdn_context_reset": (None, P),
    "tdn_context_program": (c_int, P),
    "tdn_context_error": (c_char_p, P),
    "tdn_context_set_tap": (None, P, TapFn, P),
    "tdn_context_n_steps": (c_int, P, c_int),
    "tdn_context_step": (c_int, P, c_int, c_int, POINTER(StepInfo)),
    "tdn_context_profile_reset": (None, P),
    "tdn_plan_describe": (c_int, OUT, c_char_p, ERROR),
    "tdn_text_free": (None, P),
}
COMPILER = {
    "tdn_model_load": (c_int, OUT, c_char_p, P, ERROR),
    "tdn_model_load_memory": (c_int, OUT, P, c_size_t, c_char_p, P, ERROR),
    "tdn_model_free": (None, P),
    "tdn_model_n_inputs": (c_int, P),
    "tdn_model_n_outputs": (c_int, P),
    "tdn_model_input": (c_int, P, c_int, POINTER(ModelIo)),
    "tdn_model_output": (c_int, P, c_int, POINTER(ModelIo)),
    "tdn_build": (c_int, P, POINTER(BuildOptions), OUT, POINTER(c_size_t), ERROR),
    "tdn_plan_free": (None, P),
    "tdn_build_file": (c_int, P, POINTER(BuildOptions), c_char_p, ERROR),
    "tdn_model_describe": (c_int, OUT, P, POINTER(ShapeSet), ERROR),
    "tdn_reference_create": (c_int, OUT, P, POINTER(ShapeSet), c_int, ERROR),
    "tdn_reference_free": (None, P),
    "tdn_reference_run": (c_int, P, POINTER(Tensor), c_int, ERROR),
    "tdn_reference_value": (c_int, P, c_char_p, POINTER(Tensor)),
    "tdn_calibrate": (c_int, OUT, P, POINTER(CalibrateOptions), ERROR),
    "tdn_calibration_check": (c_int, P, P, POINTER(CalibrateOptions), ERROR),
    "tdn_calibration_free": (None, P),
    "tdn_calibration_get_info": (c_int, P, POINTER(CalibrationInfo)),
    "tdn_calibration_load": (c_int, OUT, c_char_p, ERROR),
    "tdn_calibration_save": (c_int, P, c_char_p, ERROR),
}


def find_library(name):
    """What to hand to the loader: a file where we know of one, else a name for the system to look up."""
    given = os.environ.get("TENDON_LIBRARY_PATH")
    here = Path(__file__).resolve().parent
    folders = given.split(os.pathsep) if given else [here, here.parents[1] / "build"]
    for folder in map(Path, folders):
        for file in (folder / f"lib{name}.so", folder / f"lib{name}.so.0"):
            if file.exists():
                return str(file)
    if given:
        raise ImportError(f"TENDON_LIBRARY_PATH is {given}, but there is no lib{name}.so")
    return f"lib{name}.so.0"


def open_library(name, prototypes):
    path = find_library(name)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"{error}: set TENDON_LIBRARY_PATH to the folder of lib{name}.so") from None
    for function, (result, *arguments) in prototypes.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


runtime = open_library("tendon", RUNTIME)


@functools.cache
def compiler():
    return open_library("tendon-build", COMPILER)


# ---- Calls


def call(function, *arguments):
    """Calls a function whose last argument is a tdn_error."""
    error = ErrorText()
    status = function(*arguments, ctypes.byref(error))
    if status:
        raise failure(status, error.text)


def create(function, *arguments):
    """Calls a function that stores what it creates by its first argument."""
    made = c_void_p()
    call(function, ctypes.byref(made), *arguments)
    return made


def take_text(text):
    """The Python string of a text that is ours to free."""
    try:
        return ctypes.string_at(text).decode()
    finally:
        runtime.tdn_text_free(text)


class Life:
    """Ends when the last Handle that counts on it has ended."""


class Handle:
    """
    Owns a C object and passes as its pointer. What is in `keep` is freed later than it, also where both are garbage of
    one cycle, whose destructors run in any order: the registry of finalizers holds the lives in `keep` until ours has
    run. At exit nothing is freed, for other threads may still be running.
    """

    def __init__(self, pointer, free, *keep):
        self._as_parameter_ = pointer
        self.life = Life()
        lives = [other.life if isinstance(other, Handle) else other for other in keep]
        weakref.finalize(self.life, _free, free, pointer, lives).atexit = False


def _free(free, pointer, lives):
    free(pointer)


@contextmanager
def callback(prototype, function):
    """A C function that calls `function`; what that raises first is raised when the C call is over, failed or not."""
    raised = []

    def guarded(*arguments):
        if not raised:
            try:
                return function(*arguments)
            except BaseException as error:
                raised.append(error)
        return Status.INTERNAL  # where C looks at it, that ends the call

    try:
        yield prototype(guarded) if function else prototype()
    finally:
        if raised:
            raise raised[0]


def encode(text):
    """A path or a name for C, which would cut it at a zero byte."""
    data = os.fsencode(text)
    if b"\0" in data:
        raise ArgumentError(f"zero byte in {text!r}")
    return data


# ---- Element types

ORT_NAMES = {"float32": "float", "float64": "double"}  # all others as numpy says
CODES = {
    np.dtype(name): code
    for code, name in {
        1: "float32", 2: "float16", 4: "float64", 5: "int8", 6: "uint8", 7: "int16", 8: "uint16", 9: "int32",
        10: "uint32", 11: "int64", 12: "uint64", 13: "bool",
    }.items()
}  # fmt: skip
DTYPES = {code: dtype for dtype, code in CODES.items()}
BFLOAT16 = 3


def dtype_name(code):
    return runtime.tdn_dtype_name(code).decode()


def numpy_dtype(code):
    if code == BFLOAT16 and code not in DTYPES:
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            raise DtypeError("numpy alone has no bfloat16: install ml_dtypes") from None
        DTYPES[code] = np.dtype(bfloat16)
    if code not in DTYPES:
        raise DtypeError(f"numpy has no {dtype_name(code)}")
    return DTYPES[code]


def dims_of(shape, name):
    if len(shape) > MAX_RANK:
        raise ShapeError(f"'{name}': rank {len(shape)} is not in 0..{MAX_RANK}")
    return Dims(*shape)


def make_tensor(code, shape, name, data=None):
    return Tensor(code, 0, len(shape), dims_of(shape, name), data)

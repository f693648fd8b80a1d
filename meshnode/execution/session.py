"""One model in ONNX Runtime: load it, describe it, run it on tensors of every type. Runs in the worker only.

Element types that numpy knows natively go straight through `run`. For the others (bfloat16, float8, 4-bit, …) tensors
are built and read as raw bytes, since ONNX Runtime's Python side has no numpy type for them; 4-bit types are packed
two to a byte there.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from meshnode.errors import ExecutionFailed, InvalidInput, MeshError, ModelRefused, OutOfMemory
from meshnode.execution.accelerators import known
from meshnode.execution.control import TensorInfo
from meshnode.execution.graphs import WORTH_BYTES_S, WORTH_S, Graphs, path_of
from meshnode.execution.precision import widest
from meshnode.execution.rules import CPU
from meshnode.execution.shelf import ENTRY_BYTES_MAX
from meshnode.wire.tensors import DTYPES, STRING, Array, word_of

_TENSOR = re.compile(r"tensor\((\w+)\)")
_ELEMENT = {
    "float": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    STRING: 8,
    "bool": 9,
    "float16": 10,
    "double": 11,
    "uint32": 12,
    "uint64": 13,
    "complex64": 14,
    "complex128": 15,
    "bfloat16": 16,
    "float8e4m3fn": 17,
    "float8e4m3fnuz": 18,
    "float8e5m2": 19,
    "float8e5m2fnuz": 20,
    "uint4": 21,
    "int4": 22,
    "float4e2m1": 23,
    "float8e8m0": 24,
    "uint2": 25,
    "int2": 26,
}
"""ONNX's numbers of the element types (TensorProto.DataType)."""
_WORD = {number: word for word, number in _ELEMENT.items()}
_PER_BYTE = {"uint4": 2, "int4": 2, "float4e2m1": 2, "uint2": 4, "int2": 4}
_NATIVE = frozenset(
    word for word, dtype in DTYPES.items() if dtype.kind in "fiubc" and dtype.type.__module__ == "numpy"
) | {STRING}
_CPU = native.OrtDevice(0, 0, 0)


class Session:
    """A loaded model. Raises ModelRefused when ONNX Runtime will not have it, OutOfMemory when it does not fit."""

    def __init__(
        self, path: Path, provider: str, threads: int, *, graphs: Graphs | None = None, digest: str = ""
    ) -> None:
        if graphs is None or provider != CPU or not digest:
            self._session = _open(path, provider, threads)
        else:
            self._session = _from_graphs(path, threads, graphs, digest)
        self._session.disable_fallback()
        if self._session.get_providers()[0] != provider:
            raise ModelRefused(f"{provider} did not take the model; ONNX Runtime fell back to the CPU")
        self.inputs = tuple(map(_info, self._session.get_inputs()))
        self.outputs = tuple(map(_info, self._session.get_outputs()))
        self._required = {info.name: info for info in self.inputs}
        self._accepted = self._required | {
            info.name: info for info in map(_info, self._session.get_overridable_initializers())
        }
        self._declared = {info.name: info for info in self.outputs}
        self._plain = all(info.dtype in _NATIVE for info in (*self._accepted.values(), *self.outputs))
        self.precision = widest([info.dtype for info in self._accepted.values()], path)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], options: ort.RunOptions) -> dict[str, Array]:
        """Run on named arrays; all outputs when none are named.

        Raises InvalidInput (naming the tensor), ExecutionFailed, OutOfMemory, and DeadlineExceeded's cause as
        ExecutionFailed with "terminate" in it when the run was stopped.
        """
        self._check(inputs)
        wanted = self._wanted(outputs)
        try:
            if self._plain:
                results = self._session.run(wanted, dict(inputs), options)
            else:
                feed = {name: _value(array, self._accepted[name].dtype) for name, array in inputs.items()}
                results = [_array(v) for v in self._session.run_with_ort_values(wanted, feed, options)]
        except MeshError:
            raise
        except Exception as error:
            raise _run_error(error) from error
        arrays: dict[str, Array] = {}
        for name, result in zip(wanted, results, strict=True):
            if not isinstance(result, np.ndarray):
                raise InvalidInput(f"output {name!r} is a {type(result).__name__}, and only tensors can be carried")
            arrays[name] = result
        return arrays

    def zeros(self) -> dict[str, Array]:
        """Inputs of zeros, symbolic dims 1. Raises InvalidInput when an input is no tensor."""
        arrays: dict[str, Array] = {}
        for info in self.inputs:
            _check_carried("input", info)
            shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
            is_text = info.dtype == STRING
            arrays[info.name] = np.full(shape, "", object) if is_text else np.zeros(shape, DTYPES[info.dtype])
        return arrays

    def tensor_outputs(self) -> list[str]:
        """Names of the outputs that can be carried."""
        return [info.name for info in self.outputs if info.dtype in _ELEMENT]

    def _wanted(self, outputs: Sequence[str]) -> list[str]:
        for name in outputs:
            if name not in self._declared:
                raise InvalidInput(f"the model has no output {name!r}", hint=f"it has {_names(self._declared)}")
        wanted = list(outputs) or [info.name for info in self.outputs]
        for name in wanted:
            _check_carried("output", self._declared[name])
        return wanted

    def _check(self, inputs: Mapping[str, Array]) -> None:
        for name in inputs:
            if name not in self._accepted:
                raise InvalidInput(f"the model has no input {name!r}", hint=f"it has {_names(self._required)}")
        for name, info in self._required.items():
            _check_carried("input", info)
            if name not in inputs:
                raise InvalidInput(f"input {name!r} is missing", hint=f"it is {describe(info)}")
        for name, array in inputs.items():
            info = self._accepted[name]
            word = word_of(array.dtype)
            if word != info.dtype:
                raise InvalidInput(
                    f"input {name!r} is {word or array.dtype}, and the model wants {describe(info)}",
                    hint=f"convert it to {info.dtype}"
                    + (f": array.astype({cast!r})" if (cast := _numpy(info)) else ""),
                )
            fits = len(array.shape) == len(info.shape) and all(
                not isinstance(dim, int) or dim == size for dim, size in zip(info.shape, array.shape, strict=True)
            )
            # A model that declares no dims at all says nothing about its rank.
            if not fits and (info.shape or not info.name):
                raise InvalidInput(
                    f"input {name!r} has shape {_shape(array.shape)}, and the model wants {describe(info)}",
                    hint=f"reshape it to {len(info.shape)} dimensions; a dimension with a name takes any size",
                )


def describe(info: TensorInfo) -> str:
    """`float [batch, 1, 8, 8]`."""
    return f"{info.dtype} [{', '.join('?' if dim is None else str(dim) for dim in info.shape)}]"


def _numpy(info: TensorInfo) -> str:
    """What numpy calls an element type that it has itself."""
    return DTYPES[info.dtype].name if info.dtype in _NATIVE and info.dtype != STRING else ""


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _names(infos: Mapping[str, TensorInfo]) -> str:
    return ", ".join(f"{name} ({describe(info)})" for name, info in list(infos.items())[:16]) or "none"


def _open(model: Path | bytes, provider: str, threads: int, **more: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in more.items():
        setattr(options, name, value)
    try:
        source = str(model) if isinstance(model, Path) else model
        beside = [] if provider == CPU else [CPU]
        return ort.InferenceSession(source, options, providers=[*with_options(provider), *beside])
    except Exception as error:
        raise _load_error(error, provider) from error


def with_options(provider: str) -> list[Any]:
    """The provider as ONNX Runtime hears of it."""
    options = known(provider).options
    return [(provider, options) if options else provider]


def _from_graphs(path: Path, threads: int, graphs: Graphs, digest: str) -> ort.InferenceSession:
    """As it was optimised before; or from the file, and offered for the next time when that took long."""
    if (kept := graphs.find(digest)) is not None:
        with suppress(MeshError):
            session = _open(kept, CPU, threads, graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
            graphs.tell(digest, None)
            return session
    draft = graphs.draft() if _may_be_kept(path) else None
    if draft is None:
        return _open(path, CPU, threads)
    try:
        began = time.thread_time()
        try:
            session = _open(path, CPU, threads, optimized_model_filepath=path_of(draft))
        except MeshError:
            return _open(path, CPU, threads)  # the fault may be that of the writing
        if time.thread_time() - began > WORTH_S + path.stat().st_size / WORTH_BYTES_S:
            graphs.tell(digest, draft)
        return session
    finally:
        os.close(draft)


def _may_be_kept(path: Path) -> bool:
    """Not too large, and all in one file: what lies beside it is found by its place."""
    try:
        return path.stat().st_size <= ENTRY_BYTES_MAX and sum(1 for _ in path.parent.iterdir()) == 1
    except OSError:
        return False


def _info(node: Any) -> TensorInfo:
    match = _TENSOR.fullmatch(node.type)
    dtype = match[1] if match else node.type
    shape = tuple(dim if isinstance(dim, (int, str)) else None for dim in (node.shape or ()))
    return TensorInfo(node.name, dtype, shape)


def _check_carried(what: str, info: TensorInfo) -> None:
    if info.dtype not in _ELEMENT:
        hint = "name the outputs that are tensors, with outputs=" if what == "output" else "only tensors can be sent"
        raise InvalidInput(f"{what} {info.name!r} is {info.dtype}, and only tensors can be carried", hint=hint)


def _value(array: Array, word: str) -> ort.OrtValue:
    """An array as ONNX Runtime's own value, whatever its type."""
    if word in _NATIVE:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    value = native.OrtValue.ortvalue_from_shape_and_onnx_type(list(array.shape), _ELEMENT[word], _CPU)
    data = _packed(np.ascontiguousarray(array), _PER_BYTE.get(word, 1))
    if len(data):
        ctypes.memmove(value.data_ptr(), data, len(data))
    return ort.OrtValue(value)


def _array(value: ort.OrtValue) -> Any:
    """ONNX Runtime's value as an array."""
    if not value.is_tensor():
        return value
    word = _WORD[value.element_type()]
    if word in _NATIVE:
        return value.numpy()
    shape = value.shape()
    dtype = DTYPES[word]
    count = int(np.prod(shape, dtype=np.int64))
    per_byte = _PER_BYTE.get(word, 1)
    nbytes = -(-count // per_byte) if per_byte > 1 else count * dtype.itemsize
    data = np.frombuffer(ctypes.string_at(value.data_ptr(), nbytes) if nbytes else b"", np.uint8)
    raw = _unpacked(data, count, per_byte) if per_byte > 1 else data
    return raw.view(dtype).reshape(shape)


def _packed(array: Array, per_byte: int) -> bytes:
    """Several small elements to a byte, the first in the lowest bits."""
    raw = array.reshape(-1).view(np.uint8)
    if per_byte == 1:
        return raw.tobytes()
    bits = 8 // per_byte
    padded = np.zeros(-(-len(raw) // per_byte) * per_byte, np.uint8)
    padded[: len(raw)] = raw & ((1 << bits) - 1)
    packed = np.zeros(len(padded) // per_byte, np.uint8)
    for i in range(per_byte):
        packed |= padded[i::per_byte] << (bits * i)
    return packed.tobytes()


def _unpacked(data: Array, count: int, per_byte: int) -> Array:
    bits = 8 // per_byte
    raw = np.empty(len(data) * per_byte, np.uint8)
    for i in range(per_byte):
        raw[i::per_byte] = (data >> (bits * i)) & ((1 << bits) - 1)
    return raw[:count]


def _load_error(error: Exception, provider: str) -> MeshError:
    text = _clean(error)
    if _is_memory(error, text):
        return OutOfMemory(f"the model does not fit into this worker's memory: {text}")
    where = "" if provider == CPU else f" on {provider}"
    return ModelRefused(f"ONNX Runtime {ort.__version__} refuses the model{where}: {text}")


def _run_error(error: Exception) -> MeshError:
    text = _clean(error)
    if _is_memory(error, text):
        return OutOfMemory(f"the run needs more memory than this worker has: {text}")
    if isinstance(error, native.InvalidArgument):
        return InvalidInput(f"the model refuses this input: {text}")
    return ExecutionFailed(f"the model failed: {text}")


def _is_memory(error: Exception, text: str) -> bool:
    signs = ("bad_alloc", "bad allocation", "ailed to allocate", "out of memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _clean(error: Exception) -> str:
    """ONNX Runtime's message without its prefix and its source paths, at most 500 characters."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"(?:/[\w.+-]+)+/(onnxruntime/)", r"\1", text)
    return " ".join(text.split())[:500]


def first_runs(session: Session, inputs: Mapping[str, Array], outputs: Sequence[str], limit_s: float) -> float:
    """Seconds of a second run, when what was made for the first one is there.

    Raises what `run` raises, and ModelRefused when both take longer than `limit_s` together.
    """
    options = ort.RunOptions()
    ended = threading.Timer(limit_s, setattr, (options, "terminate", True))
    ended.start()
    try:
        session.run(inputs, outputs, options)
        began = time.perf_counter()
        session.run(inputs, outputs, options)
        return time.perf_counter() - began
    except ExecutionFailed as error:
        if options.terminate:
            raise took_too_long(limit_s) from error
        raise
    finally:
        ended.cancel()


def took_too_long(limit_s: float) -> ModelRefused:
    """A model whose first run does not end."""
    return ModelRefused(
        f"the model's first run, on zeros, did not end within {limit_s:g} s",
        hint="a model that needs longer is allowed it with probe_timeout_s under [execution] in config.toml",
    )

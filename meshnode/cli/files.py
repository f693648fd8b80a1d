"""Files as a model's inputs, and outputs as files: .npy, .npz, .json, .png and .jpg."""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meshnode.edge.pictures import Tensor, image_array
from meshnode.errors import InvalidInput
from meshnode.wire.tensors import DTYPES, STRING, Array

IMAGES = (".png", ".jpg", ".jpeg")
FLOATS = frozenset(word for word in DTYPES if "float" in word or word == "double")
NOT_NUMBERS: Mapping[Any, Any] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers; they are written as these strings, and read."""
OUTPUTS = (".npy", ".npz", ".json")


def read_inputs(model: Mapping[str, Any], file: str | None, named: Mapping[str, str]) -> dict[str, Array]:
    """The inputs of a model from one file, from a file for each, or both. Raises InvalidInput."""
    tensors = {tensor["name"]: tensor for tensor in model["inputs"]}
    inputs: dict[str, Array] = {}
    if file is not None:
        inputs |= _read_main(model, tensors, file)
    for name, path in named.items():
        if name not in tensors:
            raise InvalidInput(f"the model has no input {name!r}", hint=f"it has {', '.join(tensors)}")
        inputs[name] = _read_one(model, tensors[name], path)
    return inputs


def _read_main(model: Mapping[str, Any], tensors: Mapping[str, Tensor], file: str) -> dict[str, Array]:
    data, suffix = _load(file)
    if suffix == ".npz":
        arrays = _npz(data, file)
        return {name: _unpacked(array, tensors[name]) if name in tensors else array for name, array in arrays.items()}
    if suffix == ".json":
        value = _json(data, file)
        if isinstance(value, dict):
            unknown = set(value) - set(tensors)
            if unknown:
                raise InvalidInput(
                    f"{file}: the model has no input {min(unknown)!r}", hint=f"it has {', '.join(tensors)}"
                )
            return {name: _from_json(value[name], tensors[name], file) for name in value}
    if len(tensors) != 1:
        raise InvalidInput(
            f"the model has {len(tensors)} inputs, and {file} is one",
            hint="name each: -i " + " -i ".join(f"{n}=FILE" for n in tensors),
        )
    (tensor,) = tensors.values()
    return {tensor["name"]: _decode(model, tensor, data, suffix, file)}


def _read_one(model: Mapping[str, Any], tensor: Tensor, file: str) -> Array:
    data, suffix = _load(file)
    if suffix == ".npz":
        arrays = _npz(data, file)
        if len(arrays) != 1:
            raise InvalidInput(f"{file} holds {len(arrays)} arrays, and input {tensor['name']!r} is one")
        return _unpacked(next(iter(arrays.values())), tensor)
    return _decode(model, tensor, data, suffix, file)


def _load(file: str) -> tuple[bytes, str]:
    """The bytes and what they are; standard input is told apart by its first bytes."""
    if file == "-":
        data = sys.stdin.buffer.read()
        for magic, suffix in ((b"\x93NUMPY", ".npy"), (b"PK", ".npz"), (b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg")):
            if data.startswith(magic):
                return data, suffix
        return data, ".json"
    path = Path(file)
    try:
        return path.read_bytes(), path.suffix.lower()
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from error


def _decode(model: Mapping[str, Any], tensor: Tensor, data: bytes, suffix: str, file: str) -> Array:
    if suffix == ".npy":
        try:
            array: Array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, OSError, EOFError, MemoryError) as error:
            raise InvalidInput(f"{file} is not a .npy file that can be read: {error}") from error
        return _unpacked(array, tensor)
    if suffix == ".json":
        return _from_json(_json(data, file), tensor, file)
    if suffix in IMAGES:
        return image_array(data, tensor, model.get("metadata", {}), file)
    raise InvalidInput(f"{file}: {suffix or 'no ending'} is not read", hint="give .npy, .npz, .json, .png or .jpg")


def _unpacked(array: Array, tensor: Tensor) -> Array:
    """Types that numpy's files do not know (bfloat16, 4-bit, 8-bit floats) lie in them as floats, exactly."""
    wanted = DTYPES.get(tensor["dtype"])
    if wanted is None or not _is_foreign(wanted) or array.dtype != np.float32:
        return array
    cast = array.astype(wanted)
    return cast if np.array_equal(cast.astype(np.float32), array, equal_nan=True) else array


def _is_foreign(dtype: np.dtype[Any]) -> bool:
    return dtype.type.__module__ != "numpy"


def _npz(data: bytes, file: str) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{file} is not a .npz file that can be read: {error}") from error


def _json(data: bytes, file: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file} is not JSON: {error}") from error


def _from_json(value: Any, tensor: Tensor, file: str) -> Array:
    """Nested lists as the input's type. A value that the type cannot hold is refused; decimals are rounded to it."""
    name, word = tensor["name"], tensor["dtype"]
    wanted = DTYPES.get(word)
    if word != STRING and (wanted is None or wanted.kind == "c"):
        raise InvalidInput(f"{file}: input {name!r} is {word}, which JSON cannot give", hint="give it as .npy")
    given = np.array(value, object)
    flat = list(given.ravel())
    if word in FLOATS:
        flat = [NOT_NUMBERS.get(item, item) if isinstance(item, str) else item for item in flat]
    if any(isinstance(item, list) for item in flat):
        raise InvalidInput(f"{file}: input {name!r}: the lists are not of one length each")
    kinds = (str,) if word == STRING else (bool,) if word == "bool" else (int, float)
    for item in flat:
        if not isinstance(item, kinds) or (isinstance(item, bool) and word != "bool"):
            raise InvalidInput(f"{file}: input {name!r} wants {_called(word)}, not {item!r}")
    if wanted is None:
        return given
    with np.errstate(all="ignore"):
        try:
            array = np.array(flat, np.float64 if word in FLOATS else object).astype(wanted)
        except (OverflowError, ValueError, TypeError) as error:
            raise InvalidInput(f"{file}: input {name!r} is {word}, which cannot hold these values: {error}") from error
    for item, held in zip(flat, map(float, array) if _is_foreign(wanted) else array.tolist(), strict=True):
        if not _holds(held, item):
            raise InvalidInput(f"{file}: input {name!r} is {word}, which cannot hold {item!r}")
    return array.reshape(given.shape)


def _holds(held: Any, item: Any) -> bool:
    """Whether a type kept a value: whole numbers and infinities exactly, other numbers as near as it can."""
    if not isinstance(item, float) or not isinstance(held, float) or math.isinf(item):
        return bool(held == item)
    return math.isnan(held) if math.isnan(item) else math.isfinite(held)


def _called(word: str) -> str:
    return {STRING: "strings", "bool": "true or false"}.get(word, "numbers")


def check_writable(path: Path) -> None:
    """Before anything is run: an ending that is known, in a folder that is there. Raises InvalidInput."""
    if path.suffix.lower() not in OUTPUTS:
        raise InvalidInput(f"{path}: outputs are written as .npy, .npz or .json")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path} cannot be written: no folder {path.parent}")


def check_holds(path: Path, outputs: int) -> None:
    """Whether the file can hold so many outputs. Raises InvalidInput."""
    if path.suffix.lower() == ".npy" and outputs != 1:
        raise InvalidInput(f"the model has {outputs} outputs, and .npy holds one", hint="write .npz or .json")


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Outputs as .npz, .json, or, when there is one, .npy. Raises InvalidInput."""
    check_writable(path)
    check_holds(path, len(outputs))
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            _write_npz(path, outputs)
        elif suffix == ".json":
            path.write_text(json.dumps({name: to_json(array) for name, array in outputs.items()}, allow_nan=False))
        else:
            np.save(path, _savable(next(iter(outputs.values()))), allow_pickle=False)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from error


def _write_npz(path: Path, outputs: Mapping[str, Array]) -> None:
    """An archive as `numpy.savez` makes it, which cannot hold an array called "file"."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(_savable(array)), allow_pickle=False)


def _savable(array: Array) -> Array:
    """Without pickles: strings as numpy's own, types that numpy does not know as floats, which hold them exactly."""
    if array.dtype == object:
        if any(str(item).endswith("\0") for item in array.ravel()):
            raise InvalidInput("numpy's files drop the NULs at the end of strings", hint="write the outputs as .json")
        return array.astype(str)
    return array.astype(np.float32) if _is_foreign(array.dtype) else array


def to_json(array: Array) -> Any:
    """Nested lists; NaN and infinities as the strings that are read back; a complex number as [real, imaginary]."""
    if array.dtype.kind == "c":
        return to_json(np.stack([array.real, array.imag], -1))
    wide = array.astype(np.float64) if _is_foreign(array.dtype) else array
    if wide.dtype.kind != "f" or np.isfinite(wide).all():
        return wide.tolist()
    flat = np.empty(wide.size, object)
    for i, value in enumerate(wide.reshape(-1).tolist()):
        flat[i] = value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    return flat.reshape(wide.shape).tolist()

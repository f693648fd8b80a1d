"""Whether tasks of a model may run as one: proven by running it, in the worker.

By its declaration, every input and output has a leading dimension without a fixed size, all with one name or all
without. By its deeds, rows that were run together come out as they do apart: that catches what reduces over the batch,
reshapes it to a fixed size, or drops rows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from meshnode.errors import MeshError
from meshnode.execution.control import TensorInfo
from meshnode.execution.session import Session
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import DTYPES, Array

SEED = 7
RELATIVE = {"double": 1e-9, "complex128": 1e-9, "float": 1e-4, "complex64": 1e-4, "float16": 8e-3, "bfloat16": 6e-2}
"""What rounding in another order may change, of the largest number at that place in any row; the narrow types have
eight times the distance between neighbouring numbers. Whole numbers and booleans are the same."""
FLOOR = 0.01
"""The same share of that again, of the largest number of the whole output: places where all rows are near zero."""
ROWS = (1, 2)
"""Of the two tasks that are tried: different, so that a model for a fixed size is found out."""
_WORDS = frozenset(word for word, dtype in DTYPES.items() if dtype.type.__module__ == "numpy") | {"bfloat16"}


def why_not_together(session: Session, inputs: Sequence[TensorSpec], limit_s: float) -> str:
    """Why tasks with inputs like these may not run as one, or ""."""
    if reason := _declared(session.inputs, session.outputs, inputs):
        return reason
    options = ort.RunOptions()
    ended = threading.Timer(limit_s, setattr, (options, "terminate", True))
    ended.start()
    try:
        return _tried(session, inputs, options)
    except MeshError as error:
        return f"it was not proven within {limit_s:g} s" if options.terminate else f"random inputs: {error}"
    finally:
        ended.cancel()


def _declared(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], given: Sequence[TensorSpec]) -> str:
    leading: set[int | str | None] = set()
    for info in (*inputs, *outputs):
        if info.dtype not in _WORDS:
            return f"{info.name!r} is {info.dtype}"
        if not info.shape or isinstance(info.shape[0], int):
            return f"{info.name!r} has no leading dimension of any size"
        leading.add(info.shape[0])
    if len(leading) > 1:
        return f"the leading dimensions have different names: {', '.join(sorted(map(str, leading)))}"
    if {info.name for info in inputs} != {spec.name for spec in given}:
        return "not only its declared inputs are given"
    return ""


def _tried(session: Session, inputs: Sequence[TensorSpec], options: ort.RunOptions) -> str:
    rng = np.random.default_rng(SEED)
    for positive in (False, True):
        tasks = [
            {spec.name: random_like(rng, spec.dtype, (rows, *spec.shape[1:]), positive=positive) for spec in inputs}
            for rows in ROWS
        ]
        together = {spec.name: np.concatenate([task[spec.name] for task in tasks]) for spec in inputs}
        apart = [session.run(task, (), options) for task in tasks]
        words = {info.name: info.dtype for info in session.outputs}
        for name, joined in session.run(together, (), options).items():
            if reason := _differs(name, words[name], [answer[name] for answer in apart], joined):
                return reason
    return ""


def random_like(rng: np.random.Generator, word: str, shape: tuple[int, ...], *, positive: bool) -> Array:
    """Numbers that most models take: around zero, or from 0 to 1; small whole ones, which are also good indices."""
    dtype = DTYPES[word]
    if word == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(1, 3, shape).astype(dtype)
    return (rng.random(shape) if positive else rng.standard_normal(shape)).astype(dtype)


def _differs(name: str, word: str, apart: Sequence[Array], joined: Array) -> str:
    for rows, answer in zip(ROWS, apart, strict=True):
        if answer.shape[:1] != (rows,):
            return f"output {name!r} of {rows} rows has shape {list(answer.shape)}"
    if joined.shape[:1] != (sum(ROWS),) or len({array.shape[1:] for array in (*apart, joined)}) > 1:
        return f"output {name!r} of {sum(ROWS)} rows has shape {list(joined.shape)}"
    expected, got = (a.astype(np.complex128) for a in (np.concatenate(apart), joined))
    if not np.array_equal(np.isfinite(expected), np.isfinite(got)):
        return f"output {name!r} is not the same for rows together as apart"
    finite = np.isfinite(expected)
    expected, got = np.where(finite, expected, 0), np.where(finite, got, 0)
    size, error = np.abs(expected), np.abs(expected - got)
    allowed = RELATIVE.get(word, 0.0) * (size.max(axis=0) + FLOOR * size.max(initial=0.0))
    if (error > allowed).any():
        return f"output {name!r} differs by {error.max():.3g} between rows together and apart"
    return ""

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
RELATIVE = 1e-4
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
    tasks = [{spec.name: _random(rng, spec.dtype, (rows, *spec.shape[1:])) for spec in inputs} for rows in ROWS]
    together = {spec.name: np.concatenate([task[spec.name] for task in tasks]) for spec in inputs}
    apart = [session.run(task, (), options) for task in tasks]
    for name, joined in session.run(together, (), options).items():
        if reason := _differs(name, [answer[name] for answer in apart], joined):
            return reason
    return ""


def _random(rng: np.random.Generator, word: str, shape: tuple[int, ...]) -> Array:
    """Numbers that most models take: around zero; small positive whole ones, which are also good indices."""
    dtype = DTYPES[word]
    if word == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(1, 3, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _differs(name: str, apart: Sequence[Array], joined: Array) -> str:
    for rows, answer in zip(ROWS, apart, strict=True):
        if answer.shape[:1] != (rows,):
            return f"output {name!r} of {rows} rows has shape {list(answer.shape)}"
    if joined.shape[:1] != (sum(ROWS),) or len({array.shape[1:] for array in (*apart, joined)}) > 1:
        return f"output {name!r} of {sum(ROWS)} rows has shape {list(joined.shape)}"
    expected, got = (a.astype(np.complex128) for a in (np.concatenate(apart), joined))
    if not np.array_equal(np.isfinite(expected), np.isfinite(got)):
        return f"output {name!r} is not the same for rows together as apart"
    finite = np.isfinite(expected)
    expected, got = expected[finite], got[finite]
    scale = float(np.abs(expected).max(initial=0.0))
    whole = apart[0].dtype.kind in "iub"
    error = float(np.abs(expected - got).max(initial=0.0))
    if error > (0.0 if whole else RELATIVE * scale):
        return f"output {name!r} differs by {error:.3g} between rows together and apart"
    return ""

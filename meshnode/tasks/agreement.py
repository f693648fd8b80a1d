"""Whether two nodes gave the same result: the same bits from the same provider, nearly the same numbers from two."""

from __future__ import annotations

import asyncio

import numpy as np

from meshnode.errors import ProtocolError
from meshnode.tasks.checksum import ALOOF_BYTES
from meshnode.tasks.pursuit import Outcome
from meshnode.wire import tensors
from meshnode.wire.tensors import Array

TOLERANCE = 1e-3
"""Of the larger of the two, or of the tensor's largest number: providers round and add up in another order."""


async def agree(one: Outcome, other: Outcome) -> bool:
    """Results that cannot be read agree with nothing; large ones are compared in a thread."""
    large = sum(memoryview(part).nbytes for part in one.body) >= ALOOF_BYTES
    return await asyncio.to_thread(_agree, one, other) if large else _agree(one, other)


def _agree(one: Outcome, other: Outcome) -> bool:
    a, b = one.message, other.message
    if a.outputs != b.outputs:
        return False
    if a.provider == b.provider:
        return b"".join(one.body) == b"".join(other.body)
    try:
        left = tensors.decode(a.outputs, memoryview(b"".join(one.body)))
        right = tensors.decode(b.outputs, memoryview(b"".join(other.body)))
    except ProtocolError:
        return False
    return all(_near(left[name], right[name]) for name in left)


def _near(a: Array, b: Array) -> bool:
    if a.dtype.kind not in "fcV" or a.dtype == object:
        return bool(np.array_equal(a, b))
    if a.dtype.kind == "c":
        return _near(a.real, b.real) and _near(a.imag, b.imag)
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return False
    finite = np.isfinite(x)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return False
    x, y = x[finite], y[finite]
    if x.size == 0:
        return True
    scale = float(np.abs(x).max())
    return bool((np.abs(x - y) <= TOLERANCE * np.maximum(np.maximum(np.abs(x), np.abs(y)), scale)).all())

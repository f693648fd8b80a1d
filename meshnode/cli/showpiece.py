"""A model of any size that runs: random weights, for the demo of models and for measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

WIDTH = 1024
CHUNK_BYTES = 1 << 22


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def first_row(seed: int) -> npt.NDArray[np.float32]:
    """The row of the table that the model multiplies by."""
    return np.random.default_rng(seed).standard_normal(WIDTH, np.float32)


def weights_model(path: Path, nbytes: int, seed: int = 1) -> Path:
    """Write an .onnx file of about so many bytes: rows of a table are gathered and multiplied by what goes in.

    It is written field by field, because the agent's package does not depend on onnx and nothing this large should lie
    in memory: `y = x * weights[0]`.
    """
    rows = max(1, nbytes // (4 * WIDTH))
    raw_bytes = rows * WIDTH * 4
    tensor = _field(1, rows) + _field(1, WIDTH) + _field(2, 1) + _field(8, b"weights")
    raw_head = _varint(9 << 3 | 2) + _varint(raw_bytes)
    zero = _field(2, 7) + _field(8, b"zero") + _field(9, bytes(8))
    gather = _field(1, b"weights") + _field(1, b"zero") + _field(2, b"row") + _field(4, b"Gather")
    product = _field(1, b"x") + _field(1, b"row") + _field(2, b"y") + _field(4, b"Mul")
    shape = _field(2, _field(1, _field(1, 1)) + _field(1, _field(1, WIDTH)))
    kind = _field(2, _field(1, _field(1, 1) + shape))
    before = _field(1, gather) + _field(1, product) + _field(2, b"table")
    after = _field(5, zero) + _field(11, _field(1, b"x") + kind) + _field(12, _field(1, b"y") + kind)
    tensor_bytes = len(tensor) + len(raw_head) + raw_bytes
    initializer = _varint(5 << 3 | 2) + _varint(tensor_bytes)
    graph_bytes = len(before) + len(initializer) + tensor_bytes + len(after)
    generator = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(_field(1, 8) + _field(8, _field(1, b"") + _field(2, 17)))
        file.write(_varint(7 << 3 | 2) + _varint(graph_bytes) + before + initializer + tensor + raw_head)
        left = raw_bytes
        while left:
            count = min(left, CHUNK_BYTES) // 4
            file.write(generator.standard_normal(count, np.float32).tobytes())
            left -= count * 4
        file.write(after)
    return path

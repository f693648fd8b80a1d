"""What a detector's output says is in a picture: rows of class, score, y1, x1, y2, x2 (shares of it), best first.

Pure: numpy in, numpy out. What is not finite, has no area or scores too little is left out; what does not have the
shape that its layout says is refused, never read as if it had.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from meshnode.doors import Layout, Units
from meshnode.errors import InvalidInput

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.float32]
FRIGATE_ROWS = 20
NUMBERS_MAX = 16 * 1024 * 1024
"""Of one output: 64 MB of float32. A detector for pictures of 1280 x 1280 has 3 million."""
CANDIDATES_MAX = 1000
"""So many of the best scores are compared with each other."""


def read(
    output: Array,
    layout: Layout,
    *,
    height: int,
    width: int,
    units: Units = Units.PIXELS,
    threshold: float = 0.4,
    overlap: float = 0.45,
    limit: int = FRIGATE_ROWS,
) -> Rows:
    """At most `limit` rows.

    Args:
        height: of the model's input, in pixels, as `width`.
        overlap: of two boxes of one class that share more than this (intersection over union) the better one stays;
            only for `Layout.YOLO`, whose boxes are raw.

    Raises InvalidInput when the output does not have the layout.
    """
    if output.size > NUMBERS_MAX:
        raise InvalidInput(f"the output has {output.size} numbers, and at most {NUMBERS_MAX} are read")
    if output.dtype.kind not in "fiu":
        raise InvalidInput(f"the output is {output.dtype}; numbers are needed")
    with np.errstate(all="ignore"):  # what is not finite afterwards is left out
        return _read(output, layout, height, width, units, threshold, overlap, limit)


def _read(
    output: Array, layout: Layout, height: int, width: int, units: Units, threshold: float, overlap: float, limit: int
) -> Rows:
    table = np.asarray(output, np.float32)
    while table.ndim > 2 and table.shape[0] == 1:
        table = table[0]
    if layout is Layout.FRIGATE:
        return _ready(table, limit)
    boxes, scores, classes = _rows(table) if layout is Layout.ROWS else _yolo(table)
    if units is Units.PIXELS:
        boxes = boxes / np.array([height, width, height, width], np.float32)
    boxes = np.clip(boxes, 0.0, 1.0)
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # false for what is not a number
    kept = np.flatnonzero(solid & (scores >= threshold) & np.isfinite(scores) & np.isfinite(classes))
    kept = kept[np.argsort(-scores[kept], kind="stable")][:CANDIDATES_MAX]
    if layout is Layout.YOLO:
        kept = kept[best(boxes[kept], classes[kept], overlap, limit)]
    kept = kept[:limit]
    return np.concatenate([classes[kept, None], scores[kept, None], boxes[kept]], axis=1, dtype=np.float32)


def padded(rows: Rows) -> Rows:
    """As Frigate wants them: 20 rows, those that nothing was found for are zeros."""
    full = np.zeros((FRIGATE_ROWS, 6), np.float32)
    full[: len(rows)] = rows[:FRIGATE_ROWS]
    return full


def best(boxes: Array, classes: Array, overlap: float, limit: int) -> list[int]:
    """Which boxes stay, by index: from the first, each that no box of its class before it covers too much."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    open_ = np.ones(len(boxes), bool)
    chosen: list[int] = []
    for index in range(len(boxes)):
        if not open_[index]:
            continue
        chosen.append(index)
        if len(chosen) == limit:
            break
        it = boxes[index]
        high = np.minimum(it[2], boxes[:, 2]) - np.maximum(it[0], boxes[:, 0])
        wide = np.minimum(it[3], boxes[:, 3]) - np.maximum(it[1], boxes[:, 1])
        shared = np.clip(high, 0, None) * np.clip(wide, 0, None)
        open_ &= (classes != classes[index]) | (shared <= overlap * (areas + areas[index] - shared))
    return chosen


def _ready(table: Array, limit: int) -> Rows:
    if table.shape != (FRIGATE_ROWS, 6):
        raise InvalidInput(f"the output is {list(table.shape)}, and [{FRIGATE_ROWS}, 6] was expected")
    if not np.isfinite(table).all():
        raise InvalidInput("the output has numbers that are not finite")
    return np.asarray(table[table[:, 1] > 0][:limit], np.float32)


def _rows(table: Array) -> tuple[Array, Array, Array]:
    """[N, 6] of x1, y1, x2, y2, score, class."""
    if table.ndim != 2 or table.shape[1] != 6:
        raise InvalidInput(f"the output is {list(table.shape)}, and [N, 6] was expected")
    return table[:, [1, 0, 3, 2]], table[:, 4], table[:, 5]


def _yolo(table: Array) -> tuple[Array, Array, Array]:
    """[4 + classes, N], or the other way round, of centre x and y, width, height and a score a class."""
    if table.ndim != 2 or min(table.shape) < 5:
        raise InvalidInput(f"the output is {list(table.shape)}, and [4 + classes, N] was expected")
    if table.shape[0] > table.shape[1]:
        table = table.T
    x, y, w, h = table[:4]
    boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=1)
    classes = table[4:].argmax(axis=0)
    scores = table[4:].max(axis=0)
    return boxes, scores, classes.astype(np.float32)

"""What a detector's output says: the layouts, what is left out, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from meshnode import detections
from meshnode.doors import Layout, Units
from meshnode.errors import InvalidInput


def yolo(*anchors: list[float]) -> np.ndarray:
    """[1, 4 + classes, N] of centre x and y, width, height and scores; filled up with anchors that score nothing."""
    table = np.zeros((40, len(anchors[0])), np.float32)
    table[: len(anchors)] = anchors
    return table.T[None]


def test_boxes_of_yolo_are_shares_of_the_picture_with_y_first() -> None:
    """Centre and size in pixels become y1, x1, y2, x2; the class is that of the best score."""
    table = yolo([50, 20, 20, 10, 0.1, 0.9])
    (row,) = detections.read(table, Layout.YOLO, height=40, width=100)
    np.testing.assert_allclose([1, 0.9, 15 / 40, 0.4, 25 / 40, 0.6], row, rtol=1e-6)


def test_yolo_is_read_whichever_way_it_is_turned() -> None:
    """[1, N, 84] says the same as [1, 84, N]."""
    table = yolo([50, 20, 20, 10, 0.1, 0.9], [10, 10, 4, 4, 0.6, 0.0])
    one = detections.read(table, Layout.YOLO, height=40, width=100)
    other = detections.read(table.transpose(0, 2, 1), Layout.YOLO, height=40, width=100)
    assert 2 == len(one)
    np.testing.assert_array_equal(one, other)


def test_of_two_boxes_of_one_class_the_better_stays() -> None:
    """Where they share more than allowed; a box of another class, or elsewhere, is its own detection."""
    table = yolo(
        [50, 50, 20, 20, 0.7, 0.0],
        [51, 50, 20, 20, 0.9, 0.0],
        [51, 50, 20, 20, 0.0, 0.8],
        [80, 50, 20, 20, 0.6, 0.0],
    )
    rows = detections.read(table, Layout.YOLO, height=100, width=100)
    np.testing.assert_allclose([0.9, 0.8, 0.6], rows[:, 1])
    everything = detections.read(table, Layout.YOLO, height=100, width=100, overlap=1.0)
    assert 4 == len(everything)


def test_rows_are_read_as_they_are() -> None:
    """x1, y1, x2, y2, score, class, best first; boxes that cover each other stay."""
    table = np.array([[[10, 20, 30, 40, 0.5, 3], [11, 20, 30, 40, 0.6, 3], [0, 0, 1, 1, 0.1, 0]]], np.float32)
    rows = detections.read(table, Layout.ROWS, height=100, width=100)
    np.testing.assert_allclose([[3, 0.6, 0.2, 0.11, 0.4, 0.3], [3, 0.5, 0.2, 0.1, 0.4, 0.3]], rows, rtol=1e-6)


def test_shares_are_not_divided() -> None:
    """Where the model says shares already."""
    table = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 3]], np.float32)
    (row,) = detections.read(table, Layout.ROWS, height=100, width=100, units=Units.SHARES)
    np.testing.assert_allclose([3, 0.5, 0.2, 0.1, 0.4, 0.3], row, rtol=1e-6)


def test_what_is_no_box_is_left_out() -> None:
    """No area, not finite, outside of the picture: none of it is a detection."""
    nan, inf = float("nan"), float("inf")
    table = np.array(
        [
            [30, 20, 10, 40, 0.9, 0],
            [nan, 20, 30, 40, 0.9, 0],
            [10, 20, 30, 40, nan, 0],
            [10, 20, 30, 40, inf, 0],
            [10, 20, 30, 40, 0.9, nan],
            [200, 200, 300, 300, 0.9, 0],
            [10, 20, inf, 40, 0.9, 1],
        ],
        np.float32,
    )
    rows = detections.read(table, Layout.ROWS, height=100, width=100)
    np.testing.assert_allclose([[1, 0.9, 0.2, 0.1, 0.4, 1.0]], rows, rtol=1e-6)


def test_frigates_own_table_passes_as_it_is() -> None:
    """Only rows that score; padding puts the zeros back."""
    table = np.zeros((1, 20, 6), np.float32)
    table[0, 0] = [2, 0.3, 0.1, 0.1, 0.2, 0.2]
    rows = detections.read(table, Layout.FRIGATE, height=1, width=1)
    np.testing.assert_array_equal(table[0], detections.padded(rows))


@pytest.mark.parametrize(
    ("table", "layout"),
    [
        (np.zeros((1, 19, 6), np.float32), Layout.FRIGATE),
        (np.full((20, 6), np.nan, np.float32), Layout.FRIGATE),
        (np.zeros((1, 5, 7), np.float32), Layout.ROWS),
        (np.zeros((6,), np.float32), Layout.ROWS),
        (np.zeros((2, 84, 100), np.float32), Layout.YOLO),
        (np.zeros((4, 100), np.float32), Layout.YOLO),
        (np.zeros((), np.float32), Layout.YOLO),
        (np.array([["a"] * 6], dtype=object), Layout.ROWS),
        (np.zeros((1, 6, 3_000_000), np.uint8), Layout.YOLO),
    ],
)
def test_what_has_not_the_layout_is_refused(table: np.ndarray, layout: Layout) -> None:
    """And never read as if it had it."""
    with pytest.raises(InvalidInput):
        detections.read(table, layout, height=64, width=64)


@given(
    table=arrays.arrays(
        np.float32, st.tuples(st.integers(5, 9), st.integers(9, 40)), elements=st.floats(width=32, allow_nan=True)
    ),
    overlap=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_model_says_the_rows_are_boxes(table: np.ndarray, overlap: float) -> None:
    """Finite, inside the picture, best first, at most 20, and no two of a class share more than allowed."""
    rows = detections.read(table, Layout.YOLO, height=10, width=10, overlap=overlap)
    assert len(rows) <= 20
    assert np.isfinite(rows).all()
    assert ((rows[:, 2:] >= 0) & (rows[:, 2:] <= 1)).all()
    assert (np.diff(rows[:, 1]) <= 0).all()
    assert (rows[:, 2] < rows[:, 4]).all()
    assert (rows[:, 3] < rows[:, 5]).all()
    assert (20, 6) == detections.padded(rows).shape

"""What Frigate says, taken apart: every message is one of three things or refused."""

from __future__ import annotations

import json
import pickle

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.edge.frigate import asked
from meshnode.edge.frigate.alarm import MISSES, Alarm, Blind, Seeing
from meshnode.edge.frigate.asked import Frame, ModelAsked, ModelGiven
from meshnode.errors import ProtocolError


def head(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_a_frame_is_the_tensor_that_was_sent() -> None:
    """By the shape and type of its header, without a copy."""
    sent = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    said = asked.read([head(shape=[1, 2, 4, 3], dtype="uint8", model_type="ssd"), sent.tobytes()])
    assert isinstance(said, Frame)
    np.testing.assert_array_equal(sent, said.tensor)


def test_a_model_is_asked_for_or_brought() -> None:
    """By name."""
    assert ModelAsked("a.onnx") == asked.read([head(model_request=True, model_name="a.onnx")])
    assert ModelGiven("a.onnx", b"bytes") == asked.read([head(model_data=True, model_name="a.onnx"), b"bytes"])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"{}", b"x", b"y"],
        [b"[" * 4000, b""],
        [b'{"x":' + b"[" * 4000, b""],
        [b"{" + b" " * 5000 + b"}", b""],
        [pickle.dumps({"shape": [1]}), b"x"],
        [b"\xff\xfe", b""],
        [b"null", b""],
        [b"NaN", b""],
        [head(), b"x"],
        [head(shape=[2], dtype="uint8")],
        [head(shape=[2], dtype="uint8"), b"x"],
        [head(shape=[-1], dtype="uint8"), b"x"],
        [head(shape=[0], dtype="uint8"), b""],
        [head(shape=[2**31, 2**31, 2**31], dtype="uint8"), b"x"],
        [head(shape=[1.5], dtype="uint8"), b"x"],
        [head(shape=[1] * 9, dtype="uint8"), b"x"],
        [head(shape=[1], dtype="object"), b"12345678"],
        [head(shape=[1], dtype="O"), b"12345678"],
        [head(shape=[1], dtype="<U4"), b"x" * 16],
        [head(shape=[1], dtype=[["a", "u1"]]), b"x"],
        [head(model_request=True, model_name="x" * 300)],
        [head(model_request=True, model_name="x"), b"x"],
        [head(model_data=True, model_name="x")],
        [head(model_data=True, model_request=True, model_name="x"), b"x"],
        [head(model_request="yes", model_name="x")],
    ],
)
def test_what_is_none_of_these_is_refused(parts: list[bytes]) -> None:
    """With the one error that the door knows."""
    with pytest.raises(ProtocolError):
        asked.read(parts)


@given(parts=st.lists(st.binary(max_size=200), max_size=3))
@settings(max_examples=200, deadline=None)
def test_no_bytes_make_another_error(parts: list[bytes]) -> None:
    """A message is read, or it is a ProtocolError."""
    try:
        asked.read(parts)
    except ProtocolError:
        return


def test_the_answer_is_what_frigate_reads() -> None:
    """A header with shape and type, and 480 bytes."""
    header, body = asked.rows(np.zeros((20, 6), np.float32))
    assert {"shape": [20, 6], "dtype": "float32"} == msgspec.json.decode(header)
    assert 480 == len(body)


def test_an_alarm_begins_after_some_frames_and_ends_with_the_first_answer() -> None:
    """One late frame is none; while it lasts nothing more is said."""
    alarm = Alarm()
    assert [None] * (MISSES - 1) == [alarm.unanswered("late") for _ in range(MISSES - 1)]
    assert alarm.answered() is None
    assert [None] * (MISSES - 1) == [alarm.unanswered("late") for _ in range(MISSES - 1)]
    assert Blind("gone") == alarm.unanswered("gone")
    assert alarm.unanswered("gone") is None
    assert alarm.on
    assert Seeing(MISSES + 1) == alarm.answered()
    assert alarm.answered() is None


def test_what_is_hopeless_is_told_at_once() -> None:
    """Nobody can run it: no frame need be lost to know that."""
    alarm = Alarm()
    assert Blind("no model") == alarm.unanswered("no model", hopeless=True)

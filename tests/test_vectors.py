"""The golden bytes of protocols/vectors: decoded to what they mean, encoded back to themselves, or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from meshnode.config import Links
from meshnode.errors import ProtocolError
from meshnode.membership import updates
from meshnode.trust import identity
from meshnode.wire import frames, messages, tensors

FOLDER = Path(__file__).parent.parent / "protocols" / "vectors"


def rows(name: str) -> list[Any]:
    return [pytest.param(row, id=row["name"]) for row in json.loads((FOLDER / f"{name}.json").read_text())]


def decode_any(data: bytes) -> messages.AnyMessage:
    """The message, by whichever of the unions knows its tag."""
    errors = []
    for decode in (
        messages.decode_hello,
        messages.decode_peer_request,
        messages.decode_peer_reply,
        messages.decode_local_request,
        messages.decode_local_reply,
    ):
        try:
            return decode(data)
        except ProtocolError as error:
            errors.append(error)
    raise errors[0]


def test_the_vectors_are_what_their_script_makes() -> None:
    """A row that was put in by hand would be gone when the next one is added."""
    script = FOLDER.parents[1] / "scripts" / "vectors"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize("row", rows("messages"))
def test_messages(row: dict[str, Any]) -> None:
    """Each message decodes to its fields and encodes to the same bytes."""
    data = bytes.fromhex(row["hex"])
    if "must_reject" in row:
        with pytest.raises(ProtocolError):
            decode_any(data)
        return
    message = decode_any(data)
    fields = msgspec.to_builtins(message, builtin_types=(bytes,))
    assert row["means"] == json.loads(json.dumps(fields, default=lambda value: value.hex()))
    assert data == messages.encode(message)


@pytest.mark.parametrize("row", rows("frames"))
def test_frames(row: dict[str, Any]) -> None:
    """Each frame, after a HELLO, is one event, or ends the connection."""
    reader = frames.FrameReader(Links())
    data = bytes.fromhex(row["hex"])

    def feed(part: bytes) -> list[frames.Event]:
        reader.get_buffer()[: len(part)] = part
        return reader.received(len(part))

    feed(frames.pack(frames.Type.HELLO, 0, b"x"))
    if "must_reject" in row:
        with pytest.raises(ProtocolError):
            feed(data)
        return
    (event,) = feed(data)
    means = row["means"]
    assert isinstance(event, frames.Message | frames.Control)
    assert (means["type"], means["stream"], means["header"]) == (event.type.name, event.stream, event.header.hex())
    if isinstance(event, frames.Message):
        assert means["body"] == bytes(event.body).hex()
        assert data == frames.pack(event.type, event.stream, event.header, bytes(event.body), len(event.body))
    else:
        assert data == frames.pack(event.type, event.stream, event.header, aux=event.aux)


@pytest.mark.parametrize("row", rows("tensors"))
def test_tensors(row: dict[str, Any]) -> None:
    """Each body decodes to its values and encodes to the same bytes."""
    data, means = bytes.fromhex(row["hex"]), row["means"]
    spec = messages.TensorSpec("x", means["dtype"], tuple(means["shape"]), len(data))

    array = tensors.decode((spec,), data)["x"]

    plain = array.astype(np.float64) if means["dtype"] in ("bfloat16", "int4") else array
    assert means["values"] == plain.ravel().tolist()
    specs, parts = tensors.encode({"x": array})
    assert (spec,) == specs
    assert data == b"".join(parts)


@pytest.mark.parametrize("row", rows("updates"))
def test_updates(row: dict[str, Any]) -> None:
    """Each update decodes, is its signer's, and encodes to the same bytes; a forged or cut one is refused."""
    data = bytes.fromhex(row["hex"])
    if "must_reject" in row:
        try:
            update = updates.decode_update(data)
        except ProtocolError:
            return
        assert not updates.genuine(update, identity.verify, None)
        return
    update = updates.decode_update(data)
    key = bytes.fromhex(row["means"]["key"])
    assert (row["means"]["gen"], row["means"]["inc"]) == (update.gen, update.inc)
    assert updates.genuine(update, identity.verify, key)
    assert data == updates.encode(update)

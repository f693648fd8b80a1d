"""Agents of neighbouring versions in one mesh: what one says and the other does not know yet, or any more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshnode.wire import messages
from meshnode.wire.messages import AnyMessage
from tests.test_vectors import decode_any, rows

KNOWN = [row for row in rows("messages") if "must_reject" not in row.values[0]]


@pytest.mark.parametrize("row", KNOWN)
def test_fields_of_a_newer_version_are_ignored(row: dict[str, Any]) -> None:
    """Each message, with a field more of whatever shape: it means what it meant."""
    data = bytes.fromhex(row["hex"])
    fields = msgspec.msgpack.decode(data)
    for more in (1, None, "x", [1, {"a": b"b"}], {"deep": {"er": [0.5]}}):
        assert decode_any(data) == decode_any(msgspec.msgpack.encode({**fields, "of_tomorrow": more}))


def optional(message: AnyMessage) -> dict[str, Any]:
    """The fields that a message may lack, with what they are then."""
    info = msgspec.structs.fields(message)
    return {it.encode_name: it.default for it in info if it.default is not msgspec.NODEFAULT}


@pytest.mark.parametrize("row", KNOWN)
def test_fields_that_an_older_version_does_not_send_have_defaults(row: dict[str, Any]) -> None:
    """Each message with what it must have and nothing else is a message, and encodes to one."""
    data = bytes.fromhex(row["hex"])
    may_lack = optional(decode_any(data))
    fields = {name: value for name, value in msgspec.msgpack.decode(data).items() if name not in may_lack}
    short = decode_any(msgspec.msgpack.encode(fields))
    assert {name: getattr(short, name) for name in may_lack} == may_lack
    assert short == decode_any(messages.encode(short))

"""What all messages are made of: the base struct, ids, bounded texts and numbers, and how a tensor is named."""

from __future__ import annotations

from typing import Annotated, Literal, NewType

import msgspec
from msgspec import Meta

PROTOCOL_VERSION = 1
KEYS = "keys"
"""A feature: renewals, other keys, and admins by votes (sections 7 and 8 of protocols/trust.md)."""
FEATURES = ("traces", KEYS)
"""What this software takes part in that older versions of it do not, as its HELLO says."""

NodeId = NewType("NodeId", str)
Digest = NewType("Digest", str)
TaskId = NewType("TaskId", str)

Id = Annotated[str, Meta(pattern=r"\A[a-z2-7]{52}\Z")]
Hex64 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Task = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=4096)]
Trace = Annotated[str, Meta(max_length=55)]
"""A W3C traceparent, or nothing; one that is not well-formed is no trace."""
Zone = Annotated[str, Meta(max_length=128)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

Priority = Literal["low", "normal", "high"]
Objective = Literal["tail", "latency"]
"""What is worth more: that no task is slow, or that most are fast."""


UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""What msgspec raises: for what was not asked for; for text that is no UTF-8, and such; for nesting without an end."""


class Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, kw_only=True, gc=False):
    """The base of all messages; subclasses are tagged with their class name in lower case.

    Not looked through for rings (`gc`): a message is what its bytes said, and refers to nothing that refers to it. Of
    each task some are kept for half a minute.
    """


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One tensor of a body: its name, element type (ONNX's word for it), shape and length in bytes."""

    name: Annotated[str, Meta(max_length=512)]
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=32)]
    nbytes: Count


Tensors = Annotated[tuple[TensorSpec, ...], Meta(max_length=1024)]

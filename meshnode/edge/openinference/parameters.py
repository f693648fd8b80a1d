"""The parameters of a request that the mesh knows: how urgent, how long, where. Others are let pass, as the protocol
wants it, except those that ask for what would change the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshnode.errors import InvalidInput

TIMEOUT_US_MAX = 10**14
"""Three years; more is a mistake of units."""
PRIORITIES = ("low", "normal", "high")
STATEFUL = ("sequence_id", "sequence_start", "sequence_end")
SHARED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request says beside its tensors; None is what it does not say."""

    priority: str | None = None
    timeout_s: float | None = None
    zone: str | None = None
    node: str | None = None


NONE = Wishes()


def read(parameters: Mapping[str, Any]) -> Wishes:
    """Raises InvalidInput, naming the parameter."""
    if not parameters:
        return NONE
    for name in STATEFUL:
        if parameters.get(name):
            raise InvalidInput(f"{name}: models of a mesh keep nothing between two requests")
    return Wishes(
        _priority(parameters.get("priority")),
        _timeout_s(parameters.get("timeout")),
        _text("zone", parameters.get("zone")),
        _text("node", parameters.get("node")),
    )


def of_tensor(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises InvalidInput for what is not done with tensors here."""
    for key in SHARED:
        if parameters.get(key):
            raise InvalidInput(
                f"{name[:100]!r}: {key}: the mesh shares no memory with clients of this protocol",
                hint="send the tensor with the request",
            )
    if parameters.get("classification"):
        raise InvalidInput(
            f"{name[:100]!r}: classification: the mesh gives tensors as they are", hint="leave class_count away"
        )


def _priority(value: Any) -> str | None:
    """Triton's numbers (0: the usual one, 1: the highest) or the mesh's words."""
    if value is None or (value == 0 and value is not False):
        return None
    if isinstance(value, str) and value in PRIORITIES:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return {1: "high", 2: "normal"}.get(value, "low")
    raise InvalidInput(
        f"priority: {value!r:.100} is none", hint="0 is the usual one, 1 the highest, 3 and more low; or its word"
    )


def _timeout_s(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= TIMEOUT_US_MAX:
        raise InvalidInput(f"timeout: {value!r:.100} is no number of microseconds")
    return value / 1e6 or None


def _text(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > 128:
        raise InvalidInput(f"{name}: {value!r:.100} is no name")
    return value

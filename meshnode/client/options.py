"""How a task is given: its options, and its inputs as they go over the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from meshnode import config
from meshnode.errors import InvalidInput
from meshnode.wire import tensors
from meshnode.wire.messages import Priority, TensorSpec
from meshnode.wire.tensors import Array, Buffer

Inputs = Mapping[str, Any]
DEFAULT_TIMEOUT_S = config.Routing().default_deadline_s
TIMEOUT_MAX_S = 1e9
BODY_BYTES_MAX = config.Links().body_bytes_max


class TaskOptions(TypedDict, total=False):
    """The options of a task.

    timeout: seconds until it fails with DeadlineExceeded (30 when not given). node: run it on this node only, by name
    or id. zone: run it in this zone only. priority: "low", "normal" or "high". outputs: those that are wanted.
    """

    timeout: float
    node: str | None
    zone: str | None
    priority: Priority
    outputs: Sequence[str]


def checked_timeout(timeout_s: float) -> float:
    """Raises InvalidInput for what is no length of time."""
    if not isinstance(timeout_s, int | float) or math.isnan(timeout_s) or timeout_s < 0:
        raise InvalidInput(f"timeout is a number of seconds, not {timeout_s!r}")
    return min(float(timeout_s), TIMEOUT_MAX_S)


def as_arrays(inputs: Inputs) -> dict[str, Array]:
    """Anything that numpy takes, by name. Raises InvalidInput."""
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            f"inputs are a mapping of names to arrays, not {type(inputs).__name__}",
            hint="for a model of one input: client.model(NAME)(array)",
        )
    return {str(name): tensors.as_array(value, f"input {name!r}") for name, value in inputs.items()}


def snapshot(inputs: Inputs) -> dict[str, Array]:
    """A copy: what the caller does to its arrays afterwards does not reach a task that is still to be sent."""
    return {name: np.array(array) for name, array in as_arrays(inputs).items()}


def encode(inputs: Inputs) -> tuple[tuple[TensorSpec, ...], list[Buffer]]:
    """Specs and body. Raises InvalidInput."""
    specs, body = tensors.encode(as_arrays(inputs))
    total = sum(spec.nbytes for spec in specs)
    if total > BODY_BYTES_MAX:
        raise InvalidInput(f"the inputs are {total} bytes together; {BODY_BYTES_MAX} are allowed in one task")
    return specs, body


def only_input(document: Mapping[str, Any]) -> str:
    """The name of a model's one input. Raises InvalidInput when it has several."""
    names = [tensor["name"] for tensor in document["inputs"]]
    if len(names) != 1:
        raise InvalidInput(
            f"{document['name']} has {len(names)} inputs, and one unnamed value came",
            hint=f"name them: {', '.join(names)}",
        )
    return str(names[0])


def named(document: Mapping[str, Any], value: Any, inputs: Mapping[str, Any]) -> Inputs:
    """The inputs of a call of a bound model: one unnamed value, or all by name. Raises InvalidInput."""
    if inputs:
        raise InvalidInput("one unnamed value or inputs by name, not both")
    return {only_input(document): value}

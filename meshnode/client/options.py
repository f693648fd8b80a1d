"""How a task is given: its options, and its inputs as they go over the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypedDict

import numpy as np

from meshnode import config
from meshnode.errors import InvalidInput
from meshnode.wire import tensors
from meshnode.wire.messages import Objective, Priority, TensorSpec
from meshnode.wire.tensors import Array, Buffer

Inputs = Mapping[str, Any]
DEFAULT_TIMEOUT_S = config.Routing().default_deadline_s
TIMEOUT_MAX_S = 1e9
NAME_CHARACTERS_MAX = 256
DIMENSIONS_MAX = 32
PRIORITIES = ("low", "normal", "high")
OBJECTIVES = ("tail", "latency")
BODY_BYTES_MAX = config.Links().body_bytes_max


class TaskOptions(TypedDict, total=False):
    """The options of a task.

    timeout: seconds until it fails with DeadlineExceeded (30 when not given). node: run it on this node only, by name
    or id. zone: run it in this zone only. priority: "low", "normal" or "high". outputs: those that are wanted.
    idempotent: False for a model that must not run twice, which then may end as OutcomeUnknown. exact: on the CPU
    provider only. hedge: a second copy may run when the first is late. verify: the share of tasks, 0 to 1, that a
    second node repeats, to compare the results. objective: "tail" for the least latency of the slowest tasks, or
    "latency" for that of the usual one.
    """

    timeout: float
    node: str | None
    zone: str | None
    priority: Priority
    outputs: Sequence[str]
    idempotent: bool
    exact: bool
    hedge: bool
    verify: float
    objective: Objective


def checked_seconds(value: float, name: str = "timeout") -> float:
    """Raises InvalidInput for what is no length of time."""
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not number or not value >= 0:  # NaN is not
        raise InvalidInput(f"{name} is a number of seconds, 0 or more, not {_short(value)}")
    return float(min(value, TIMEOUT_MAX_S))


def checked_count(value: int, name: str) -> int:
    """Raises InvalidInput for what is no number of things, at least one."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name} is a whole number, at least 1, not {_short(value)}")
    return int(value)


def checked_share(value: float, name: str) -> float:
    """Raises InvalidInput for what is no share of a whole."""
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not number or not 0 <= value <= 1:
        raise InvalidInput(f"{name} is a share, a number from 0 to 1, not {_short(value)}")
    return float(value)


def check_flags(*, idempotent: bool, exact: bool, hedge: bool, verify: float, node: str | None) -> None:
    """Raises InvalidInput for what is neither True nor False, and for what contradicts itself."""
    for name, value in (("idempotent", idempotent), ("exact", exact), ("hedge", hedge)):
        if not isinstance(value, bool | np.bool_):
            raise InvalidInput(f"{name} is True or False, not {_short(value)}")
    checked_share(verify, "verify")
    if not idempotent and (hedge or verify):
        raise InvalidInput(
            "a task that must not run twice cannot be hedged or verified",
            hint="leave hedge= and verify= out, or idempotent=False",
        )
    if node is not None and (hedge or verify):
        raise InvalidInput(
            "a task that names its node cannot be hedged or verified: both need a second one",
            hint="leave node= out, or hedge= and verify=",
        )


def checked_text(value: str | None, name: str) -> str:
    """Raises InvalidInput for what is no text that can be sent."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARACTERS_MAX:
        raise InvalidInput(f"{name} is a text of 1 to {NAME_CHARACTERS_MAX} characters, not {_short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is no text that can be sent: {error.reason}") from error
    return value


def checked_choice(value: str, name: str, choices: Sequence[str]) -> str:
    """Raises InvalidInput for what is not among them."""
    if value not in choices:
        raise InvalidInput(f"{name} is one of {', '.join(choices)}, not {_short(value)}")
    return value


def checked_outputs(outputs: Sequence[str] | str | None) -> tuple[str, ...]:
    """The names of the wanted outputs; none means all. Raises InvalidInput."""
    if outputs is None:
        return ()
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise InvalidInput(f"outputs is a list of names, not {_short(outputs)}", hint=f"write [{outputs!r}]")
    return tuple(checked_text(name, "the name of an output") for name in outputs)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_arrays(inputs: Inputs) -> dict[str, Array]:
    """Anything that numpy takes, by name. Raises InvalidInput."""
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            f"inputs are a mapping of names to arrays, not {type(inputs).__name__}",
            hint="for a model of one input: client.model(NAME)(array)",
        )
    arrays = {}
    for name, value in inputs.items():
        arrays[checked_text(name, "the name of an input")] = tensors.as_array(value, f"input {name!r}")
        if arrays[name].ndim > DIMENSIONS_MAX:
            raise InvalidInput(f"input {name!r} has {arrays[name].ndim} dimensions; {DIMENSIONS_MAX} are allowed")
    return arrays


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

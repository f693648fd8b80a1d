"""The one error hierarchy: what went wrong, whose fault it is, and whether another node may be tried.

Every error that leaves meshnode is a `MeshError`. Its `code` is stable and is what crosses the wire; its message names
what, where, the limit and the actual value, and its `hint` says what to do next. Foreign exceptions are translated at
the border where they appear, with the cause kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Fault = Literal["caller", "peer", "us", "network", "policy"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a task: where it went, how it ended and how long it took.

    `outcome` is "ok", or the error code that ended it. `seconds` is the time from sending the attempt to its end, as
    the submitting agent saw it.
    """

    node: str
    name: str
    outcome: str
    seconds: float
    detail: str = ""
    stage: int = 0
    """Of a pipeline: which stage it was of, from 0."""

    def to_row(self) -> tuple[str | float, ...]:
        """As it travels: what belongs to no pipeline, or to its first stage, as every version knows it."""
        row = (self.node, self.name, self.outcome, self.seconds, self.detail)
        return (*row, self.stage) if self.stage else row


class MeshError(Exception):
    """Anything that meshnode reports. Catch this to catch all of it.

    Attributes:
        code: the stable name of the error, the same in every language and version.
        fault: whose it is: the caller's, a peer's, ours, the network's, or a policy said no.
        retry_elsewhere: whether another node might still answer the same task.
        untouched: as a node's answer to a task: it was not begun there.
        hint: what to do about it, or "".
        attempts: for a task, every try that was made.
        retry_after_s: when the same request may succeed, in seconds, or None.
        stage: of a pipeline: which stage it is about, from 0; None when it is about none.
    """

    code: ClassVar[str] = "mesh_error"
    fault: ClassVar[Fault] = "us"
    retry_elsewhere: ClassVar[bool] = False
    untouched: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        attempts: Sequence[Attempt] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(hint)
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.retry_after_s = retry_after_s
        self.stage: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """The error as a plain map; `from_wire` makes the same error of it."""
        wire: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.hint:
            wire["hint"] = self.hint
        if self.attempts:
            wire["attempts"] = [a.to_row() for a in self.attempts]
        if self.stage is not None:
            wire["stage"] = self.stage
        if self.retry_after_s is not None:
            wire["retry_after_s"] = self.retry_after_s
        return wire


class AgentUnavailable(MeshError):
    """The local agent does not answer: it is not running, or it went away."""

    code = "agent_unavailable"
    fault = "network"


class ModelNotFound(MeshError):
    """No model of that name and version is known in this mesh."""

    code = "model_not_found"
    fault = "caller"
    untouched = True


class ModelRefused(MeshError):
    """The model file will not be loaded: damaged, unsupported, too large, or not allowed here."""

    code = "model_refused"
    fault = "caller"
    untouched = True


class InvalidInput(MeshError):
    """The task's inputs do not fit the model, or the request itself makes no sense."""

    code = "invalid_input"
    fault = "caller"


class DeadlineExceeded(MeshError):
    """The task's time ran out before a result came."""

    code = "deadline_exceeded"
    fault = "network"


class NoCapacity(MeshError):
    """No node can take the task now: all are full, ineligible or gone."""

    code = "no_capacity"
    fault = "peer"
    retry_elsewhere = True


class Refused(NoCapacity):
    """One node will not take this task now; `retry_after_s` says when it might."""

    code = "refused"
    untouched = True


class NoNodeInZone(MeshError):
    """A zone was asked for and no live node of it can run the task. Never a fall-back outside the zone."""

    code = "no_node_in_zone"
    fault = "policy"
    untouched = True


class PoisonTask(MeshError):
    """The task killed the worker that ran it, twice. It is not tried again."""

    code = "poison_task"
    fault = "caller"


class PermissionDenied(MeshError):
    """The caller may not do this: a missing role, a revoked node, a foreign mesh, a used-up token."""

    code = "permission_denied"
    fault = "policy"
    untouched = True


class Revoked(PermissionDenied):
    """A node was thrown out of the mesh, or left it. `statement` is the signed revocation, which proves it."""

    code = "revoked"
    statement: bytes = b""


class ProtocolError(MeshError):
    """Bytes that do not follow the protocol."""

    code = "protocol_error"
    fault = "peer"
    retry_elsewhere = True


class TokenRefused(PermissionDenied):
    """An invite token is damaged, expired, used, or answered by a machine that is not the inviter."""

    code = "token_refused"


class HomeError(MeshError):
    """The home folder cannot be used: another agent holds it, it is damaged, or the disk is full."""

    code = "home_error"


class ConfigError(MeshError):
    """A setting is unknown or out of range. Nothing was started."""

    code = "config_error"
    fault = "caller"


class ToolMissing(MeshError):
    """A package is not installed that only one command needs."""

    code = "tool_missing"


class ListenError(MeshError):
    """The address to listen on cannot be had: another program has the port, or it is not this machine's."""

    code = "listen_error"
    fault = "us"


class ExecutionFailed(MeshError):
    """The model itself failed on this input; another node would fail the same way."""

    code = "execution_failed"
    fault = "caller"


class WorkerCrashed(MeshError):
    """The worker process died while it ran this task."""

    code = "worker_crashed"
    fault = "peer"
    retry_elsewhere = True


class OutOfMemory(MeshError):
    """The node lacks the memory to load the model or run the task; a larger one may not."""

    code = "out_of_memory"
    fault = "peer"
    retry_elsewhere = True


class TransferFailed(MeshError):
    """A model could not be fetched: no holder answered, or what came did not verify."""

    code = "transfer_failed"
    fault = "peer"
    retry_elsewhere = True
    untouched = True


class PeerLost(MeshError):
    """The connection to a peer broke or never came up while a request was open.

    `sent` is False when the request certainly did not reach the peer; `refused` is True when its address said no,
    which a host does for a program that is gone.
    """

    code = "peer_lost"
    fault = "network"
    retry_elsewhere = True
    sent: bool = True
    refused: bool = False


class PeerSilent(PeerLost):
    """A peer stopped answering heartbeats while a request was open; its connection is still there."""

    code = "peer_silent"


class OutcomeUnknown(PeerLost):
    """A task that must not run twice was with a node that cannot be asked any more: it may have run, or not."""

    code = "outcome_unknown"
    retry_elsewhere = False


class UnknownTask(MeshError):
    """The node that was asked for a result has not begun that task, and will not begin it any more."""

    code = "unknown_task"
    fault = "peer"
    retry_elsewhere = True
    untouched = True


class ResultLost(MeshError):
    """The task was at the node that was asked for its result, and the result is not kept there any more."""

    code = "result_lost"
    fault = "peer"
    retry_elsewhere = True


class Cancelled(MeshError):
    """The caller gave the task up."""

    code = "cancelled"
    fault = "caller"


def _walk(cls: type[MeshError]) -> dict[str, type[MeshError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_walk(sub))
    return found


BY_CODE: Mapping[str, type[MeshError]] = _walk(MeshError)


def from_wire(wire: Mapping[str, Any]) -> MeshError:
    """Make the error that `to_wire` described. An unknown code (a newer peer's) becomes a plain `MeshError`.

    Raises ProtocolError when it is none.
    """
    cls = BY_CODE.get(str(wire.get("code")), MeshError)
    try:
        attempts = [
            Attempt(str(node), str(name), str(outcome), _number(seconds), str(detail), _stage(stage[0]) if stage else 0)
            for node, name, outcome, seconds, detail, *stage in wire.get("attempts", ())
        ]
        retry_after_s = None if (after_s := wire.get("retry_after_s")) is None else _number(after_s)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"an error that is malformed: {error}") from error
    it = cls(
        str(wire.get("message", "")), hint=str(wire.get("hint", "")), attempts=attempts, retry_after_s=retry_after_s
    )
    it.stage = at if isinstance(at := wire.get("stage"), int) else None
    return it


def _stage(value: Any) -> int:
    """A number that can be written again. Raises ValueError, TypeError."""
    if not 0 <= (number := int(value)) < 2**31:
        raise ValueError("it is no stage of a pipeline")
    return number


def _number(value: Any) -> float:
    """Seconds that can be slept, compared and written as JSON. Raises ValueError, TypeError, OverflowError."""
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{number} is no time")
    return number

"""One task at the agent that answers for it: which attempt is next, and which one answer ends it.

The core decides; `meshnode.tasks.dispatcher` routes, sends and waits. A task is in one of four states:

    routing   a node is being chosen (quotes are out)
    running   an attempt is with a node
    waiting   everyone refused; tried again when the back-off ends
    done      the one answer was given; whatever comes later is dropped

    state     event                     next      effects
    routing   Chosen                    running   Send
    routing   Unroutable, worth a wait  waiting
    routing   Unroutable, final         done      Fail
    running   Replied (this attempt)    done      Answer
    running   Failed, caller's fault    done      Fail
    running   Failed, a refusal         routing   Route     free: no work was done
    running   Failed, anything else     routing   Route     the node is not tried again; at most `attempts_max` of these
    waiting   back-off over             routing   Route
    any       deadline                  done      Abandon, Fail
    any       Cancel                    done      Abandon, Fail

A retry is a first try with one name fewer: `Route` carries the names. Deaths of workers are counted over the whole mesh
by letting the count travel with the attempt; the second makes the task poison.

The invariant: exactly one `Answer` or `Fail` is ever returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, assert_never

from meshnode.errors import (
    Attempt,
    Cancelled,
    DeadlineExceeded,
    MeshError,
    ModelRefused,
    NoCapacity,
    PeerLost,
    PoisonTask,
    Refused,
    TransferFailed,
    WorkerCrashed,
)
from meshnode.wire.messages import NodeId

DEATHS_MAX = 2
REFUSALS_MAX = 3
BACKOFF_MAX_S = 1.0
UNROUTABLE_GRACE_S = 5.0
"""How long a task waits for an able node to appear before it fails: time enough for an agent to be restarted."""
HISTORY_MAX = 64


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The agent has the task."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Routing picked a node."""

    node: NodeId
    name: str


@dataclass(frozen=True, slots=True)
class Unroutable:
    """Routing found no node. `final` when no wait can change that (no such zone, no such node)."""

    error: MeshError
    final: bool


@dataclass(frozen=True, slots=True)
class Replied:
    """An attempt brought a result, which the core does not look into."""

    attempt: int
    result: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt ended with an error."""

    attempt: int
    error: MeshError


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client gave the task up."""


Event = Begin | Chosen | Unroutable | Replied | Failed | Cancel


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """Choose a node, none of `exclude`; feed back `Chosen` or `Unroutable`."""

    exclude: frozenset[NodeId]


@dataclass(frozen=True, slots=True)
class Send:
    """Send the attempt; feed back `Replied` or `Failed` with its number."""

    attempt: int
    number: int
    node: NodeId
    remaining_s: float
    deaths: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop routing, or tell the node that the attempt is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer: a result."""

    result: Any
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Fail:
    """The one answer: an error, with every attempt in it."""

    error: MeshError


Effect = Route | Send | Abandon | Answer | Fail


class State(Enum):
    """Where a task is."""

    ROUTING = "routing"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"


@dataclass(slots=True)
class Lifecycle:
    """The states of one task; see the table above.

    Args:
        deadline: monotonic seconds.
        attempts_max: attempts that may have run.
        backoff_s: the first wait when every node refused; doubles to a second, with full jitter.
        jitter: a float in [0, 1).
    """

    deadline: float
    attempts_max: int
    backoff_s: float
    jitter: Callable[[], float]
    state: State = State.ROUTING
    late: int = 0
    """Results of superseded attempts that were dropped."""

    _sent: int = 0
    _counted: int = 0
    _deaths: int = 0
    _rounds: int = 0
    _refusals: int = 0
    _tried: set[NodeId] = field(default_factory=set)
    _refused: set[NodeId] = field(default_factory=set)
    _history: list[Attempt] = field(default_factory=list)
    _node: NodeId = field(default=NodeId(""))
    _name: str = ""
    _sent_at: float = 0.0
    _wake_at: float = 0.0
    _unroutable_since: float | None = None

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event, in monotonic seconds."""
        if self.state is State.DONE:
            return None
        if self.state is State.WAITING:
            return min(self._wake_at, self.deadline)
        return self.deadline

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline; returns what to do."""
        if self.state is State.DONE:
            self.late += isinstance(event, Replied)
            return []
        if isinstance(event, Replied) and self._is_current(event.attempt):
            self.state = State.DONE  # before the deadline is looked at: a result in hand is never thrown away
            self._record(now, "ok")
            return [Answer(event.result, tuple(self._history))]
        if now >= self.deadline:
            return self._end(now, self._out_of_time())
        match event:
            case None:
                return self._wake(now)
            case Begin():
                return self._route()
            case Chosen(node, name):
                return self._send(now, node, name)
            case Unroutable(error, final):
                return self._unroutable(now, error, final)
            case Replied():
                self.late += 1
                return []
            case Failed(attempt, error):
                return self._failed(now, error) if self._is_current(attempt) else []
            case Cancel():
                return self._end(now, Cancelled("the task was cancelled by its client"))
            case _:
                assert_never(event)

    def _is_current(self, attempt: int) -> bool:
        return self.state is State.RUNNING and attempt == self._sent

    def _route(self) -> list[Effect]:
        self.state = State.ROUTING
        return [Route(frozenset(self._tried | self._refused))]

    def _send(self, now: float, node: NodeId, name: str) -> list[Effect]:
        assert self.state is State.ROUTING, self.state
        self.state = State.RUNNING
        self._sent += 1
        self._counted += 1
        self._node, self._name, self._sent_at = node, name, now
        self._unroutable_since = None
        return [Send(self._sent, self._counted, node, self.deadline - now, self._deaths)]

    def _unroutable(self, now: float, error: MeshError, final: bool) -> list[Effect]:
        if final:
            return self._fail(error)
        if self._tried or self._refused:
            # Those tried are all there is: forget them, so that one able machine that lives is enough.
            self._tried.clear()
            return self._wait(now, error.retry_after_s)
        if self._unroutable_since is None:
            self._unroutable_since = now
        if now - self._unroutable_since >= UNROUTABLE_GRACE_S:
            return self._fail(error)
        return self._wait(now, error.retry_after_s)

    def _wait(self, now: float, retry_after_s: float | None) -> list[Effect]:
        self.state = State.WAITING
        self._refused.clear()
        self._refusals = 0
        pause_s = max(retry_after_s or 0.0, self.jitter() * min(BACKOFF_MAX_S, self.backoff_s * 2**self._rounds))
        self._rounds = min(self._rounds + 1, 16)
        self._wake_at = now + min(pause_s, BACKOFF_MAX_S)
        return []

    def _wake(self, now: float) -> list[Effect]:
        if self.state is State.WAITING and now >= self._wake_at:
            return self._route()
        return []

    def _failed(self, now: float, error: MeshError) -> list[Effect]:
        self._record(now, error.code, str(error))
        unsent = isinstance(error, PeerLost) and not error.sent
        if isinstance(error, (Refused, DeadlineExceeded, TransferFailed)) or unsent:
            return self._refusal(now, error)
        # A model that one node will not load may load on another: only the task's own faults end it here.
        if error.fault == "caller" and not isinstance(error, ModelRefused):
            return self._fail(error)
        if isinstance(error, WorkerCrashed):
            self._deaths += 1
            if self._deaths >= DEATHS_MAX:
                return self._fail(
                    PoisonTask(
                        f"the task killed the worker that ran it {self._deaths} times; last on {self._name}: {error}",
                        hint="run the model on this input alone to find the fault; it is not tried again",
                    )
                )
        self._tried.add(self._node)
        if self._counted >= self.attempts_max:
            return self._fail(error)
        return self._route()

    def _refusal(self, now: float, error: MeshError) -> list[Effect]:
        self._counted -= 1
        self._refused.add(self._node)
        self._refusals += 1
        if self._refusals >= REFUSALS_MAX:
            return self._wait(now, error.retry_after_s)
        return self._route()

    def _out_of_time(self) -> MeshError:
        if self.state is State.RUNNING:
            where = f"it was running on {self._name}"
        elif self._history:
            where = f"no node took it; last: {self._history[-1].name}: {self._history[-1].outcome}"
        elif self.state is State.ROUTING:
            where = "no node was chosen yet"
        else:
            return NoCapacity(
                "no node could take the task before its deadline",
                hint="`meshnode status` shows who is busy or away; allow more time, or add a node",
            )
        return DeadlineExceeded(f"the task's time ran out; {where}", hint="allow more time with timeout=")

    def _end(self, now: float, error: MeshError) -> list[Effect]:
        if self.state is State.RUNNING:
            self._record(now, error.code)
        return [Abandon(), *self._fail(error)]

    def _fail(self, error: MeshError) -> list[Effect]:
        self.state = State.DONE
        error.attempts = tuple(self._history)
        return [Fail(error)]

    def _record(self, now: float, outcome: str, detail: str = "") -> None:
        if len(self._history) >= HISTORY_MAX:
            del self._history[HISTORY_MAX // 2]  # keep how it began and how it ended
        self._history.append(Attempt(self._node, self._name, outcome, now - self._sent_at, detail))

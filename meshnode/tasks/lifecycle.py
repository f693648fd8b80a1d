"""One task at the agent that answers for it: which attempt is next, and which one answer ends it.

The core decides; `meshnode.tasks.pursuit` routes, sends and waits. A task is in one of four states:

    routing   a node is being chosen (quotes are out)
    running   an attempt is with a node, or two are
    waiting   everyone refused; tried again when the back-off ends
    done      the one answer was given; whatever comes later is dropped

    state     event                     next      effects
    routing   Chosen                    running   Send
    routing   Unroutable, worth a wait  waiting
    routing   Unroutable, final         done      Fail
    any       Replied                   done      Answer; Abandon, when something else is still out
    running   Failed, caller's fault    done      Fail
    running   Failed, a refusal         routing   Route     free: no work was done
    running   Failed, its link broke    running   Recall    the node is asked for the result over a new link
    running   Failed, the ninth time    routing   Route
    running   Failed, it fell silent    routing   Recall, Route     it may come back; whichever answers first answers
    running   Failed, of a later stage  done      Fail
    running   Failed, by a policy       routing   Route     that node is never tried again; without another: Fail
    running   Failed, anything else     routing   Route     that node is not tried again; at most `attempts_max` times
    running   Failed, another one runs  running
    running   it is late, may hedge     running   Route     a second copy, on another node; one a task
    running   Unroutable (the second)   running
    waiting   back-off over             routing   Route
    any       deadline                  done      Abandon, Fail
    any       Cancel                    done      Abandon, Fail

With `once` the task is sent on only when the node itself says that it was not begun there (`MeshError.untouched`), or
nothing was sent. A node that was lost is asked until the time is up (Recall); anything else ends the task, as
`OutcomeUnknown` when nobody can tell any more. It is never hedged.

A retry is a first try with one name fewer: `Route` carries the names. It costs a token of the agent's `Budget`, unless
the link broke; without one it is `waiting` first. Deaths of workers are counted over the whole mesh by letting the
count travel with the attempt; the second makes the task poison.

The invariant: exactly one `Answer` or `Fail` is ever returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

from meshnode.errors import (
    Attempt,
    Cancelled,
    DeadlineExceeded,
    MeshError,
    ModelRefused,
    NoCapacity,
    OutcomeUnknown,
    PeerLost,
    PeerSilent,
    PoisonTask,
    Refused,
    TransferFailed,
    UnknownTask,
    WorkerCrashed,
)
from meshnode.tasks.budget import Budget
from meshnode.tasks.moves import (
    Abandon,
    Answer,
    Begin,
    Cancel,
    Chosen,
    Effect,
    Event,
    Fail,
    Failed,
    Recall,
    Replied,
    Route,
    Send,
    State,
    Unroutable,
)
from meshnode.wire.messages import NodeId

DEATHS_MAX = 2
REFUSALS_MAX, BACKOFF_MAX_S = 3, 1.0
UNROUTABLE_GRACE_S = 5.0
"""How long a task waits for an able node to appear before it fails: time enough for an agent to be restarted."""
HISTORY_MAX = 64
RECALL_S = 0.75
"""A node whose link broke has so long for a new one, before the task is run elsewhere."""
RECALLS_MAX = 8
"""So often it is asked again: a link that keeps breaking is slow, and a second run is slower."""
RECALL_ONCE_S = 30.0
"""…and so long when the task may not be run elsewhere: results are not kept for longer."""


@dataclass(slots=True)
class _Copy:
    """An attempt that is with a node."""

    attempt: int
    number: int
    node: NodeId
    name: str
    sent_at: float
    recalls: int = 0


@dataclass(slots=True)
class Lifecycle:
    """The states of one task; see the table above.

    Args:
        deadline: monotonic seconds.
        attempts_max: attempts that may have run.
        backoff_s: the first wait when every node refused; doubles to a second, with full jitter.
        jitter: a float in [0, 1).
        budget: what the agent may spend on second tries.
        once: the task must not run twice.
        avoid: nodes that are never chosen.
        pinned: it is for one node alone.
        brief: fail rather than wait when there is no node.
        returns: the same, as long as nothing was begun: whoever gave the task goes on with it.
        stage: which of a pipeline it is. An error of a later one is final: whoever ran this one has tried it.
    """

    deadline: float
    attempts_max: int
    backoff_s: float
    jitter: Callable[[], float]
    budget: Budget = field(default_factory=Budget)
    once: bool = False
    avoid: frozenset[NodeId] = frozenset()
    pinned: bool = False
    brief: bool = False
    returns: bool = False
    stage: int = 0
    late: int = 0
    """Results that came after the end and were dropped."""

    _done: bool = False
    _seeking: bool = True
    _sent: int = 0
    _counted: int = 0
    _deaths: int = 0
    _rounds: int = 0
    _refusals: int = 0
    _running: dict[int, _Copy] = field(default_factory=dict)
    _strays: dict[int, _Copy] = field(default_factory=dict)
    """With nodes that fell silent: nobody waits for them, and they may still answer."""
    _tried: set[NodeId] = field(default_factory=set)
    _refused: set[NodeId] = field(default_factory=set)
    _denied: dict[NodeId, MeshError] = field(default_factory=dict)
    """Whose policy forbids it: to ask again is to be told again."""
    _history: list[Attempt] = field(default_factory=list)
    _late_at: float | None = None
    _hedged: bool = False
    _wake_at: float = 0.0
    _unroutable_since: float | None = None
    _nobody: MeshError | None = None
    """Why there was no node for it, the last time."""

    @property
    def state(self) -> State:
        """Where the task is."""
        if self._done:
            return State.DONE
        if self._running:
            return State.RUNNING
        return State.ROUTING if self._seeking else State.WAITING

    @property
    def copies(self) -> int:
        """Attempts that are with nodes which are waited for."""
        return len(self._running)

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event, in monotonic seconds."""
        if self._done:
            return None
        if self._running:
            return self.deadline if self._late_at is None else min(self._late_at, self.deadline)
        return self.deadline if self._seeking else min(self._wake_at, self.deadline)

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline; returns what to do."""
        if self._done:
            self.late += isinstance(event, Replied)
            return []
        if isinstance(event, Replied):
            copy = self._running.pop(event.attempt, None) or self._strays.pop(event.attempt, None)
            if copy is not None:  # before the deadline is looked at: a result in hand is never thrown away
                return self._answer(now, copy, event.result)
        if now >= self.deadline:
            return self._end(now, self._out_of_time())
        match event:
            case None:
                return self._wake(now)
            case Begin():
                return self._route()
            case Chosen(node, name, late_s):
                return self._send(now, node, name, late_s)
            case Unroutable(error, final):
                return self._unroutable(now, error, final)
            case Replied():
                self.late += 1
                return []
            case Failed(attempt, error):
                if (stray := self._strays.pop(attempt, None)) is not None:
                    return [] if self._is_later(error) else self._killed(stray, error)
                copy = self._running.get(attempt)
                return self._failed(now, copy, error) if copy is not None else []
            case Cancel():
                return self._end(now, Cancelled("the task was cancelled by its client"))
            case _:
                assert_never(event)

    # --- on the way to a node ---

    def _route(self) -> list[Effect]:
        self._seeking = True
        running = {copy.node for copy in self._running.values()}
        return [Route(self.avoid | self._tried | self._refused | self._denied.keys() | running)]

    def _send(self, now: float, node: NodeId, name: str, late_s: float | None) -> list[Effect]:
        assert self._seeking, "a node was chosen that nobody asked for"
        self._seeking = False
        self._sent += 1
        self._counted += 1
        self._running[self._sent] = _Copy(self._sent, self._counted, node, name, now)
        self._late_at = None if late_s is None or self.once or self._hedged else now + late_s
        self._unroutable_since = None
        return [Send(self._sent, self._counted, node, self.deadline - now, self._deaths)]

    def _unroutable(self, now: float, error: MeshError, final: bool) -> list[Effect]:
        self._seeking, self._nobody = False, error
        if self._running:  # it was for a second copy: the first goes on alone
            self.budget.give_back()
            return []
        if final or self.brief or (self.returns and not self._counted):
            return self._fail(error)
        if self._denied and self.pinned:
            return self._fail(next(reversed(self._denied.values())))
        if self._tried or self._refused:
            # Those tried are all there is: forget them, so that one able machine that lives is enough.
            self._tried.clear()
            return self._wait(now, error.retry_after_s)
        if self._unroutable_since is None or error.retry_after_s is not None:  # who says when to come again is there
            self._unroutable_since = now
        if now - self._unroutable_since >= UNROUTABLE_GRACE_S:
            return self._fail(next(reversed(self._denied.values()), error))
        return self._wait(now, error.retry_after_s)

    def _wait(self, now: float, retry_after_s: float | None) -> list[Effect]:
        self._refused.clear()
        self._refusals = 0
        pause_s = max(retry_after_s or 0.0, self.jitter() * min(BACKOFF_MAX_S, self.backoff_s * 2**self._rounds))
        self._rounds = min(self._rounds + 1, 16)
        self._wake_at = now + min(pause_s, BACKOFF_MAX_S)
        return []

    def _wake(self, now: float) -> list[Effect]:
        if not self._running:
            return self._route() if not self._seeking and now >= self._wake_at else []
        if self._late_at is None or now < self._late_at or self._seeking:
            return []
        self._late_at = None
        if len(self._running) > 1 or self._counted >= self.attempts_max or not self.budget.take():
            return []
        self._hedged = True
        return self._route()

    # --- an attempt ends ---

    def _answer(self, now: float, copy: _Copy, result: Any) -> list[Effect]:
        others = bool(self._running or self._strays or self._seeking)
        for other in self._running.values():
            self._record(now, other, Cancelled.code, f"{copy.name} answered first")
        self._record(now, copy, "ok")
        self._done = True
        self.budget.earn()
        answer = Answer(result, tuple(self._history))
        return [Abandon(), answer] if others else [answer]

    def _failed(self, now: float, copy: _Copy, error: MeshError) -> list[Effect]:
        lost = isinstance(error, PeerLost)
        if self._is_later(error):
            del self._running[copy.attempt]
            self._record(now, copy, "ok")
            return self._fail(error)
        if isinstance(error, PeerLost) and (error.sent or copy.recalls):
            return self._lost(now, copy, error)
        self._record(now, copy, error.code, str(error))
        del self._running[copy.attempt]
        # Who is asked for a result may refuse the question; only UnknownTask then says that nothing was begun.
        untouched = isinstance(error, UnknownTask) if copy.recalls else lost or error.untouched
        if self.once and not untouched:
            return self._fail(error)
        if lost or isinstance(error, (Refused, DeadlineExceeded, TransferFailed)):
            return self._refusal(now, copy, error)
        # A model that one node will not load may load on another: only the task's own faults end it here.
        if error.fault == "caller" and not isinstance(error, ModelRefused):
            return self._fail(error)
        if error.fault == "policy":
            self._denied[copy.node] = error
        return self._killed(copy, error) or self._again(now, copy, error, free=isinstance(error, UnknownTask))

    def _killed(self, copy: _Copy, error: MeshError) -> list[Effect]:
        """Count a death of a worker, also where nobody waits for it any more; one too many is the end."""
        self._deaths += isinstance(error, WorkerCrashed)
        if self._deaths < DEATHS_MAX or not isinstance(error, WorkerCrashed):
            return []
        text = f"the task killed the worker that ran it {self._deaths} times; last on {copy.name}: {error}"
        return self._fail(PoisonTask(text, hint="run the model on this input alone to find the fault"))

    def _lost(self, now: float, copy: _Copy, error: PeerLost) -> list[Effect]:
        """The node may have run the task, and its answer did not come."""
        reached = error.sent  # else it was looked for once more, and not found
        if reached:
            self._record(now, copy, error.code, str(error))
        recall = partial(Recall, copy.attempt, copy.number, copy.node)
        if self.once:
            copy.recalls += 1
            if reached:
                return [recall(min(self.deadline - now, RECALL_ONCE_S), patient=True)]
            del self._running[copy.attempt]
            text = f"{copy.name} had the task and cannot be asked what came of it: {error}"
            hint = "it may have run; it is not sent again because idempotent=False forbids that"
            return self._fail(OutcomeUnknown(text, hint=hint))
        if isinstance(error, PeerSilent):
            del self._running[copy.attempt]
            self._strays[copy.attempt] = copy
            return [recall(self.deadline - now, patient=True), *self._again(now, copy, error, free=False)]
        if reached and copy.recalls < RECALLS_MAX:
            copy.recalls += 1
            return [recall(RECALL_S, patient=False)]
        del self._running[copy.attempt]
        return self._again(now, copy, error, free=True)

    def _again(self, now: float, copy: _Copy, error: MeshError, *, free: bool) -> list[Effect]:
        """Run it on another node, unless another copy is under way."""
        if copy.node not in self._denied:
            self._tried.add(copy.node)
        if self._running:
            return []
        self._late_at = None
        if self._seeking:  # the second copy's node becomes the next one's
            return []
        if self._counted >= self.attempts_max:
            return self._fail(error)
        return self._route() if free or self.budget.take() else self._wait(now, None)

    def _refusal(self, now: float, copy: _Copy, error: MeshError) -> list[Effect]:
        self._counted -= 1
        self._refused.add(copy.node)
        self._refusals += 1
        if self._running or self._seeking:
            return []
        self._late_at = None
        if self._refusals >= REFUSALS_MAX:
            return self._wait(now, error.retry_after_s)
        return self._route()

    # --- the end ---

    def _out_of_time(self) -> MeshError:
        if self._running:
            where = f"it was running on {' and '.join(copy.name for copy in self._running.values())}"
        elif self._history:
            where = f"no node took it; last: {self._history[-1].name}: {self._history[-1].outcome}"
        elif self._seeking:
            where = "no node was chosen yet"
        else:
            why = "" if self._nobody is None else f": {self._nobody}"
            return NoCapacity(
                f"no node could take the task before its deadline{why}",
                hint="`meshnode status` shows who is busy or away; allow more time, or add a node",
            )
        return DeadlineExceeded(f"the task's time ran out; {where}", hint="allow more time with timeout=")

    def _end(self, now: float, error: MeshError) -> list[Effect]:
        for copy in self._running.values():
            self._record(now, copy, error.code)
        self._running.clear()
        self._strays.clear()
        return [Abandon(), *self._fail(error)]

    def _fail(self, error: MeshError) -> list[Effect]:
        self._done = True
        error.attempts = (*self._history, *(error.attempts if self._is_later(error) else ()))
        return [Abandon(), Fail(error)] if self._running or self._strays else [Fail(error)]

    def _is_later(self, error: MeshError) -> bool:
        return error.stage is not None and error.stage > self.stage

    def _record(self, now: float, copy: _Copy, outcome: str, detail: str = "") -> None:
        if len(self._history) >= HISTORY_MAX:
            del self._history[HISTORY_MAX // 2]  # keep how it began and how it ended
        self._history.append(Attempt(copy.node, copy.name, outcome, now - copy.sent_at, detail, self.stage))

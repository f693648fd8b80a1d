"""Choosing the node of an attempt: facts from the view, quotes from the peers, the decision from the policy.

The shell around `meshnode.routing`: it turns what membership and the catalog know into facts, asks the candidates,
and keeps what was quoted so that it can be compared with what came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct, structs

from meshnode.config import Routing
from meshnode.errors import (
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    NoCapacity,
    NoNodeInZone,
    PeerLost,
    PermissionDenied,
    Refused,
)
from meshnode.latest import Latest
from meshnode.links.link import Link, Reply
from meshnode.membership.view import Member
from meshnode.routing import policy
from meshnode.routing.estimates import MODELS_MAX, Estimates
from meshnode.routing.facts import Decision, PeerFacts, Ranked, TaskFacts
from meshnode.tasks.asking import Asking
from meshnode.tasks.explaining import Decided, Explaining
from meshnode.tasks.knowing import Knowing
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import Digest, Inferred, NodeId, Quote, QuoteAsk
from meshnode.wire.rng import Rng

PATIENT_S = 5.0
"""Who has more time left than this is not given up for what nodes say now: they restart, recover, and learn. Tasks with
17 s left were lost while every node that was asked had just been restarted or was behind with its work."""
QUOTE_FIRST_S = 1.0
"""A quote to a peer without a link may take a handshake more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where an attempt goes; `quoted_s` is how long it should take there, `max_wait_s` how long it may
    wait.
    """

    node: NodeId
    name: str
    quoted_s: float | None = field(default=None, compare=False)
    max_wait_s: float | None = field(default=None, compare=False)


class _Expected(Struct, frozen=True):
    """Of an attempt; `loading`: the model had to be loaded or fetched first."""

    estimate_s: float
    loading: bool
    sent_at: float


@dataclass(slots=True)
class Chooser:
    """See the module's docstring.

    Args:
        knowing: the facts of all members.
        explaining: is told of each decision.
        quote_here: this node's own quote for a task of that node, which keeps a place; raises MeshError.
        release_here: gives that place back.
        link: the connection to a peer; raises PeerLost.
        linked: the live link to a peer, when there is one.
        find: a member by name or id; raises InvalidInput.
        now: the monotonic clock.
    """

    self_id: NodeId
    settings: Routing
    rng: Rng
    estimates: Estimates
    knowing: Knowing
    explaining: Explaining
    quote_here: Callable[[QuoteAsk, NodeId], Reply]
    release_here: Callable[[QuoteAsk], None]
    link: Callable[[NodeId], Awaitable[Link]]
    linked: Callable[[NodeId], Link | None]
    find: Callable[[str], Member]
    now: Callable[[], float] = time.monotonic
    asking: Asking = field(default_factory=Asking)
    _expected: dict[str, dict[NodeId, _Expected]] = field(default_factory=dict)
    """Of attempts that are out, by task."""
    _output_bytes: Latest[Digest, int] = field(default_factory=lambda: Latest(MODELS_MAX))
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def choose(self, wanted: Wanted, exclude: frozenset[NodeId], remaining_s: float) -> Choice:
        """The node for the next attempt.

        Raises NoNodeInZone, InvalidInput for an unknown node, DeadlineExceeded when nobody would be done in time,
        NoCapacity (with `retry_after_s`) when nobody takes it.
        """
        if exclude:  # it had a place, and must not wait behind those that never had one
            return await self._choose(wanted, exclude, remaining_s)
        deadline = self.now() + remaining_s
        return await self.asking.in_turn(
            _kind(wanted), deadline, lambda: self._choose(wanted, exclude, deadline - self.now())
        )

    async def _choose(self, wanted: Wanted, exclude: frozenset[NodeId], remaining_s: float) -> Choice:
        task, decided = await self._decide(wanted, exclude, remaining_s)
        self.explaining.decided(wanted, decided)
        if not decided.ranked:
            raise self._nobody(wanted, decided.decision, decided.refusals)
        best = decided.ranked[0]
        if wanted.node is None and all(policy.hopeless(task, ranked) for ranked in decided.ranked):
            error = self._too_late(wanted, task, best)
            if isinstance(error, DeadlineExceeded):
                soonest_s = min(policy.surely_s(ranked, moving=False) for ranked in decided.ranked)
                self.asking.hopeless(_kind(wanted), soonest_s, error)
            raise error
        node, now = best.peer.id, self.now()
        sent = self._expected.setdefault(wanted.task, {})
        sent[node] = _Expected(best.estimate_s, best.terms["fetch_s"] > 0, now)
        self.estimates.sent(node, wanted.manifest.digest, now)
        max_wait_s = decided.decision.max_wait_s
        expected_s = self.estimates.expected_s(node, wanted.manifest.digest, best.estimate_s)
        return Choice(node, self.knowing.name(node), expected_s, max_wait_s)

    async def plan(self, wanted: Wanted, remaining_s: float) -> dict[str, Any]:
        """The decision as a document, without running anything; holds run out by themselves."""
        _, decided = await self._decide(wanted, frozenset(), remaining_s, ask_all=True)
        return {"model": wanted.manifest.digest, **self.explaining.document(decided)}

    def succeeded(self, wanted: Wanted, node: NodeId, actual_s: float, message: Inferred) -> None:
        """An attempt brought a result."""
        now = self.now()
        expected = self._expected.get(wanted.task, {}).pop(node, None)
        expected_s = None if expected is None else expected.estimate_s
        self.explaining.ended(wanted.task, node, "ok", actual_s)
        output_bytes = sum(spec.nbytes for spec in message.outputs)
        if not wanted.onward:  # else it is what another model brought
            self._output_bytes[wanted.manifest.digest] = output_bytes
        if expected_s is not None:
            self.estimates.came(node, wanted.manifest.digest, estimate_s=expected_s, actual_s=actual_s)
        if node == self.self_id:
            return
        link = self.linked(node)
        self.estimates.succeeded(
            node,
            wanted.manifest.digest,
            now=now,
            quoted_s=expected_s,
            actual_s=actual_s,
            run_s=message.run_s,
            queue_s=message.queue_s,
            nbytes=0 if expected is None or expected.loading else wanted.input_bytes + output_bytes,
            rtt_s=(link.rtt_s or 0.0) if link is not None else 0.0,
        )
        self.estimates.told(node, message.backlog_s, now)

    def failed(self, wanted: Wanted, node: NodeId, error: MeshError) -> None:
        """An attempt failed."""
        now = self.now()
        self._expected.get(wanted.task, {}).pop(node, None)
        self.explaining.ended(wanted.task, node, error.code)
        if isinstance(error, PeerLost):
            self.estimates.failed(node, now)
        elif isinstance(error, Refused) and error.retry_after_s is not None and node != self.self_id:
            self.estimates.told(node, error.retry_after_s, now)

    def ended(self, wanted: Wanted) -> None:
        """The task is over: attempts that are still out are not wanted any more, and took at least until now."""
        now = self.now()
        for node, expected in self._expected.pop(wanted.task, {}).items():
            if node != self.self_id and not wanted.onward:  # it may wait for others
                self.estimates.unanswered(
                    node,
                    wanted.manifest.digest,
                    now=now,
                    quoted_s=expected.estimate_s,
                    waited_s=now - expected.sent_at,
                )

    # --- deciding ---

    async def _decide(
        self, wanted: Wanted, exclude: frozenset[NodeId], remaining_s: float, *, ask_all: bool = False
    ) -> tuple[TaskFacts, Decided]:
        task = self._task(wanted, remaining_s)
        peers = self.knowing.peers(wanted, self.now())
        ask = QuoteAsk(
            task=wanted.task,
            model=wanted.manifest.digest,
            deadline_s=max(0.0, remaining_s),
            priority=wanted.priority,
            zone=wanted.zone,
            input_bytes=wanted.input_bytes,
            provider=wanted.provider,
        )
        elsewhere = task.node not in (None, self.self_id)
        own, refusals = (None, {}) if elsewhere else self._own_quote(wanted, ask, peers, exclude)
        settings = self.settings
        decision = policy.route(task, peers, own, self.rng, settings, exclude, ask=ask_all or bool(exclude))
        quotes: dict[NodeId, Quote] = {}
        if own is not None and any(peer.is_self for peer in decision.candidates):
            quotes[self.self_id] = own
        if decision.kind == "go":
            quotes[decision.candidates[0].id] = policy.believed(task, decision.candidates[0])
        elif decision.kind == "ask":
            warm = 0 if ask_all or exclude else sum(peer.loaded for peer in decision.candidates)
            await self._ask(wanted, structs.replace(ask, warm=warm), _others(decision.candidates), quotes, refusals)
        if ask_all and decision.kind == "local":
            fit = [peer for peer in peers if peer.id not in decision.excluded]
            await self._ask(wanted, ask, _others(fit), quotes, refusals)
        ranked = policy.pick(task, quotes, peers, self.rng, settings)
        rounds = 1
        while decision.kind == "ask" and policy.ask_more(ranked, rounds, settings):
            asked = frozenset(quotes) | frozenset(refusals) | {self.self_id}
            more = policy.route(task, peers, None, self.rng, settings, exclude | asked, ask=True)
            if not more.candidates:
                break
            await self._ask(wanted, ask, _others(more.candidates), quotes, refusals)
            ranked = policy.pick(task, quotes, peers, self.rng, settings)
            rounds += 1
        if own is not None and not (ranked and ranked[0].peer.is_self):
            # Kept, the place would make this node look busy to the next task, whose place would do so in its turn.
            self.release_here(ask)
        return task, Decided(decision, ranked, refusals)

    def _own_quote(
        self, wanted: Wanted, ask: QuoteAsk, peers: list[PeerFacts], exclude: frozenset[NodeId]
    ) -> tuple[Quote | None, dict[NodeId, MeshError]]:
        if self.self_id in exclude or not any(peer.is_self and peer.worker for peer in peers):
            return None, {}
        try:
            message = self.quote_here(ask, wanted.on_behalf or self.self_id).message
        except MeshError as error:
            return None, {self.self_id: error}
        assert isinstance(message, Quote)
        return message, {}

    async def _ask(
        self,
        wanted: Wanted,
        ask: QuoteAsk,
        nodes: list[NodeId],
        quotes: dict[NodeId, Quote],
        refusals: dict[NodeId, MeshError],
    ) -> None:
        """Ask all at once and take what came in time; a node that said nothing is left out for a moment."""
        if not nodes:
            return
        asking = {self._start(self._ask_one(wanted, ask, node)): node for node in nodes}
        fresh = any(self.linked(node) is None for node in nodes)
        limit_s = QUOTE_FIRST_S if fresh else self._quote_timeout_s(nodes)
        try:
            done, late = await asyncio.wait(asking, timeout=limit_s)
        except asyncio.CancelledError:
            for task in asking:  # nobody waits for them any more: the peers hear it too
                task.cancel()
            raise
        for task in late:
            self.estimates.failed(asking[task], self.now())
            refusals[asking[task]] = PeerLost(f"no quote within {limit_s:.3g} s")
            task.cancel()
        for task in done:
            error = task.exception()
            if error is None:
                quote = quotes[asking[task]] = task.result()
                self.estimates.told(asking[task], quote.backlog_s, self.now())
            elif isinstance(error, MeshError):
                refusals[asking[task]] = error
                if isinstance(error, PeerLost):
                    self.estimates.failed(asking[task], self.now())
            else:
                raise error

    async def _ask_one(self, wanted: Wanted, ask: QuoteAsk, node: NodeId) -> Quote:
        link = self.linked(node) or await self.link(node)
        self.knowing.check_way(link, wanted)
        received = await link.call(ask)
        if not isinstance(received.message, Quote):
            raise PeerLost(f"a quote was answered with {type(received.message).__name__}")
        return received.message

    def _quote_timeout_s(self, nodes: list[NodeId]) -> float:
        links = [link for node in nodes if (link := self.linked(node)) is not None]
        rtt_s = max((link.rtt_s or 0.0 for link in links), default=0.0)
        return max(self.settings.quote_timeout_s, 4 * rtt_s)

    # --- facts ---

    def _task(self, wanted: Wanted, remaining_s: float) -> TaskFacts:
        member = self.find(wanted.node) if wanted.node is not None else None
        if member is not None and member.state == "left":
            raise InvalidInput(f"node {member.name} is not in the mesh any more: {member.reason or 'it left'}")
        manifest = wanted.manifest
        return TaskFacts(
            wanted.input_bytes,
            remaining_s,
            manifest.size,
            manifest.memory_bytes,
            next(iter(wanted.zones), None),
            node=member.id if member is not None else None,
            output_bytes=self._output_bytes.get(manifest.digest, 0),
            provider=wanted.provider,
            objective=wanted.objective,
        )

    def _too_late(self, wanted: Wanted, task: TaskFacts, best: Ranked) -> MeshError:
        """Nobody would be done in time: better said now than when the time is up, unless that is far away."""
        text = (
            f"no node would be done with {wanted.manifest.name!r} in the {task.remaining_s:.3g} s that are left; "
            f"the soonest, {self.knowing.name(best.peer.id)}, in {best.estimate_s:.3g} s"
        )
        if task.remaining_s > PATIENT_S:
            return NoCapacity(text, retry_after_s=1.0)
        return DeadlineExceeded(
            text,
            hint="allow more time with timeout=, submit less at once, or add a node",
        )

    def _nobody(self, wanted: Wanted, decision: Decision, refusals: Mapping[NodeId, MeshError]) -> MeshError:
        """Why nobody takes the task, as the error that the client would see."""
        reasons = {node: why.reason for node, why in decision.excluded.items()}
        considered = [node for node, reason in reasons.items() if reason != "node"]
        there = {node for node in considered if reasons[node] not in ("zone", "not_alive", "role")}
        there.update(peer.id for peer in decision.candidates)
        there.difference_update(node for node, error in refusals.items() if isinstance(error, NoNodeInZone))
        if wanted.zones and not there:
            details = [*map(str, refusals.values()), *(why.detail for why in decision.excluded.values())]
            cut_off = [text for text in details if "only through" in text]
            bound = "" if wanted.zone is not None else ", to which it is bound"
            return NoNodeInZone(
                f"no live node in zone {' and '.join(map(repr, wanted.zones))}{bound} can run {wanted.manifest.name!r}"
                + "".join(f"; {why}" for why in cut_off[:1]),
                hint="`meshnode members` shows the zones; a task never leaves the zone that it or its model names",
            )
        others = [node for node in there if node not in refusals and reasons.get(node) not in ("tried", "node")]
        if not others and refusals and all(isinstance(error, PermissionDenied) for error in refusals.values()):
            return next(iter(refusals.values()))
        if not refusals and considered and all(reasons[node] == "deadline" for node in considered):
            return DeadlineExceeded(
                f"no node could run {wanted.manifest.name!r} in the time that is left, were it idle",
                hint="allow more time with timeout=",
            )
        waits = [error.retry_after_s for error in refusals.values() if error.retry_after_s is not None]
        details = [f"{self.knowing.name(node)}: {error}" for node, error in refusals.items()]
        details += [
            f"{self.knowing.name(node)}: {why.detail}"
            for node, why in decision.excluded.items()
            if why.reason != "node"
        ]
        text = "; ".join(details[:6]) or "no node is there"
        return NoCapacity(
            f"no node can take {wanted.manifest.name!r} now ({text})", retry_after_s=min(waits, default=None)
        )

    def _start(self, work: Coroutine[Any, Any, Quote]) -> asyncio.Task[Quote]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _kind(wanted: Wanted) -> Hashable:
    """Tasks for which nodes are full, or not, together; what is for another node may be refused here by its quota."""
    bounds = wanted.zones, wanted.beyond
    return wanted.manifest.digest, wanted.node, bounds, wanted.provider, wanted.priority, wanted.on_behalf


def _others(peers: Sequence[PeerFacts]) -> list[NodeId]:
    return [peer.id for peer in peers if not peer.is_self]

"""Choosing the node of an attempt: facts from the view, quotes from the peers, the decision from the policy.

The shell around `meshnode.routing`: it turns what membership and the catalog know into facts, asks the candidates,
and keeps what was quoted so that it can be compared with what came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from meshnode.catalog.manifest import Manifest
from meshnode.config import Routing
from meshnode.errors import InvalidInput, MeshError, NoCapacity, NoNodeInZone, PeerLost
from meshnode.links.link import Link, Reply
from meshnode.membership.view import Member
from meshnode.routing import policy
from meshnode.routing.estimates import Estimates
from meshnode.routing.policy import Decision, PeerFacts, Ranked, TaskFacts
from meshnode.tasks.zones import in_zone
from meshnode.wire.messages import Inferred, NodeId, Plan, Priority, Quote, QuoteAsk, Submit
from meshnode.wire.rng import Rng

SERVICE_PRIOR_S = 0.05
EXACT_PROVIDER = "CPUExecutionProvider"
"""What `exact` asks for."""
QUOTE_FIRST_S = 1.0
"""A quote to a peer without a link may take a handshake more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task as routing sees it."""

    task: str
    manifest: Manifest
    input_bytes: int
    priority: Priority
    zone: str | None
    node: str | None
    provider: str = ""
    """Run it on this one only; empty for any."""

    @classmethod
    def of(cls, request: Submit | Plan, manifest: Manifest) -> Wanted:
        """Of a client's request."""
        task = request.task if isinstance(request, Submit) else "0" * 32
        nbytes = sum(spec.nbytes for spec in request.inputs)
        provider = EXACT_PROVIDER if request.exact else ""
        return cls(task, manifest, nbytes, request.priority, request.zone, request.node, provider)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where an attempt goes."""

    node: NodeId
    name: str
    quoted_s: float | None = field(default=None, compare=False)
    """How long it is expected to take there."""


@dataclass(slots=True)
class Chooser:
    """See the module's docstring.

    Args:
        view: the members.
        quote_here: this node's own quote; raises MeshError.
        link: the connection to a peer; raises PeerLost.
        linked: the live link to a peer, when there is one.
        find: a member by name or id; raises InvalidInput.
        may_work: whether a node's grant has the role `worker`.
    """

    self_id: NodeId
    settings: Routing
    rng: Rng
    estimates: Estimates
    view: Callable[[], tuple[Member, ...]]
    quote_here: Callable[[QuoteAsk], Reply]
    link: Callable[[NodeId], Awaitable[Link]]
    linked: Callable[[NodeId], Link | None]
    find: Callable[[str], Member]
    may_work: Callable[[NodeId], bool]
    _expected: dict[tuple[str, NodeId], float] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def choose(self, wanted: Wanted, exclude: frozenset[NodeId], remaining_s: float) -> Choice:
        """The node for the next attempt.

        Raises NoNodeInZone, InvalidInput for an unknown node, NoCapacity (with `retry_after_s`) when nobody takes it.
        """
        decision, ranked, refusals = await self._decide(wanted, exclude, remaining_s)
        if ranked:
            best = ranked[0]
            self._expected[wanted.task, best.peer.id] = best.estimate_s
            return Choice(best.peer.id, self._name(best.peer.id), best.estimate_s)
        raise self._nobody(wanted, decision, refusals)

    async def plan(self, wanted: Wanted, remaining_s: float) -> dict[str, Any]:
        """The decision as a document, without running anything; holds run out by themselves."""
        decision, ranked, refusals = await self._decide(wanted, frozenset(), remaining_s, ask_all=True)
        return {
            "model": wanted.manifest.digest,
            "kind": decision.kind,
            "choice": None if not ranked else {"node": ranked[0].peer.id, "name": self._name(ranked[0].peer.id)},
            "candidates": [
                {
                    "node": r.peer.id,
                    "name": self._name(r.peer.id),
                    "estimate_s": r.estimate_s,
                    "loaded": r.peer.loaded,
                    **r.terms,
                }
                for r in ranked
            ],
            "excluded": [
                {"node": node, "name": self._name(node), "reason": why.reason, "detail": why.detail}
                for node, why in decision.excluded.items()
            ]
            + [
                {"node": node, "name": self._name(node), "reason": error.code, "detail": str(error)}
                for node, error in refusals.items()
            ],
        }

    def succeeded(self, wanted: Wanted, node: NodeId, actual_s: float, message: Inferred) -> None:
        """An attempt brought a result."""
        quoted_s = self._expected.pop((wanted.task, node), None)
        if node != self.self_id:
            self.estimates.succeeded(
                node, wanted.manifest.digest, quoted_s=quoted_s, actual_s=actual_s, run_s=message.run_s
            )

    def failed(self, wanted: Wanted, node: NodeId, error: MeshError) -> None:
        """An attempt failed."""
        self._expected.pop((wanted.task, node), None)
        if isinstance(error, PeerLost):
            self.estimates.failed(node, time.monotonic())

    # --- deciding ---

    async def _decide(
        self, wanted: Wanted, exclude: frozenset[NodeId], remaining_s: float, *, ask_all: bool = False
    ) -> tuple[Decision, list[Ranked], dict[NodeId, MeshError]]:
        task = self._task(wanted, remaining_s)
        peers = self._peers(wanted)
        ask = QuoteAsk(
            task=wanted.task,
            model=wanted.manifest.digest,
            deadline_s=max(0.0, remaining_s),
            priority=wanted.priority,
            zone=wanted.zone,
            input_bytes=wanted.input_bytes,
            provider=wanted.provider,
        )
        own, refusals = self._own_quote(ask, peers, exclude)
        settings = self.settings
        decision = policy.route(task, peers, own, self.rng, settings, exclude)
        if decision.kind == "local" and not ask_all:
            assert own is not None, "only a node with a quote is chosen for itself"
            return decision, [policy.estimate(task, decision.candidates[0], own)], refusals
        here = any(peer.id == self.self_id for peer in decision.candidates)
        quotes = {self.self_id: own} if own is not None and here else {}
        others = [peer.id for peer in decision.candidates if peer.id != self.self_id]
        if ask_all and decision.kind == "local":
            others = [peer.id for peer in peers if peer.id not in decision.excluded and peer.id != self.self_id]
        if len(decision.candidates) == 1 and others and not ask_all and not exclude:
            # The only candidate is not asked whether it will: it says so when the task comes, or refuses with a hint.
            belief = self.estimates.of(others[0])
            believed_s = belief.service_s.get(wanted.manifest.digest, SERVICE_PRIOR_S)
            quotes[others[0]] = Quote(backlog_s=0.0, service_s=believed_s, slots=1)
            return decision, policy.pick(task, quotes, peers, self.rng, settings), refusals
        await self._ask(ask, others, quotes, refusals)
        return decision, policy.pick(task, quotes, peers, self.rng, settings), refusals

    def _own_quote(
        self, ask: QuoteAsk, peers: list[PeerFacts], exclude: frozenset[NodeId]
    ) -> tuple[Quote | None, dict[NodeId, MeshError]]:
        if self.self_id in exclude or not any(peer.is_self and peer.worker for peer in peers):
            return None, {}
        try:
            message = self.quote_here(ask).message
        except MeshError as error:
            return None, {self.self_id: error}
        assert isinstance(message, Quote)
        return message, {}

    async def _ask(
        self, ask: QuoteAsk, nodes: list[NodeId], quotes: dict[NodeId, Quote], refusals: dict[NodeId, MeshError]
    ) -> None:
        """Ask all at once and take what came in time; a node that said nothing is left out for a moment."""
        if not nodes:
            return
        asking = {self._start(self._ask_one(ask, node)): node for node in nodes}
        fresh = any(self.linked(node) is None for node in nodes)
        limit_s = QUOTE_FIRST_S if fresh else self._quote_timeout_s(nodes)
        try:
            done, late = await asyncio.wait(asking, timeout=limit_s)
        except asyncio.CancelledError:
            for task in asking:  # nobody waits for them any more: the peers hear it too
                task.cancel()
            raise
        for task in late:
            self.estimates.failed(asking[task], time.monotonic())
            refusals[asking[task]] = PeerLost(f"no quote within {limit_s:.3g} s")
            task.cancel()
        for task in done:
            error = task.exception()
            if error is None:
                quotes[asking[task]] = task.result()
            elif isinstance(error, MeshError):
                refusals[asking[task]] = error
                if isinstance(error, PeerLost):
                    self.estimates.failed(asking[task], time.monotonic())
            else:
                raise error

    async def _ask_one(self, ask: QuoteAsk, node: NodeId) -> Quote:
        link = self.linked(node) or await self.link(node)
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
        node = member.id if member is not None else None
        manifest = wanted.manifest
        return TaskFacts(wanted.input_bytes, remaining_s, manifest.size, manifest.memory_bytes, wanted.zone, node)

    def _peers(self, wanted: Wanted) -> list[PeerFacts]:
        now = time.monotonic()
        return [self._facts(member, wanted, now) for member in self.view()]

    def _facts(self, member: Member, wanted: Wanted, now: float) -> PeerFacts:
        advert = member.advert
        is_self = member.id == self.self_id
        if advert is None:
            return PeerFacts(member.id, is_self=is_self, alive=False)
        digest = wanted.manifest.digest
        held = next((model for model in advert.models if model.digest == digest), None)
        belief = self.estimates.of(member.id)
        advertised_s = held.service_s if held is not None else None
        known_s = belief.service_s.get(digest, advertised_s)
        link = None if is_self else self.linked(member.id)
        return PeerFacts(
            member.id,
            is_self=is_self,
            alive=is_self or member.usable,
            suspect=belief.suspect_until > now,
            draining=advert.draining,
            paused=advert.paused,
            worker=self.may_work(member.id),
            in_zone=wanted.zone is None or in_zone(advert.zone, wanted.zone),
            can_run=wanted.provider in advert.providers if wanted.provider else bool(advert.providers),
            loaded=held is not None and held.loaded,
            on_disk=held is not None,
            battery=advert.power.source == "battery",
            battery_percent=advert.power.percent,
            slots=advert.slots,
            service_s=SERVICE_PRIOR_S if known_s is None else known_s,
            rtt_s=0.0 if is_self else link.rtt_s if link is not None else None,
            weight=self.estimates.weight(member.id),
            shortfall_s=self.estimates.shortfall_s(member.id),
            ejected=self.estimates.ejected(member.id, now),
            correction=belief.correction,
        )

    def _name(self, node: NodeId) -> str:
        return next((member.name for member in self.view() if member.id == node), node[:8])

    def _nobody(self, wanted: Wanted, decision: Decision, refusals: dict[NodeId, MeshError]) -> MeshError:
        """Why nobody takes the task, as the error that the client would see."""
        reasons = {node: why.reason for node, why in decision.excluded.items()}
        considered = [node for node, reason in reasons.items() if reason != "node"]
        in_zone_now = [node for node in considered if reasons[node] not in ("zone", "not_alive")] or decision.candidates
        zoned = all(isinstance(error, NoNodeInZone) for error in refusals.values())
        if wanted.zone is not None and zoned and (refusals or not in_zone_now):
            return NoNodeInZone(
                f"no live node in zone {wanted.zone!r} can run {wanted.manifest.name!r}",
                hint="`meshnode status` shows the zones; a task never leaves the zone that it names",
            )
        waits = [error.retry_after_s for error in refusals.values() if error.retry_after_s is not None]
        details = [f"{self._name(node)}: {error}" for node, error in refusals.items()]
        details += [
            f"{self._name(node)}: {why.detail}" for node, why in decision.excluded.items() if why.reason != "node"
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

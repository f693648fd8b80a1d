"""What this node does for the blueprints: have a model, keep it, let it go. A core.

What placement says is done soon, and undone late: a seat that is ours for `CONFIRM_S` is taken, one that is not ours
any more is given up when those whose it is have had the model for `RELEASE_S`. So a node that comes and goes makes no
model move to and fro, and none is given up before it is elsewhere. What fails is tried again with growing pauses; what
fails `DECLINE_AFTER` times is declined, which others hear, and the next in line has it instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnode.fleet.blueprint import Blueprint
from meshnode.fleet.placement import Site, seats, trial_seats
from meshnode.wire.messages import Digest, NodeId

CONFIRM_S = 0.3
RELEASE_S = 60.0
RETRY_S = 2.0
RETRY_MAX_S = 300.0
DECLINE_AFTER = 3
DECLINED_S = 600.0
"""Then it is tried again: disks are emptied."""
STEADY_S = 60.0
"""Who kept a model for so long has no failures behind it."""


@dataclass(frozen=True, slots=True)
class Look:
    """The blueprints and the nodes, this one among them, as they are now."""

    blueprints: tuple[Blueprint, ...]
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What `Provide` asked for is there."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Failed:
    """What `Provide` asked for is not to be had now."""

    digest: Digest
    reason: str


Event = Look | Done | Failed


@dataclass(frozen=True, slots=True)
class Provide:
    """Fetch the model, and load it when `loaded`; answer with `Done` or `Failed`."""

    digest: Digest
    loaded: bool


@dataclass(frozen=True, slots=True)
class Release:
    """The model is nobody's wish here any more: it may be unloaded, and removed when room is needed."""

    digest: Digest


Effect = Provide | Release


@dataclass(slots=True)
class Duty:
    """One model that is or was ours. `state` is waiting, working, held or failed; `since` is when it became so."""

    loaded: bool
    since: float
    state: str = "waiting"
    reason: str = ""
    failures: int = 0
    again_at: float = 0.0
    not_ours_since: float | None = None


@dataclass(slots=True)
class Duties:
    """See the module's docstring."""

    self_id: NodeId
    known: dict[Digest, Duty] = field(default_factory=dict)
    declined: dict[Digest, float] = field(default_factory=dict)
    """What this node cannot have, and until when it does not try."""

    def handle(self, now: float, event: Event) -> list[Effect]:
        """One event; returns what to do."""
        match event:
            case Look(blueprints, sites):
                return self._look(now, blueprints, sites)
            case Done(digest):
                if (duty := self.known.get(digest)) is not None:
                    duty.state, duty.reason, duty.since = "held", "", now
            case Failed(digest, reason):
                if (duty := self.known.get(digest)) is not None:
                    self._failed(now, digest, duty, reason)
        return []

    def _failed(self, now: float, digest: Digest, duty: Duty, reason: str) -> None:
        duty.state, duty.reason = "failed", reason
        duty.failures += 1
        duty.again_at = now + min(RETRY_MAX_S, RETRY_S * 2 ** (duty.failures - 1))
        if duty.failures >= DECLINE_AFTER:
            self.declined[digest] = now + DECLINED_S

    def next_deadline(self) -> float | None:
        """When a look is due although nothing happened."""
        times = [duty.since + CONFIRM_S for duty in self.known.values() if duty.state == "waiting"]
        times += [duty.again_at for duty in self.known.values() if duty.state == "failed"]
        times += [it.not_ours_since + RELEASE_S for it in self.known.values() if it.not_ours_since is not None]
        times += self.declined.values()
        return min(times, default=None)

    def pinned(self) -> frozenset[Digest]:
        """Models that must stay on this disk."""
        return frozenset(self.known)

    def _look(self, now: float, blueprints: Sequence[Blueprint], sites: Sequence[Site]) -> list[Effect]:
        for digest in [digest for digest, until in self.declined.items() if until <= now]:
            del self.declined[digest]
        ours, wanted = self._ours(blueprints, sites)
        for digest, loaded in ours.items():
            duty = self.known.setdefault(digest, Duty(loaded, now))
            duty.not_ours_since = None
            if loaded and not duty.loaded and duty.state == "held":
                duty.state, duty.since = "waiting", now
            duty.loaded = loaded
        effects: list[Effect] = []
        here = next((site for site in sites if site.id == self.self_id), None)
        for digest, duty in list(self.known.items()):
            if digest in ours:
                effects += self._keep(now, digest, duty, here)
            elif self._may_go(now, digest, duty, wanted.get(digest), sites):
                del self.known[digest]
                effects.append(Release(digest))
        return effects

    def _ours(
        self, blueprints: Sequence[Blueprint], sites: Sequence[Site]
    ) -> tuple[dict[Digest, bool], dict[Digest, list[NodeId]]]:
        """(what is ours, and whether in memory; who is to have each model that anybody wants)"""
        ours: dict[Digest, bool] = {}
        wanted: dict[Digest, list[NodeId]] = {}
        for want in (want for blueprint in blueprints for want in blueprint.wants):
            placed = [(Digest(want.digest), seats(want, sites))]
            if want.trial is not None:
                placed.append((Digest(want.trial.digest), trial_seats(want, sites)))
            for digest, nodes in placed:
                wanted.setdefault(digest, []).extend(nodes)
                if self.self_id in nodes:
                    ours[digest] = ours.get(digest, False) or want.loaded
        return ours, wanted

    def _keep(self, now: float, digest: Digest, duty: Duty, here: Site | None) -> list[Effect]:
        there = here is not None and digest in here.holds and (here.holds[digest] or not duty.loaded)
        if duty.state == "held" and not there:
            if now >= duty.since + STEADY_S:
                duty.failures = 0
            self._failed(now, digest, duty, "it was here, and was unloaded or lost")
        due = (duty.state == "waiting" and now >= duty.since + CONFIRM_S) or (
            duty.state == "failed" and now >= duty.again_at
        )
        if not due:
            return []
        duty.state = "working"
        return [Provide(digest, duty.loaded)]

    def _may_go(
        self, now: float, digest: Digest, duty: Duty, others: list[NodeId] | None, sites: Sequence[Site]
    ) -> bool:
        if others is None or duty.state in ("waiting", "failed"):
            return duty.state != "working"  # nobody wants it, or it never came
        if duty.not_ours_since is None or not self._elsewhere(digest, others, sites):
            duty.not_ours_since = now
        return duty.state == "held" and now >= duty.not_ours_since + RELEASE_S

    @staticmethod
    def _elsewhere(digest: Digest, nodes: Sequence[NodeId], sites: Sequence[Site]) -> bool:
        """Whether all whose it is have it, and there are any."""
        return bool(nodes) and all(digest in site.holds for site in sites if site.id in nodes)

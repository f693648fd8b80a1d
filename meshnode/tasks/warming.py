"""Copies of a model in memory: where those that have it are asked for too much, others are asked to load it.

`meshnode.routing.demand` decides; this counts for it, looks four times a second while there is demand, and asks the
best of the others. Nothing waits for it: meanwhile tasks stay with those that have the model, or are refused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from meshnode.catalog.manifest import Manifest
from meshnode.config import Routing
from meshnode.errors import MeshError
from meshnode.links.link import Link
from meshnode.routing.demand import PATIENCE_S, Demand, decides
from meshnode.routing.facts import PeerFacts, TaskFacts
from meshnode.routing.filters import exclusion
from meshnode.tasks.knowing import Knowing
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import Digest, NodeId, Warm

LOOK_S = 0.25
MODELS_MAX = 256

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    demand: Demand
    look_at: float


@dataclass(slots=True)
class Warming:
    """What this node does about demand for the models that it has in memory.

    Args:
        manifest: of a digest; raises ModelNotFound.
        service_s: what a run of a model takes here, None while nothing is in memory.
        slots: runs at once here.
        link: a link to a peer; raises PeerLost.
        now: the monotonic clock.
    """

    self_id: NodeId
    settings: Routing
    knowing: Knowing
    manifest: Callable[[Digest], Manifest]
    service_s: Callable[[Digest], float | None]
    slots: Callable[[], int]
    link: Callable[[NodeId], Awaitable[Link]]
    now: Callable[[], float] = time.monotonic
    _watched: dict[Digest, _Watched] = field(default_factory=dict)
    _asking: set[asyncio.Task[None]] = field(default_factory=set)

    def came(self, model: Digest) -> None:
        """A task came without a question before it."""
        watched, now = self._of(model), self.now()
        watched.demand.came(now)
        self._look(model, watched, now)

    def asked(self, model: Digest, warm: int) -> None:
        """A submitter asked so many nodes that have the model in memory, this one perhaps among them."""
        watched, now = self._of(model), self.now()
        watched.demand.asked(now, warm)
        self._look(model, watched, now)

    def _of(self, model: Digest) -> _Watched:
        watched = self._watched.get(model)
        if watched is None:
            if len(self._watched) >= MODELS_MAX:
                del self._watched[next(iter(self._watched))]
            watched = self._watched[model] = _Watched(Demand(self.settings.copies_use_max), 0.0)
        return watched

    def _look(self, model: Digest, watched: _Watched, now: float) -> None:
        if now < watched.look_at:
            return
        watched.look_at = now + LOOK_S
        service_s = self.service_s(model)
        if service_s is None:
            return
        manifest = self.manifest(model)
        peers = self.knowing.peers(Wanted("", manifest, 0, "normal", None, None), now)
        others = [peer for peer in peers if not peer.is_self]
        copies = [peer.id for peer in others if peer.loaded and _works(peer)]
        if not decides(model, self.self_id, copies):
            return
        slots, count = self.slots(), 1 + len(copies)
        if more := watched.demand.missing(now, service_s=service_s, slots=slots, copies=count):
            self._ask_best(manifest, others, more)

    def _ask_best(self, manifest: Manifest, others: list[PeerFacts], more: int) -> None:
        task = TaskFacts(0, math.inf, manifest.size, manifest.memory_bytes)
        fit = [peer for peer in others if not peer.loaded and not peer.suspect and not peer.ejected]
        fit = [peer for peer in fit if exclusion(task, peer, self.settings, frozenset(), 0.0) is None]
        best = sorted(fit, key=lambda peer: -peer.capacity)[:more]
        log.info("%s is asked for too much: %d of the %d wanted nodes load it too", manifest.name, len(best), more)
        for peer in best:
            asking = asyncio.ensure_future(self._ask(manifest, peer.id))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def _ask(self, manifest: Manifest, node: NodeId) -> None:
        try:
            await (await self.link(node)).call(Warm(model=manifest.digest), timeout_s=PATIENCE_S)
        except MeshError as error:
            log.info("%s does not load %s: %s", self.knowing.name(node), manifest.name, error)


def _works(peer: PeerFacts) -> bool:
    return peer.alive and peer.worker and not peer.draining and not peer.paused

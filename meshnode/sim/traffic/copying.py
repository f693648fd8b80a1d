"""Copies of a model that is in memory on too few workers, made as agents make them: by the product's own `Demand`."""

from __future__ import annotations

from meshnode.config import Routing
from meshnode.routing.demand import Demand, decides
from meshnode.sim.traffic.scenarios import BASE_S, LOAD_S
from meshnode.sim.traffic.world import ONE_WAY_S, Worker, World
from meshnode.wire.messages import Digest, NodeId

ADVERT_S = 0.1
"""Until all have seen a new advert."""


class Copying:
    """Who has the model, as far as others know, and who is asked to load it."""

    def __init__(self, world: World, model: Digest, settings: Routing) -> None:
        self.world, self.model = world, model
        self.demands = [Demand(settings.copies_use_max) for _ in world.workers]
        self.known_at = [0.0 if worker.warm else float("inf") for worker in world.workers]
        self.loading: set[int] = set()

    def has(self, worker: Worker) -> bool:
        """Whether its advert says so."""
        return self.known_at[worker.index] <= self.world.now

    def asked(self, worker: Worker, warm: int | None) -> None:
        """A question, or None for a task that came without one: is it too much for those that have the model?"""
        if not worker.warm:
            return
        now, demand = self.world.now, self.demands[worker.index]
        others = [other for other in self.world.visible(now) if self.has(other) or other is worker]
        if warm is None:
            demand.came(now)
        else:
            demand.asked(now, warm)
        name = NodeId(str(worker.index))
        if decides(self.model, name, [NodeId(str(other.index)) for other in others]):
            service_s = BASE_S / worker.speed
            more = demand.missing(now, service_s=service_s, slots=1, copies=len(others))
            for other in [it for it in self.world.visible(now) if not self.has(it) and it is not worker][:more]:
                self.world.after(ONE_WAY_S, lambda other=other: self.load(other))  # type: ignore[misc]

    def load(self, worker: Worker) -> None:
        """It was asked to load the model, and does so beside its work."""
        if worker.warm or worker.index in self.loading:
            return
        self.loading.add(worker.index)
        self.world.loads += 1
        self.world.after(LOAD_S, lambda: self._loaded(worker))

    def loaded(self, worker: Worker) -> None:
        """It has the model now."""
        worker.warm = True
        self.known_at[worker.index] = self.world.now + ADVERT_S

    def _loaded(self, worker: Worker) -> None:
        self.loading.discard(worker.index)
        self.loaded(worker)

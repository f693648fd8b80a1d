"""The product's own `route`, `pick`, `Estimates` and `TaskQueue`, driven as an agent drives them.

Each submitter has its own beliefs. Nobody is local: every task goes to a worker. A quote and a task take one way each;
a quote that is not answered within the time-out makes its peer suspect; heartbeats on the connection notice a silent
death after three quarters of a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from meshnode.config import LAN
from meshnode.errors import Refused
from meshnode.execution.events import Effect, Expired, Finished, Hold, Offer, Overdue, Ready, Start
from meshnode.execution.queue import TaskQueue
from meshnode.routing.estimates import Estimates
from meshnode.routing.facts import Decision, PeerFacts, Ranked, TaskFacts
from meshnode.routing.policy import ask_more, believed, estimate, hopeless, pick, route
from meshnode.sim.traffic.copying import Copying
from meshnode.sim.traffic.scenarios import BASE_S, LOAD_S
from meshnode.sim.traffic.world import DEADLINE_S, ONE_WAY_S, RTT_S, Task, Worker, World
from meshnode.wire.messages import Digest, NodeId, Quote, TaskId

MODEL, WARM = Digest("0" * 64), TaskId("warm")
REFUSALS_MAX, BACKOFF_S = 3, 0.025
EXECUTION = replace(LAN.execution, service_prior_s=0.05)


@dataclass(slots=True)
class _Submitter:
    """What one agent believes, and the facts it made of it."""

    estimates: Estimates
    facts: dict[int, tuple[int, float, PeerFacts]] = field(default_factory=dict)


class Product:
    """See the module's docstring. `deadlines`: a task that nobody would finish in time is given up at once."""

    silence_s = 0.75

    def __init__(self, world: World) -> None:
        self.world = world
        self.settings = LAN.routing
        self.deadlines = bool(world.scenario.overload) or world.scenario.cold
        self.hold_s = min(self.settings.hold_s, 2 * RTT_S)
        self.quote_timeout_s = max(4 * RTT_S, 0.01)
        self.submitters = [_Submitter(Estimates(self.settings, world.rng)) for _ in range(world.scenario.submitters)]
        self.queues = [TaskQueue(EXECUTION, 1) for _ in world.workers]
        for worker, queue in zip(world.workers, self.queues, strict=True):
            queue.handle(0.0, Ready(True))
            queue.handle(0.0, Offer(WARM, MODEL, 1e9))
            queue.handle(0.0, Finished(WARM, BASE_S / worker.speed))  # the run when the model was loaded
        self.waiting: list[dict[TaskId, Task]] = [{} for _ in world.workers]
        self.copying = Copying(world, MODEL, self.settings)
        self.decision_s: list[float] = []
        self.errors: list[float] = []
        self.unasked = 0

    # --- the submitter ---

    def submit(self, task: Task, refusals: int = 0) -> None:
        """Decide, ask, pick, send."""
        world, me = self.world, self.submitters[task.submitter]
        remaining_s = task.began + DEADLINE_S - world.now if self.deadlines else 30.0
        facts = TaskFacts(task.nbytes, remaining_s, model_bytes=1_000_000)
        peers = self._peers(me)
        exclude = frozenset(NodeId(str(index)) for index in task.tried)
        began = time.perf_counter()
        decision = route(facts, peers, None, world.rng, self.settings, exclude, ask=bool(exclude) or refusals > 0)
        self.decision_s.append(time.perf_counter() - began)
        if decision.kind == "go":
            self.unasked += 1
            best = estimate(facts, decision.candidates[0], believed(facts, decision.candidates[0]))
            self._place(task, facts, [best], refusals, decision.max_wait_s)
            return
        if self.deadlines and decision.kind == "none":
            world.back(task, failed=True)
            return
        self._ask(task, facts, decision, {}, refusals, 1)

    def _ask(
        self,
        task: Task,
        facts: TaskFacts,
        decision: Decision,
        quotes: dict[NodeId, tuple[PeerFacts, Quote]],
        refusals: int,
        rounds: int,
    ) -> None:
        """One round of questions."""
        world, me = self.world, self.submitters[task.submitter]
        warm = sum(peer.loaded for peer in decision.candidates) if rounds == 1 and refusals == 0 else 0

        def ask(peer: PeerFacts) -> None:
            worker = world.workers[int(peer.id)]
            quote = self._quote(worker, task, warm) if worker.alive else None
            if quote is not None:
                world.after(ONE_WAY_S, lambda: quotes.__setitem__(peer.id, (peer, quote)))

        for peer in decision.candidates:
            world.after(ONE_WAY_S, lambda peer=peer: ask(peer))  # type: ignore[misc]
        silent = [peer for peer in decision.candidates if not world.workers[int(peer.id)].alive]
        for peer in silent:
            me.estimates.failed(peer.id, world.now)
        wait_s = self.quote_timeout_s if silent and world.scenario.silent else RTT_S
        world.after(wait_s + 1e-9, lambda: self._asked(task, facts, quotes, refusals, rounds))

    def _asked(
        self,
        task: Task,
        facts: TaskFacts,
        quotes: dict[NodeId, tuple[PeerFacts, Quote]],
        refusals: int,
        rounds: int,
    ) -> None:
        given = {name: quote for name, (_, quote) in quotes.items()}
        peers = [peer for peer, _ in quotes.values()]
        ranked = pick(facts, given, peers, self.world.rng, self.settings)
        if ask_more(ranked, rounds, self.settings):
            exclude = frozenset(quotes) | {NodeId(str(index)) for index in task.tried}
            others = self._peers(self.submitters[task.submitter])
            decision = route(facts, others, None, self.world.rng, self.settings, exclude, ask=True)
            if decision.candidates:
                self._ask(task, facts, decision, quotes, refusals, rounds + 1)
                return
        self._place(task, facts, ranked, refusals, None)

    def _place(
        self, task: Task, facts: TaskFacts, ranked: list[Ranked], refusals: int, max_wait_s: float | None
    ) -> None:
        if not ranked:
            self._refused(task, refusals)
        elif self.deadlines and all(hopeless(facts, one) for one in ranked):
            self.world.back(task, failed=True)
        else:
            self._send(task, ranked[0], refusals, max_wait_s)

    def _send(self, task: Task, best: Ranked, refusals: int, max_wait_s: float | None) -> None:
        task.expected_s = best.estimate_s
        worker = self.world.workers[int(best.peer.id)]
        self.submitters[task.submitter].estimates.sent(best.peer.id, MODEL, self.world.now)
        self.world.send(task, worker, lambda task, worker: self._offer(task, worker, refusals, max_wait_s))

    def _refused(self, task: Task, refusals: int) -> None:
        self.world.refused += 1
        again_s = 0.0 if refusals % REFUSALS_MAX else BACKOFF_S * self.world.rng.random()
        self.world.after(again_s, lambda: self.submit(task, refusals + 1))

    def returned(self, task: Task, worker: Worker, run_s: float) -> None:
        """See `Policy`."""
        estimates, now = self.submitters[task.submitter].estimates, self.world.now
        name, actual_s = NodeId(str(worker.index)), now - task.sent_at
        moving_s = worker.transfer_s(task)
        estimates.succeeded(
            name,
            MODEL,
            now=now,
            quoted_s=task.expected_s,
            actual_s=actual_s,
            run_s=run_s,
            queue_s=actual_s - run_s - RTT_S - moving_s,
            nbytes=task.nbytes,
            rtt_s=RTT_S,
        )
        estimates.told(name, self.queues[worker.index].backlog_s(now), now)
        self.errors.append(abs(task.expected_s - actual_s) / actual_s)
        self.world.back(task)

    def lost(self, task: Task, worker: Worker) -> None:
        """See `Policy`."""
        self.submitters[task.submitter].estimates.failed(NodeId(str(worker.index)), self.world.now)
        self.submit(task)

    def held(self, worker: Worker) -> list[Task]:
        """See `Policy`."""
        return list(self.waiting[worker.index].values())

    def _peers(self, me: _Submitter) -> list[PeerFacts]:
        return [self._facts(me, worker) for worker in self.world.visible(self.world.now)]

    def _facts(self, me: _Submitter, worker: Worker) -> PeerFacts:
        name, estimates, now = NodeId(str(worker.index)), me.estimates, self.world.now
        belief = estimates.of(name)
        held = me.facts.get(worker.index)
        if held is not None and held[0] == belief.revision and held[1] > now:
            return held[2]
        suspect, ejected = belief.suspect_until > now, estimates.ejected(name, now)
        backlog_s = estimates.backlog_s(name, now)
        weight, shortfall_s = estimates.weight(name, now), estimates.shortfall_s(name)
        facts = PeerFacts(
            name,
            loaded=self.copying.has(worker),
            on_disk=True,
            suspect=suspect,
            ejected=ejected,
            rtt_s=RTT_S,
            bytes_s=belief.bytes_s,
            backlog_s=backlog_s,
            service_s=belief.service_s.get(MODEL, BASE_S / worker.speed),
            weight=weight,
            correction=belief.correction,
            shortfall_s=shortfall_s,
        )
        passing = suspect or ejected or weight < 1.0 or shortfall_s or not facts.loaded
        me.facts[worker.index] = (belief.revision, now if passing else now + 0.5, facts)
        return facts

    # --- the worker ---

    def _quote(self, worker: Worker, task: Task, warm: int) -> Quote | None:
        queue, now = self.queues[worker.index], self.world.now
        self.copying.asked(worker, warm)
        try:
            backlog_s, service_s = queue.quote(now, MODEL)
        except Refused:
            return None
        self._act(worker, queue.handle(now, Hold(TaskId(str(task.number)), MODEL, self.hold_s)))
        return Quote(backlog_s=backlog_s, service_s=service_s, slots=1, load_s=0.0 if worker.warm else LOAD_S)

    def _offer(self, task: Task, worker: Worker, refusals: int, max_wait_s: float | None) -> None:
        queue, now, name = self.queues[worker.index], self.world.now, TaskId(str(task.number))
        deadline = task.began + DEADLINE_S if self.deadlines else 1e9
        if max_wait_s is not None:
            self.copying.asked(worker, None)
        try:
            self.waiting[worker.index][name] = task
            worker.work += task.size
            self._act(worker, queue.handle(now, Offer(name, MODEL, deadline, max_wait_s=max_wait_s)))
        except Refused as error:
            if self.waiting[worker.index].pop(name, None) is not None:
                worker.work -= task.size
            hint_s = error.retry_after_s
            if hint_s is not None:
                self.submitters[task.submitter].estimates.told(NodeId(str(worker.index)), hint_s, now)
            self.world.after(ONE_WAY_S, lambda: self._refused(task, refusals))

    def _act(self, worker: Worker, effects: list[Effect]) -> None:
        for effect in effects:
            task = self.waiting[worker.index].pop(effect.task)
            worker.work -= task.size
            if isinstance(effect, Start):
                self._start(worker, effect.task, task)
            elif isinstance(effect, Expired):
                self.world.after(ONE_WAY_S, lambda task=task: self.world.back(task, failed=True))  # type: ignore[misc]
            elif isinstance(effect, Overdue):
                self.world.after(ONE_WAY_S, lambda task=task: self._refused(task, 0))  # type: ignore[misc]

    def _start(self, worker: Worker, name: TaskId, task: Task) -> None:
        world = self.world
        load_s, run_s = world.load(worker), worker.service_s(task.size, world.now)
        if load_s:
            world.after(load_s, lambda: self.copying.loaded(worker))
        worker.line.append(task)
        task.runs += 1

        def ended() -> None:
            if not worker.alive:
                return
            worker.line.popleft()
            self._act(worker, self.queues[worker.index].handle(world.now, Finished(name, run_s)))
            world.after(ONE_WAY_S, lambda: self.returned(task, worker, run_s))

        world.after(load_s + run_s, ended)

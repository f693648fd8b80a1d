"""Driving the trials of new versions: by the agent that signed the blueprint, or any that holds the same admin key.

Nothing depends on it: when it is gone a trial stays a trial, and goes on when it is back or when another admin takes
the blueprint forward or back. `meshnode.fleet.rollout` judges.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import structs

from meshnode.edge import fleet
from meshnode.edge.node import Node
from meshnode.errors import MeshError
from meshnode.fleet.blueprint import Blueprint, Canary, Held, Want
from meshnode.fleet.placement import Site, trial_seats
from meshnode.fleet.rollout import Tally, Verdict, judge
from meshnode.trust.identity import public_der
from meshnode.wire.messages import Digest, NodeId

LOOK_S = 1.0
log = logging.getLogger(__name__)
Both = tuple[Tally, Tally]
"""(of the old version, of the new one)"""


@dataclass(slots=True)
class _Trial:
    began: float
    base: dict[NodeId, Both]


@dataclass(slots=True)
class Rollouts:
    """See the module's docstring."""

    node: Node
    _trials: dict[tuple[str, str, str], _Trial] = field(default_factory=dict)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for held in fleet.held(self.node).values():
                if any(want.trial is not None for want in held.now.wants) and self._ours(held):
                    try:
                        await self._step(held)
                    except MeshError as error:
                        log.warning("the roll-out of blueprint %s waits: %s", held.now.name, error)

    def _ours(self, held: Held) -> bool:
        key, statement = self.node.keeper.admin_key, self.node.keeper.statements.get(held.statement)
        return key is not None and statement is not None and statement.issuer == public_der(key)

    async def _step(self, held: Held) -> None:
        """Look at each trial; what is decided of them is said once."""
        places = fleet.sites(self.node)
        wants: list[Want] = []
        notes: list[str] = []
        for want in held.now.wants:
            verdict = await self._judge(held.now, want, places)
            if verdict is not None and (next := _decided(want, verdict, places)) is not None:
                wants.append(next)
                notes.append(f"{want.model}: {_told(want, next)}: {verdict.why}")
            else:
                wants.append(want)
        if notes:
            for note in notes:
                log.info("blueprint %s, %s", held.now.name, note)
            text = "; ".join(notes)[:512]
            fleet.declare(self.node, Blueprint(held.now.name, held.now.revision + 1, tuple(wants), text))

    async def _judge(self, blueprint: Blueprint, want: Want, places: Sequence[Site]) -> Verdict | None:
        """None when there is no trial, or when nobody has the new version yet."""
        trial = want.trial
        if trial is None:
            return None
        if trial.everywhere:
            return Verdict("forward", "it did well in its trial")
        digests = (Digest(want.digest), Digest(trial.digest))
        if not any(digests[1] in site.holds for site in places if site.alive):
            return None
        seen = await self._tallies([site for site in places if site.alive and site.works], digests)
        key = (blueprint.name, want.model, trial.digest)
        begun = self._trials.setdefault(key, _Trial(time.monotonic(), seen))
        old, new = Tally(), Tally()
        for node, (old_now, new_now) in seen.items():
            old_then, new_then = begun.base.get(node, (Tally(), Tally()))
            old, new = old + old_now.since(old_then), new + new_now.since(new_then)
        verdict = judge(want.canary or Canary(), old, new, time.monotonic() - begun.began)
        self.node.fleet.trials[want.model, trial.version] = verdict.why
        return verdict

    async def _tallies(self, places: Sequence[Site], digests: tuple[Digest, Digest]) -> dict[NodeId, Both]:
        """Of all nodes that answer."""
        answers = await asyncio.gather(
            *(fleet.ask(self.node, site.id, digests) for site in places), return_exceptions=True
        )
        found: dict[NodeId, Both] = {}
        for site, answer in zip(places, answers, strict=True):
            if isinstance(answer, tuple):
                old, new = (Tally(row.runs, row.failed, row.run_s) for row in answer)
                found[site.id] = (old, new)
            elif not isinstance(answer, MeshError):
                raise answer
        return found


def _decided(want: Want, verdict: Verdict, places: Sequence[Site]) -> Want | None:
    """The want as it is to be from now on; None when nothing changes."""
    trial = want.trial
    assert trial is not None
    if verdict.do == "back":
        return structs.replace(want, trial=None)
    if verdict.do == "wait":
        return None
    if not trial.everywhere:
        return structs.replace(want, trial=structs.replace(trial, everywhere=True))
    by_id = {site.id: site for site in places}
    if not all(Digest(trial.digest) in by_id[node].holds for node in trial_seats(want, places)):
        return None
    return structs.replace(want, version=trial.version, digest=trial.digest, trial=None)


def _told(want: Want, next: Want) -> str:
    trial = want.trial
    assert trial is not None
    if next.trial is not None:
        return f"version {trial.version} goes to all nodes"
    return f"version {next.version} now" if next.version == trial.version else f"back to version {next.version}"

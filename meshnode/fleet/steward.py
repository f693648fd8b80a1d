"""Doing this node's duties: the shell around `meshnode.fleet.duties`.

It looks when something changed and when the core wants to, and fetches and loads what the core asks for, one model at a
time: what is fetched together would only share the way here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from meshnode.errors import MeshError
from meshnode.fleet.blueprint import Blueprint, Held
from meshnode.fleet.duties import Done, Duties, Event, Failed, Look, Provide, Release
from meshnode.fleet.placement import Site
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

GATHER_S = 0.1
"""Changes this close together are looked at once."""
LOOK_S = 5.0
"""What nobody announces, such as a model that was unloaded, is looked for so often."""
BEGIN_S = 3.0
"""After a start the other nodes are not known yet, and everything would seem to be this node's duty."""


@dataclass(slots=True)
class Steward:
    """See the module's docstring.

    Args:
        duties: the core.
        blueprints: those that hold and want something.
        sites: the nodes as they are now.
        provide: have a model here, in memory when asked; raises MeshError.
        release: a model need not be in memory any more.
        declined: what this node cannot have changed; others should hear.
        now: the monotonic clock.
    """

    duties: Duties
    blueprints: Callable[[], Sequence[Blueprint]]
    sites: Callable[[], Sequence[Site]]
    provide: Callable[[Digest, bool], Awaitable[None]]
    release: Callable[[Digest], None]
    declined: Callable[[], None]
    now: Callable[[], float] = time.monotonic
    trials: dict[tuple[str, int], str] = field(default_factory=dict)
    """What is thought of (model, version) on trial, where that is judged."""
    read: tuple[bytes, dict[str, Held]] = field(default=(b"", {}))
    """The root hash of a trust set, and the blueprints in it."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _work: asyncio.Queue[Provide] = field(default_factory=asyncio.Queue)

    def changed(self) -> None:
        """Nodes, blueprints, or what is here."""
        self._news.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._provide_all())
            await asyncio.sleep(BEGIN_S)
            while True:
                self._look()
                due = self.duties.next_deadline()
                wait_s = LOOK_S if due is None else min(LOOK_S, max(GATHER_S, due - self.now()))
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()
                        await asyncio.sleep(GATHER_S)
                self._news.clear()

    def _look(self) -> None:
        blueprints = self.blueprints()
        if blueprints or self.duties.known:
            self._tell(Look(tuple(blueprints), tuple(self.sites())))

    def _tell(self, event: Event) -> None:
        before = set(self.duties.declined)
        for effect in self.duties.handle(self.now(), event):
            match effect:
                case Provide():
                    self._work.put_nowait(effect)
                case Release(digest):
                    log.info("no blueprint wants model %s on this node any more", digest[:12])
                    self.release(digest)
        if before != set(self.duties.declined):
            self.declined()

    async def _provide_all(self) -> None:
        while True:
            effect = await self._work.get()
            event: Event
            try:
                await self.provide(effect.digest, effect.loaded)
                event = Done(effect.digest)
            except MeshError as error:
                log.warning("model %s, which a blueprint wants here, is not to be had: %s", effect.digest[:12], error)
                event = Failed(effect.digest, str(error))
            self._tell(event)
            self.changed()

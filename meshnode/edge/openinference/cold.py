"""Models that are in no node's memory yet: who asks for one and has not the time to wait is told how far it is.

A task waits for its model by itself as long as it has time. When getting the model takes longer than that, the task is
not begun: the model is fetched and loaded all the same, on the node that would run it, and the client is to come again.
How long that may take is not bounded by any request: the fetch goes on while something moves, and a load has time by
the size of the model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from meshnode.catalog.manifest import Manifest
from meshnode.edge import models
from meshnode.edge.node import Node
from meshnode.errors import MeshError, NoCapacity
from meshnode.membership.view import Member
from meshnode.tasks.finding import find_member
from meshnode.wire.messages import Digest, Plan

log = logging.getLogger(__name__)
KEPT_S = 5.0
"""A model that brought a result so lately is not looked for."""
PATIENT_S = 1e6
WARMING_MAX = 16
RETRY_MAX_S = 300.0
LOAD_BYTES_S = 500e6
"""What loading is believed to take, as everywhere before it was seen."""


class NotYet(NoCapacity):
    """The model is on its way; `progress` is for the client."""

    progress: dict[str, Any]


@dataclass(slots=True)
class _Warming:
    manifest: Manifest
    member: Member
    on_disk: bool
    expected_s: float
    began: float
    task: asyncio.Task[None] = field(init=False)
    first: tuple[float, int] | None = None
    """When the first bytes were seen, and how many: what has come since shows how fast they come."""
    there: float | None = None
    """Since when all of it is on the node's disk."""


class Cold:
    """See the module's docstring."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._warming: dict[Digest, _Warming] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ran: dict[Digest, float] = {}
        self._failed: dict[Digest, tuple[float, MeshError]] = {}

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ran(self, digest: Digest) -> None:
        """A task of the model brought a result just now."""
        self._ran[digest] = time.monotonic()

    def warming(self, digest: Digest) -> bool:
        """Whether the model is on its way, as far as this door is concerned."""
        return digest in self._warming

    def is_warm(self, digest: Digest) -> bool:
        """Whether the model is in some node's memory, as far as this node knows."""
        if time.monotonic() - self._ran.get(digest, -KEPT_S) < KEPT_S:
            return True
        if any(it.digest == digest for it in self._node.execution.loaded()):
            return True
        return any(
            held.loaded and held.digest == digest
            for member in self._node.membership.view()
            if member.usable and member.advert is not None and member.id != self._node.keeper.id
            for held in member.advert.models
        )

    async def check(self, manifest: Manifest, timeout_s: float, node: str | None, zone: str | None) -> None:
        """Raises NotYet when the model would not be there in time, and what its last way into memory ended with."""
        digest = manifest.digest
        if self.is_warm(digest):
            return
        if (it := self._warming.get(digest)) is None:
            found = await self._place(manifest, node, zone)
            if found is None or found[1] <= timeout_s:
                return  # the task gets it, or says why nobody can
            when, error = self._failed.get(digest, (0.0, None))
            if error is not None and time.monotonic() - when < KEPT_S:
                raise error
            if len(self._warming) >= WARMING_MAX:
                return
            it = self._warming.get(digest) or self._begin(manifest, *found)  # another request may have been quicker
        not_yet = await self._not_yet(it)
        if not_yet.progress["eta_s"] > timeout_s:
            raise not_yet

    async def instead(self, error: MeshError, manifest: Manifest, node: str | None, zone: str | None) -> MeshError:
        """What to tell a client whose task was not done in time: this error, or that its model is on its way."""
        digest = manifest.digest
        if self.is_warm(digest):
            return error
        if (it := self._warming.get(digest)) is None:
            found = await self._place(manifest, node, zone)
            if found is None or digest in self._failed or len(self._warming) >= WARMING_MAX:
                return error
            it = self._warming.get(digest) or self._begin(manifest, *found)
        return await self._not_yet(it)

    async def load(self, manifest: Manifest, node: str | None) -> None:
        """Have a model in memory where the mesh would run it, or on this node. It goes on when nobody waits for it.

        Raises MeshError.
        """
        if (it := self._warming.get(manifest.digest)) is None or node is not None:
            if node is None and any(held.digest == manifest.digest for held in self._node.execution.loaded()):
                return
            found = await self._place(manifest, node, None)
            view = self._node.membership.view()
            member, expected_s = found or (find_member(view, node or self._node.keeper.id), 0.0)
            it = self._begin(manifest, member, expected_s)
        await asyncio.shield(it.task)

    async def _place(self, manifest: Manifest, node: str | None, zone: str | None) -> tuple[Member, float] | None:
        """The node that would run it, had the task all the time in the world, and when it would be done."""
        dispatcher = self._node.dispatcher
        plan = Plan(model=manifest.digest, inputs=(), deadline_s=PATIENT_S, node=node, zone=zone)
        document = await dispatcher.chooser.plan(dispatcher.wanted(plan, manifest), PATIENT_S)
        if (choice := document["choice"]) is None:
            return None
        return find_member(self._node.membership.view(), choice["node"]), float(document["expected_s"])

    def _begin(self, manifest: Manifest, member: Member, expected_s: float) -> _Warming:
        held = member.advert is not None and any(it.digest == manifest.digest for it in member.advert.models)
        if member.id == self._node.keeper.id:
            held = self._node.store.has(manifest.digest)
        it = _Warming(manifest, member, held, expected_s, time.monotonic())
        it.task = asyncio.ensure_future(self._warm(it))
        self._tasks.add(it.task)
        it.task.add_done_callback(self._ended)
        self._warming[manifest.digest] = it
        return it

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is kept for the next request; nobody has to wait for it

    async def _warm(self, it: _Warming) -> None:
        digest = it.manifest.digest
        log.info("%s:%s gets into the memory of %s", it.manifest.name, it.manifest.version, it.member.name)
        try:
            await models.load(self._node, it.manifest, it.member)
            self._failed.pop(digest, None)
            self.ran(digest)
        except MeshError as error:
            log.warning("%s:%s: %s", it.manifest.name, it.manifest.version, error)
            self._failed[digest] = time.monotonic(), error
            raise
        finally:
            if self._warming.get(digest) is it:
                del self._warming[digest]

    async def _not_yet(self, it: _Warming) -> NotYet:
        state, percent, eta_s = await self._progress(it)
        name = f"{it.manifest.name}:{it.manifest.version}"
        error = NotYet(
            f"{name} is on its way into memory ({state}, {percent:.0f} % of {it.manifest.size} bytes)",
            hint=f"come again in {eta_s:.0f} s, or allow that much time",
            retry_after_s=eta_s,
        )
        error.progress = {"state": state, "percent": round(percent, 1), "eta_s": round(eta_s, 1)}
        return error

    async def _progress(self, it: _Warming) -> tuple[str, float, float]:
        """(state, percent of its bytes that are on the node, seconds that are left)."""
        now, done, total = time.monotonic(), 0, 0
        if not it.on_disk and it.there is None:
            done, total = await models.moved_of(self._node, it.manifest.digest, it.member)
        size = it.manifest.size
        if it.on_disk or (total and done >= total):
            it.there = it.there or (it.began if it.on_disk else now)
        load_s = size / LOAD_BYTES_S
        if it.there is not None:
            return "loading", 100.0, _bounded(max(load_s, it.expected_s if it.on_disk else 0.0) - (now - it.there))
        if done and it.first is None:
            it.first = now, done
        left_s = it.expected_s - (now - it.began)
        if it.first is not None and done > it.first[1] and now > it.first[0]:
            left_s = (size - done) * (now - it.first[0]) / (done - it.first[1]) + load_s
        return "fetching", 100.0 * done / size if size else 0.0, _bounded(left_s)


def _bounded(seconds: float) -> float:
    return min(RETRY_MAX_S, max(1.0, seconds))

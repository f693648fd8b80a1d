"""What this node says about itself to the others: the slow facts of its advert, and when they are news."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from meshnode.edge.node import Node
from meshnode.links.address import Address
from meshnode.membership import advert
from meshnode.version import __version__

DRIFT, DRIFT_S = 1.25, 0.001
"""A learnt run time is advertised anew when it changed by this factor, and by more than scheduling does…"""
DRIFT_EACH_S = 0.5
"""…once in so long for each node of the mesh: every node gets every advert, so that all of them cost each node the same
however many they are. Made each second, for a tiny model whose times vary, they were a third of what 64 nodes did."""
MODELS_MAX = 128
ADDRESSES_MAX = 16
CHARGE_STEP = 5
LOOK_S = 1.0
"""What nobody announces (addresses, the charge, run times) is looked at so often."""
GATHER_S = 0.05
"""Changes this close together make one advert."""


def content(node: Node, *, zone: str, addresses: tuple[Address, ...], draining: bool) -> advert.Content:
    """The facts as they are now."""
    loaded = {model.digest for model in node.execution.loaded()}
    power = node.power()
    charge = None if power.percent is None else CHARGE_STEP * round(power.percent / CHARGE_STEP)
    held = [digest for digest in node.store.digests() if node.catalog.knows(digest)]
    return advert.Content(
        addresses=addresses[:ADDRESSES_MAX],
        software=__version__,
        zone=zone,
        labels=node.settings.labels,
        cpu=advert.Cpu(node.devices.cpu_model, node.devices.cores, node.devices.score),
        memory_total=node.devices.memory_total,
        gpus=tuple(advert.Gpu(gpu.name, gpu.memory_total) for gpu in node.devices.gpus),
        providers=node.execution.providers,
        slots=node.execution.slots,
        models=tuple(advert.Held(d, d in loaded, node.execution.service_s(d)) for d in held[:MODELS_MAX]),
        power=advert.PowerState(power.source, charge),
        draining=draining,
        paused=node.owner.told,
        declined=tuple(sorted(node.fleet.duties.declined))[:MODELS_MAX],
        sandbox=node.execution.grade,
    )


def is_news(before: advert.Content, after: advert.Content) -> bool:
    """Whether others should hear at once: everything but what a run takes."""

    def plain(content: advert.Content) -> tuple[object, ...]:
        return tuple((m.digest, m.loaded, m.service_s is None) for m in content.models)

    fields = [name for name in advert.Content.__struct_fields__ if name != "models"]
    return plain(before) != plain(after) or any(getattr(before, name) != getattr(after, name) for name in fields)


def drifted(before: advert.Content, after: advert.Content) -> bool:
    """Whether a learnt run time is another one now, of the same models."""
    times = [(a.service_s, b.service_s) for a, b in zip(before.models, after.models, strict=True)]
    return any(a and b and abs(a - b) > DRIFT_S and max(a, b) / min(a, b) > DRIFT for a, b in times)


class Advertiser:
    """Says what is news, soon after it is.

    Args:
        look: the facts as they are now.
        say: makes a new advert of them.
        nodes: how many hear it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], advert.Content],
        say: Callable[[advert.Content], None],
        nodes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._say, self._nodes, self._clock = look, say, nodes, clock
        self._said: advert.Content | None = None
        self._said_at = float("-inf")
        self._news = asyncio.Event()

    def soon(self) -> None:
        """Something changed."""
        self._news.set()

    def now(self) -> None:
        """Look, and say what is news."""
        seen, now = self._look(), self._clock()
        if (
            self._said is None
            or is_news(self._said, seen)
            or (now >= self._said_at + DRIFT_EACH_S * self._nodes() and drifted(self._said, seen))
        ):
            self._said, self._said_at = seen, now
            self._say(seen)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
                    await asyncio.sleep(GATHER_S)
            self._news.clear()
            self.now()

"""What this node says about itself to the others: the slow facts of its advert, and when they are news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from meshnode.edge.node import Node
from meshnode.links.address import Address
from meshnode.membership import advert
from meshnode.version import __version__

SERVICE_NEWS = 1.25
"""A learnt run time is advertised anew when it changed by this factor."""
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
    """Whether others should hear: everything but a learnt run time that hardly changed."""

    def plain(content: advert.Content) -> tuple[object, ...]:
        return tuple((m.digest, m.loaded, m.service_s is None) for m in content.models)

    fields = [name for name in advert.Content.__struct_fields__ if name != "models"]
    if plain(before) != plain(after) or any(getattr(before, name) != getattr(after, name) for name in fields):
        return True
    times = [(a.service_s, b.service_s) for a, b in zip(before.models, after.models, strict=True)]
    return any(a and b and max(a, b) / min(a, b) > SERVICE_NEWS for a, b in times)


class Advertiser:
    """Says what is news, soon after it is.

    Args:
        look: the facts as they are now.
        say: makes a new advert of them.
    """

    def __init__(self, look: Callable[[], advert.Content], say: Callable[[advert.Content], None]) -> None:
        self._look, self._say = look, say
        self._said: advert.Content | None = None
        self._news = asyncio.Event()

    def soon(self) -> None:
        """Something changed."""
        self._news.set()

    def now(self) -> None:
        """Look, and say what is news."""
        seen = self._look()
        if self._said is None or is_news(self._said, seen):
            self._said = seen
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

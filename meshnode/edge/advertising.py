"""What this node says about itself to the others: the slow facts of its advert, and when they are news."""

from __future__ import annotations

from meshnode.edge.node import Node
from meshnode.links.pool import Address
from meshnode.membership import advert
from meshnode.version import __version__

SERVICE_NEWS = 1.25
"""A learnt run time is advertised anew when it changed by this factor."""
MODELS_MAX = 128
ADDRESSES_MAX = 16
CHARGE_STEP = 5


def content(node: Node, *, zone: str, addresses: tuple[Address, ...], draining: bool) -> advert.Content:
    """The facts as they are now."""
    loaded = {model.digest for model in node.execution.loaded()}
    power = node.devices.power()
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

"""Whose job is a replica? Every node computes it alone, from the same facts, and comes to the same answer.

Rendezvous hashing (Thaler and Ravishankar, 1998): the nodes that may have a model are ordered by a hash over the
model's name and theirs, and the first of them have it. When one goes, the next in line takes its place and nobody
else moves; when it comes back, it takes it again. The order is by name, not by version, so that the next version goes
where the last one was. Pure.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from meshnode.fleet.blueprint import Want
from meshnode.trust.zones import in_zone
from meshnode.wire.messages import Digest, NodeId


@dataclass(frozen=True, slots=True)
class Site:
    """A node as placement sees it; sizes are bytes.

    `holds` maps models on its disk to whether they are in memory; `declined` are those that it cannot have, as it says
    itself; `barred` those that are bound to a zone that it does not lie in.
    """

    id: NodeId
    name: str = ""
    alive: bool = True
    works: bool = True
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    memory_bytes: int = 0
    draining: bool = False
    holds: Mapping[Digest, bool] = field(default_factory=dict)
    declined: frozenset[Digest] = frozenset()
    barred: frozenset[Digest] = frozenset()


def unfit(want: Want, digest: Digest, site: Site) -> str:
    """Why a node does not come into question; empty when it does."""
    if not site.alive:
        return "it is not alive"
    if not site.works:
        return "it runs no models (its grant or its worker does not allow it)"
    if site.draining:
        return "it is draining"
    if want.node and site.id != want.node:
        return f"only node {want.node[:8]} is wanted"
    if want.zone and not in_zone(site.zone, want.zone):
        return f"it lies in {f'zone {site.zone!r}' if site.zone else 'no zone'}, not in {want.zone!r}"
    if digest in site.barred:
        return f"it lies in {f'zone {site.zone!r}' if site.zone else 'no zone'}, and the model is bound to another"
    for key, value in want.labels.items():
        if (has := site.labels.get(key)) != value:
            return f"its label {key} is {has!r}, not {value!r}" if has is not None else f"it has no label {key}"
    if want.provider and not any(_short(want.provider) == _short(provider) for provider in site.providers):
        return f"it has no {want.provider}"
    if site.memory_bytes < want.memory_bytes:
        return f"it has {site.memory_bytes} bytes of memory, not {want.memory_bytes}"
    if digest in site.declined:
        return "it says that it cannot have the model"
    return ""


def seats(want: Want, sites: Sequence[Site], digest: Digest | None = None) -> list[NodeId]:
    """Who is to have the model (or `digest`, a version that is tried), the first in line first."""
    which = Digest(want.digest) if digest is None else digest
    fit = [site.id for site in sites if not unfit(want, which, site)]
    fit.sort(key=lambda node: rank(want.model, node), reverse=True)
    return fit[: want.replicas] if want.replicas else fit


def trial_seats(want: Want, sites: Sequence[Site]) -> list[NodeId]:
    """Who is to have the version that is tried as well: a share of those that have the model, in the end all."""
    if want.trial is None:
        return []
    able = seats(want, sites, Digest(want.trial.digest))
    if want.trial.everywhere or want.canary is None:
        return able
    return able[: math.ceil(want.canary.share_permille / 1000 * len(able))]


@functools.lru_cache(maxsize=1 << 16)
def rank(model: str, node: NodeId) -> int:
    """The larger, the sooner a node is in line for a model."""
    return int.from_bytes(hashlib.sha256(f"meshnode/seat/1\0{model}\0{node}".encode()).digest()[:8], "big")


def _short(provider: str) -> str:
    return provider.lower().removesuffix("executionprovider")

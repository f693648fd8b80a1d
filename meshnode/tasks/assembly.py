"""The parts of a node that deal with tasks, put together."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.catalog.manifest import Manifest
from meshnode.config import Settings
from meshnode.errors import MeshError
from meshnode.execution.supervisor import Execution
from meshnode.links.link import Link
from meshnode.membership.view import Member
from meshnode.routing.estimates import Estimates
from meshnode.tasks.asking import Asking
from meshnode.tasks.choosing import Chooser
from meshnode.tasks.dispatcher import Dispatcher
from meshnode.tasks.explaining import Explaining
from meshnode.tasks.finding import find_member
from meshnode.tasks.knowing import Knowing
from meshnode.tasks.lately import Lately
from meshnode.tasks.outcomes import Ended, Served
from meshnode.tasks.permits import Permits
from meshnode.tasks.pursuit import Means
from meshnode.tasks.serving import RolesOf, Serving
from meshnode.tasks.stages import Stages
from meshnode.tasks.warming import Warming
from meshnode.wire.messages import Digest, NodeId, TaskId
from meshnode.wire.rng import Rng


@dataclass(frozen=True, slots=True)
class World:
    """What tasks need of the rest of a node.

    Attributes:
        view: the members; the same tuple until something changes.
        failed: membership is told that a peer's link broke or fell silent.
        linked: the live link to a peer, when there is one.
        link: a link to a peer, dialled when there is none; raises PeerLost.
        roles_of: the roles of a member's grant.
        zone_of: the zone that it names, or "".
        resolve: a model by name or digest; raises ModelNotFound.
        manifest: of a digest; raises ModelNotFound.
        bound: the zones that a model is bound to.
        on_disk: whether the digest is in the store.
        needs: bytes of memory that a model in the store takes at least.
        ensure: the path of a model in the store, fetched when it is missing.
        willing: why this node takes no foreign work now, or "".
        set_aside: a peer gave a wrong result.
        served, ended: hear how tasks ended that ran here, and that were submitted here.
        permits: what the policy says.
        now: the monotonic clock.
    """

    self_id: NodeId
    view: Callable[[], tuple[Member, ...]]
    failed: Callable[[NodeId, MeshError], None]
    linked: Callable[[NodeId], Link | None]
    link: Callable[[NodeId], Awaitable[Link]]
    roles_of: RolesOf
    zone_of: Callable[[NodeId], str]
    resolve: Callable[[str], Manifest]
    manifest: Callable[[Digest], Manifest]
    bound: Callable[[Digest], tuple[str, ...]]
    on_disk: Callable[[Digest], bool]
    needs: Callable[[Digest], int]
    ensure: Callable[[Manifest], Awaitable[Path]]
    willing: Callable[[], str]
    set_aside: Callable[[NodeId, str], None]
    served: Callable[[Served], None] = lambda _: None
    ended: Callable[[Ended], None] = lambda _: None
    permits: Permits = field(default_factory=Permits)
    now: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Tasks:
    """`dispatcher` for this node's own clients, `serving` for everybody who has work for it."""

    dispatcher: Dispatcher
    serving: Serving
    estimates: Estimates
    lately: Lately


def assemble(world: World, settings: Settings, rng: Rng, execution: Execution) -> Tasks:
    """The parts that know each other."""
    lately = Lately(world.self_id, world.now, world.ended, world.served)
    estimates = Estimates(settings.routing, rng)
    knowing = Knowing(
        world.self_id,
        estimates,
        world.view,
        world.linked,
        may_work=lambda node: "worker" in world.roles_of(node),
        zone_of=world.zone_of,
    )
    warming = Warming(
        self_id=world.self_id,
        settings=settings.routing,
        knowing=knowing,
        manifest=world.manifest,
        service_s=lambda model: next((it.service_s for it in execution.loaded() if it.digest == model), None),
        slots=lambda: execution.slots,
        link=world.link,
        now=world.now,
    )
    serving = Serving(
        self_id=world.self_id,
        zone=lambda: world.zone_of(world.self_id),
        hold_s=settings.routing.hold_s,
        execution=execution,
        roles_of=world.roles_of,
        manifest=world.manifest,
        on_disk=world.on_disk,
        needs=world.needs,
        ensure=world.ensure,
        willing=world.willing,
        warming=warming,
        onward=lambda message, reply, of, deadline, stay: stages.onward(message, reply, of, deadline, stay=stay),
        served=lately.served,
        permits=world.permits,
        now=world.now,
    )
    chooser = Chooser(
        self_id=world.self_id,
        settings=settings.routing,
        rng=rng,
        estimates=estimates,
        knowing=knowing,
        explaining=Explaining(knowing.name),
        quote_here=lambda ask, of: serving.quote(ask, of, own_choice=True),
        release_here=lambda ask: execution.release(TaskId(ask.task), Digest(ask.model)),
        link=world.link,
        linked=world.linked,
        find=lambda wanted: find_member(world.view(), wanted),
        now=world.now,
        asking=Asking(world.now),
    )
    means = Means(world.self_id, chooser, world.link, serving.infer_here, world.failed, world.now)
    stages = Stages(means, settings, rng, world.manifest, world.bound, world.permits)
    dispatcher = Dispatcher(means, stages, settings, rng, world.resolve, world.set_aside, lately.ended, world.permits)
    return Tasks(dispatcher, serving, estimates, lately)

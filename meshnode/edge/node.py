"""The parts of one running agent, as its doors see them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meshnode.audit.book import Book
from meshnode.catalog.fetch import Fetcher
from meshnode.catalog.giving import Giver
from meshnode.catalog.index import Catalog
from meshnode.catalog.store import Store
from meshnode.config import Settings
from meshnode.edge.events import Events
from meshnode.edge.renewal import Renewal
from meshnode.execution.devices import Devices
from meshnode.execution.supervisor import Execution
from meshnode.fleet.steward import Steward
from meshnode.links.address import Address
from meshnode.links.pool import Pool
from meshnode.links.yielding import Yielding
from meshnode.membership.advert import PowerState
from meshnode.membership.discovery import Discovery
from meshnode.membership.gossip import Membership
from meshnode.membership.trustsync import TrustKeeping
from meshnode.owner.watch import Watch
from meshnode.tasks.dispatcher import Dispatcher
from meshnode.tasks.lately import Lately
from meshnode.tasks.serving import Serving
from meshnode.trust.joining import Inviter
from meshnode.trust.keeper import Keeper
from meshnode.version import __version__
from meshnode.wire.messages import Vitals

if TYPE_CHECKING:
    from meshnode.edge.openinference.service import Inference
    from meshnode.edge.policing import Policing


@dataclass(slots=True)
class Control:
    """What a door may ask of the agent's own life."""

    stop: Callable[[], None]
    rejoin: Callable[[str], Awaitable[str]]
    """Leave the mesh of one and join with a token; returns the new mesh's name once the agent is up in it."""
    leave: Callable[[], Awaitable[None]]
    again: Callable[[], None]
    """End this life and begin the next, as whoever the home says that this node is now."""


@dataclass(slots=True)
class Node:
    """References only: who builds, starts and stops the parts is `meshnode.agent`."""

    home: Path
    settings: Settings
    keeper: Keeper
    devices: Devices
    pool: Pool
    yielding: Yielding
    membership: Membership
    discovery: Discovery
    trust: TrustKeeping
    inviter: Inviter
    execution: Execution
    store: Store
    catalog: Catalog
    fetcher: Fetcher
    giver: Giver
    dispatcher: Dispatcher
    serving: Serving
    lately: Lately
    owner: Watch
    fleet: Steward
    policing: Policing
    book: Book
    control: Control
    events: Events
    renewal: Renewal = field(default_factory=Renewal)
    intake: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(bytes done, bytes in all) of the models that are being added, by path."""
    alarms: dict[str, str] = field(default_factory=dict)
    """What somebody should look at now: why, by what it is about."""
    link: Callable[[str], str] | None = None
    """A link that opens a page of the HTTP door in a browser here, once; None while that door is closed."""
    inference: Inference | None = None
    """What the doors of the Open Inference Protocol share; made by the first that is opened."""
    address: Address = ("", 0)
    started: float = field(default_factory=time.monotonic)
    version: str = __version__

    def addresses(self) -> tuple[Address, ...]:
        """Where others reach this node."""
        return tuple((address, self.address[1]) for address in self.discovery.addresses)

    def power(self) -> PowerState:
        """Mains or battery, and the charge, as the sensors said last."""
        it = self.owner.reading
        source = {True: "battery", False: "mains", None: "unknown"}[it.on_battery]
        return PowerState(source, None if it.charge_percent is None else round(it.charge_percent, 1))

    def vitals(self) -> Vitals:
        """This node's load at this moment."""
        in_flight, backlog_s, tasks_done = self.execution.vitals()
        power = self.power()
        return Vitals(
            in_flight=in_flight,
            backlog_s=backlog_s,
            tasks_done=tasks_done,
            cpu_load=self.devices.cpu_load(),
            available_bytes=self.devices.memory_available(),
            uptime_s=time.monotonic() - self.started,
            gpu_free_bytes=tuple(self.devices.gpu_free()),
            loaded=tuple(sorted(model.digest for model in self.execution.loaded())),
            power_source=power.source,
            power_percent=power.percent,
        )

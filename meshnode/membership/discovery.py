"""First peers: multicast DNS, seeds, and the peers of the last time. Each only yields addresses to try.

Whoever answers at an address proves who it is; nothing that is learnt here is believed. What to try when is decided in
`candidates`, which network counts in `interfaces`, who announces in `crowd`; this is their shell. Failure of multicast
is a warning, is tried again, and never delays a start.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from meshnode.config import Discovery as Ways
from meshnode.config import Membership as Settings
from meshnode.config import host_port
from meshnode.links.address import Address, plain
from meshnode.membership import candidates, crowd, reading
from meshnode.membership.candidates import (
    Ask,
    Candidates,
    Dial,
    Elsewhere,
    Forget,
    Gone,
    Heard,
    Introduced,
    Links,
    Tried,
)
from meshnode.membership.chores import Chores
from meshnode.membership.clocks import Source
from meshnode.membership.crowd import Announce, Crowd, Mine, Return, Withdraw
from meshnode.membership.interfaces import Network, Watcher
from meshnode.membership.multicast import Multicast, today
from meshnode.membership.peersfile import PeersFile
from meshnode.membership.remembered import Remembered
from meshnode.membership.view import FoundBy, Member
from meshnode.wire.messages import NodeId
from meshnode.wire.rng import Rng

log = logging.getLogger(__name__)

DEFAULT_PORT = 7433
STAGGER_S = 0.5
"""The next address of a candidate is tried beside the first after so long."""
RESOLVE_S = 10.0
REOPEN_S, REOPEN_MAX_S, COMPLETE_TRIES = 2.0, 300.0, 5
"""Multicast that cannot be opened is tried again after so long; doubles. On some of the interfaces: so often."""
Try = Callable[[Address, NodeId | None, FoundBy], Awaitable[bool]]
"""Dial an address (of that node, when it is known whose it is); whether a member answered."""


class Discovery:
    """See the module's docstring.

    Args:
        attempt: dials an address.
        alone: whether this node has no link to anybody.
        source: of the clocks. `read`: what the machine's network is.
        moved: called when this machine's addresses changed for good, with the network as it is now.
    """

    def __init__(
        self,
        home: Path,
        mesh_id: str,
        ways: Ways,
        settings: Settings,
        rng: Rng,
        *,
        attempt: Try,
        alone: Callable[[], bool],
        moved: Callable[[Network], None] = lambda network: None,
        source: Source | None = None,
        read: Callable[[str, tuple[str, ...]], Network] = reading.now,
    ) -> None:
        self._clocks = (source or Source()).clocks
        self._read = read
        self.multicast_error = ""
        self.network = Network()
        self._file = PeersFile(home / "peers", self._packed, lambda: self._clocks().monotonic)
        self._mesh_id = mesh_id
        self._rng = rng
        self._ways = ways
        self._attempt = attempt
        self._alone = alone
        self._moved = moved
        now = self._clocks().monotonic
        places = tuple(host_port(seed, default_port=DEFAULT_PORT) for seed in ways.seeds)
        self._candidates = Candidates(rng, now=now, seeds=places, retry_s=settings.seed_retry_s)
        self._crowd = Crowd(rng)
        self._watcher = Watcher(now, self.network, ways.poll_s)
        self._remembered = Remembered(settings.remembered_max)
        self._there: dict[NodeId, None] = {}
        self._dirty = False
        self._listen: Address = ("", 0)
        self.multicast: Multicast | None = None
        self._reopen = asyncio.Event()
        self._counted = [0, 0]
        self._timer: asyncio.TimerHandle | None = None
        self._chores = Chores("discovery: ", logging.WARNING)
        self._stopped = False

    # --- what others may know ---

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others reach this machine; a change that does not last is not shown."""
        return self.network.reach

    @property
    def interfaces_used(self) -> tuple[str, ...]:
        """The interfaces that multicast uses."""
        return tuple(it.name for it in self.network.used)

    @property
    def interfaces_skipped(self) -> tuple[tuple[str, str], ...]:
        """The others, each with the reason."""
        return self.network.skipped

    @property
    def packets_heard(self) -> int:
        """Multicast DNS responses of others, of any device, since the start."""
        return self._counted[0] + (self.multicast.responses_heard if self.multicast else 0)

    @property
    def own_packets_heard(self) -> int:
        """This node's own announcements as they came back: none says that multicast is blocked in this machine."""
        return self._counted[1] + (self.multicast.own_heard if self.multicast else 0)

    # --- life ---

    def survey(self, listen: Address) -> None:
        """Look at the machine's network; what follows knows where this node is reached."""
        self._listen = listen
        self.network = self._read(listen[0], self._ways.interfaces)
        self._watcher = Watcher(self._clocks().monotonic, self.network, self._ways.poll_s)

    async def start(self) -> None:
        """Begin to look, in the background. `survey` comes first."""
        self._file.read(self._remembered)
        self._tell(Introduced(self._remembered.rows(), "remembered"))
        if self._ways.mdns:
            self._chores.start(self._keep_multicast)
            self._reopen.set()

    async def stop(self) -> None:
        """Stop looking; take the announcement back; write down who was there."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self._chores.stop()
        await self._close_multicast()
        await self._file.close(write=self._dirty or bool(self._there))

    def left(self) -> None:
        """This node is in this mesh no more: nobody of it is remembered."""
        self._file.left()

    # --- what the agent tells us ---

    def links_changed(self) -> None:
        """A link came up or ended."""
        alone = self._alone()
        if alone != self._candidates.alone and not self._stopped:
            if alone:
                self._look()  # everyone is gone at once: perhaps it is this machine that moved
            self._tell(Links(any=not alone))

    def woke(self) -> None:
        """The machine slept: announce anew, forget all pauses, see where we are."""
        if not self._stopped:
            self._look()
            self._reopen.set()
            self._tell(Elsewhere())

    def introduce(self, peers: Sequence[candidates.Row]) -> None:
        """Peers that an inviter named: they are tried like remembered ones, before them, and written down at once.

        Who loses its power a moment after it joined knows nobody else, and has no token any more.
        """
        for node, addresses in reversed(peers):
            self._remembered.note(node, addresses, int(self._clocks().wall))
        if peers:
            self._dirty = True
            self._file.soon()
        self._tell(Introduced(tuple(peers), "token"))

    def announced(self, heard: Heard) -> None:
        """Another way than multicast announced a node."""
        self._tell(heard)

    def remember(self, view: Sequence[Member]) -> None:
        """Who is there now: kept for the next start."""
        self._there = {m.id: None for m in view if m.usable and m.path != "self"}
        before = self._remembered.rows()
        for member in view:
            if member.path != "self" and member.addresses and member.state != "left":
                self._remembered.note(member.id, member.addresses, int(self._clocks().wall) if member.usable else 0)
        if (rows := self._remembered.rows()) != before:
            self._dirty = True
            self._tell(Introduced(rows, "remembered"))
        if self._dirty:
            self._file.soon()

    def forget(self, node: NodeId) -> None:
        """A node is out for good."""
        self._remembered.forget(node)
        self._there.pop(node, None)
        self._dirty = True
        self._tell(Forget(node))
        self._file.soon()

    # --- the cores ---

    def _tell(self, event: candidates.Event | None) -> None:
        if self._stopped:
            return
        now = self._clocks().monotonic
        for effect in self._candidates.handle(now, event):
            match effect:
                case Dial():
                    self._chores.start(self._dial, effect)
                case Ask() if self.multicast is not None:
                    self.multicast.ask()
                    self.multicast.announce()
        if event is None or isinstance(event, Gone | Links) or (isinstance(event, Heard) and event.found_by == "mdns"):
            self._tell_crowd(event)
        self._arm()

    def _tell_crowd(self, event: crowd.Event | None) -> None:
        for effect in self._crowd.handle(self._clocks().monotonic, event):
            if self.multicast is None:
                continue
            match effect:
                case Announce() if self.multicast.day != today():
                    self._reopen.set()  # a new day's tag under a new label: nobody shall link the two
                case Announce():
                    self.multicast.announce()
                case Withdraw():
                    log.info("many nodes announce themselves here: this one falls silent")
                    self.multicast.withdraw()
                case Return():
                    self._chores.start(self.multicast.announce_anew, self.multicast.label)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stopped:
            dues = (self._candidates.next_deadline(), self._crowd.next_deadline(), self._watcher.next_deadline())
            due = min(due for due in dues if due is not None)
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._clocks().monotonic), self._tick)

    def _tick(self) -> None:
        if self._watcher.next_deadline() <= self._clocks().monotonic:
            self._look()
        self.links_changed()
        self._tell(None)

    def _look(self) -> None:
        """Read the machine's interfaces."""
        if not self._listen[0]:
            return  # a link was faster than the start
        for change in self._watcher.handle(
            self._clocks().monotonic, self._read(self._listen[0], self._ways.interfaces)
        ):
            names = ", ".join(it.name for it in change.now.used) or "none"
            log.info("the network changed: interfaces %s, addresses %s", names, ", ".join(change.now.reach) or "none")
            self.network = change.now
            self._reopen.set()
            self._tell(Elsewhere())
            self._moved(change.now)
        self.network = self._watcher.network

    # --- dialling ---

    async def _dial(self, effect: Dial) -> None:
        answered, dials = False, 0
        try:
            addresses = effect.addresses
            if effect.found_by == "seed":
                addresses = await self._resolve(*effect.addresses[0])
            answered, dials = await self._first(addresses, effect)
        finally:
            self._tell(Tried(effect.key, answered, dials))

    async def _resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """All addresses of a name, IPv4 and IPv6, as the resolver orders them."""
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            log.info("the seed %s cannot be resolved: %s", host, getattr(error, "strerror", None) or error)
            return ()
        return tuple(dict.fromkeys(plain(row[4]) for row in found))[: candidates.ADDRESSES_MAX]

    async def _first(self, addresses: Sequence[Address], effect: Dial) -> tuple[bool, int]:
        """Try the addresses, each a little after the one before, until one answers; how many were tried."""
        waiting, dials = list(addresses), set[asyncio.Future[bool]]()
        try:
            while waiting or dials:
                if waiting:
                    dials.add(asyncio.ensure_future(self._attempt(waiting.pop(0), effect.node, effect.found_by)))
                timeout = STAGGER_S if waiting else None
                done, dials = await asyncio.wait(dials, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is None and task.result() for task in done):
                    return True, len(addresses) - len(waiting)
            return False, len(addresses)
        finally:
            for dial in dials:
                dial.cancel()
            await asyncio.gather(*dials, return_exceptions=True)

    # --- multicast ---

    async def _keep_multicast(self) -> None:
        """Have multicast on the network as it is now; when it fails, try again, for ever."""
        failures = 0
        while True:
            again = self.multicast_error or (self.multicast and not self.multicast.complete)
            pause = min(REOPEN_MAX_S, REOPEN_S * 2.0 ** min(failures, 10)) * self._rng.uniform(0.5, 1.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause if again and self.network.used else None):
                    await self._reopen.wait()
                    failures = 0
            self._reopen.clear()
            await self._close_multicast()
            if not self.network.used:
                self.multicast_error = ""
                continue
            multicast = Multicast(self._mesh_id, self.network, self._listen[1], heard=self._tell)
            self.multicast = multicast
            try:
                await multicast.open()
            except Exception as error:  # sockets, interfaces: whatever it is, the mesh works without it
                reason = f"{type(error).__name__}: {error}"
                if reason != self.multicast_error:
                    log.warning("multicast discovery is off for now: %s", reason)
                self.multicast_error = reason
                failures += 1
                await self._close_multicast()
                continue
            if self.multicast_error:
                log.info("multicast discovery is on again")
            self.multicast_error = ""
            failures = 0 if multicast.complete else failures + 1
            multicast.complete |= failures >= COMPLETE_TRIES
            self._tell_crowd(Mine(multicast.label))
            self._arm()

    async def _close_multicast(self) -> None:
        multicast, self.multicast = self.multicast, None
        if multicast is not None:
            self._counted[0] += multicast.responses_heard
            self._counted[1] += multicast.own_heard
            await multicast.close()

    def _packed(self) -> bytes:
        for node in self._there:
            self._remembered.note(node, (), int(self._clocks().wall))
        self._dirty = False
        return self._remembered.pack()

"""All links of an agent: one a peer, and a second for bulk when it is asked for.

It listens, dials (directly or through a member: `reach`), and settles which of two links to a peer stays. A verdict
about a peer never forbids a dial: who wants to reach a peer may always try. What is asked over the links is the
handler's business.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from meshnode.accepting import Greeting, accept, suffer
from meshnode.errors import MeshError
from meshnode.links.address import Address
from meshnode.links.circuit import Circuit
from meshnode.links.link import DRAIN_S, Link
from meshnode.links.reach import Reach
from meshnode.links.relay import Knowledge, Relay
from meshnode.links.side import Prove, Side, lost
from meshnode.links.sockets import give_way, tune
from meshnode.porch import Porch
from meshnode.wire.messages import NodeId, StreamPing
from meshnode.wire.traffic import Traffic

log = logging.getLogger(__name__)

__all__ = ["BULK", "Address", "Pool"]

BULK = "bulk"
RELAYED_HIGH_WATER_BYTES = 64 * 1024
"""What may wait in a relayed link's own buffer: little, for it stands in front of heartbeats at the relay's rate."""
RELAYED_PATIENCE = 2
"""A relayed link is silent after so many times the usual misses: its relay notices a silent neighbour first."""
RELAYED_DRAIN_S = 30.0
"""What is under way on a relayed link may take so long after a direct one has replaced it."""
DOUBT_S = 2.0
BACKLOG = 1024


class Credentials(Protocol):
    """What the pool needs of the keeper."""

    @property
    def id(self) -> NodeId:
        """This node."""
        ...

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """TLS for accepting and for dialling."""
        ...

    def check_peer(self, leaf: bytes | None, expected: NodeId | None) -> NodeId:
        """Who a peer is. Raises PermissionDenied."""
        ...


class Pool:
    """See the module's docstring.

    Args:
        opened: a peer's first link came up.
        lost: a peer's last link ended, and why.
        silent: a peer stopped answering heartbeats.
        rival: the link of an earlier start of a peer, whose later start has a link too; awaited before it is closed.
        known: what the rest of the agent knows about nodes.
    """

    def __init__(
        self,
        credentials: Credentials,
        side: Side,
        *,
        opened: Callable[[Link], None],
        lost: Callable[[Link, str], None],
        silent: Callable[[Link], None],
        rival: Callable[[Link], Awaitable[None]] | None = None,
        known: Knowledge | None = None,
    ) -> None:
        known = known or Knowledge()
        settings = side.settings
        self.machine = side.machine
        self.relay = Relay(credentials.id, settings, known, side.machine, direct=self._direct, offered=self._offered)
        self._reach = Reach(self, settings, known, side.machine.rng, leave=lambda dial: self._start(_quietly(dial)))
        patience = settings.heartbeat_misses * RELAYED_PATIENCE
        relayed = replace(settings, high_water_bytes=RELAYED_HIGH_WATER_BYTES, heartbeat_misses=patience)
        self._relayed_side = replace(side, settings=relayed)
        self._credentials = credentials
        self._side = side
        self._on_opened = opened
        self._on_lost = lost
        self._on_silent = silent
        self._on_rival = rival
        self._links: dict[tuple[NodeId, str], Link] = {}
        self._all: dict[Link, None] = {}  # in the order in which they came
        self._dials: dict[tuple[NodeId, str], asyncio.Task[Link]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._server_context: ssl.SSLContext | None = None
        self._client_context: ssl.SSLContext | None = None
        self._stopped = False
        self._porch = Porch[Greeting](side.settings.handshakes_max)

    async def start(self, host: str, port: int) -> Address:
        """Listen; returns the address with the real port. Raises ListenError when it cannot be had."""
        self.refresh()
        listener = await self.machine.listening(host, port, socket.SOCK_STREAM)
        listener.listen(BACKLOG)
        self._sockets.append(listener)
        accepting = asyncio.ensure_future(accept(listener, self._porch, self._arrived, "the port of the mesh"))
        self._accepting.add(accepting)
        name = listener.getsockname()
        return str(name[0]), int(name[1])

    def refresh(self) -> None:
        """Use the keeper's present certificate and roots for new links."""
        self._server_context, self._client_context = self._credentials.contexts()

    def links(self) -> list[Link]:
        """One live link for each peer."""
        return [link for (_, kind), link in self._links.items() if kind == "" and link.usable]

    @property
    def traffic(self) -> Traffic:
        """Bytes over all links since the start."""
        return self._side.traffic

    def bulk(self) -> list[Link]:
        """The live links for bulk."""
        return [link for (_, kind), link in self._links.items() if kind == BULK and link.usable]

    def get(self, peer: NodeId) -> Link | None:
        """The live link to a peer, when there is one."""
        link = self._links.get((peer, ""))
        return link if link is not None and link.usable else None

    def kept(self, peer: NodeId, kind: str) -> Link | None:
        """The link of that kind that stays, of those to a peer."""
        return self._links.get((peer, kind))

    def _direct(self, peer: NodeId) -> Link | None:
        link = self.get(peer)
        return link if link is not None and link.via is None else None

    async def link(self, peer: NodeId, addresses: Sequence[Address], *, kind: str = "") -> Link:
        """The link to a peer, dialled when there is none. Raises PeerLost, PermissionDenied, ProtocolError."""
        link = self._links.get((peer, kind))
        if link is not None and link.usable:
            return link
        self._check_runs()
        dial = self._dials.get((peer, kind))
        if dial is None:
            dial = asyncio.ensure_future(self._reach.reach(peer, list(addresses), kind))
            self._dials[peer, kind] = dial
            dial.add_done_callback(lambda task: self._dialled(peer, kind, task))
        return await asyncio.shield(dial)

    async def dial(self, address: Address, expected: NodeId | None = None, *, kind: str = "") -> Link:
        """Open a link to whoever answers at an address. Raises PeerLost, PermissionDenied, ProtocolError."""
        self._check_runs()
        loop = asyncio.get_running_loop()
        link = self._link(lambda leaf: self._credentials.check_peer(leaf, expected), dialled=True, kind=kind)
        await self._open(
            link,
            lambda tls, timeout_s: loop.create_connection(
                lambda: link, address[0], address[1], ssl=tls, ssl_handshake_timeout=timeout_s
            ),
            f"{address[0]}:{address[1]}",
        )
        return link

    async def dial_through(self, via: Link, peer: NodeId, kind: str) -> Link:
        """Open a link through the member at the other end of another. Raises MeshError, also when it refuses."""
        circuit = await self.relay.open(via, peer)
        loop = asyncio.get_running_loop()
        link = self._link(
            lambda leaf: self._credentials.check_peer(leaf, peer), dialled=True, kind=kind, circuit=circuit
        )
        try:
            await self._open(
                link,
                lambda tls, timeout_s: loop.create_unix_connection(
                    lambda: link, sock=circuit.socket, ssl=tls, server_hostname="", ssl_handshake_timeout=timeout_s
                ),
                f"through {via.peer.name}",
            )
        except BaseException:
            circuit.socket.close()
            raise
        return link

    def _check_runs(self) -> None:
        if self._stopped:
            raise lost("this agent is stopping and dials nobody any more", sent=False)

    async def _open(
        self, link: Link, connect: Callable[[ssl.SSLContext, float], Awaitable[object]], where: str
    ) -> None:
        assert self._client_context is not None, "the pool is not started"
        try:
            async with asyncio.timeout(self._side.settings.handshake_s):
                await connect(self._client_context, self._side.settings.handshake_s)
                tune(link.socket)
                await link.opened()
        except (OSError, TimeoutError, ssl.SSLError) as error:
            self._discard(link, "the handshake did not finish")
            refused = isinstance(error, ConnectionRefusedError)
            reason = "connection refused" if refused else getattr(error, "strerror", None) or str(error) or "no answer"
            raise lost(f"{where}: {reason}", sent=False, refused=refused) from error
        except BaseException:
            self._discard(link, "the dial was given up")
            raise

    def _discard(self, link: Link, reason: str) -> None:
        link.abort(reason)
        self._all.pop(link, None)

    def unlisten(self) -> None:
        """Close the listening sockets; links stay."""
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()
        for task in self._accepting:
            task.cancel()
        self._accepting.clear()

    def drop(self, peer: NodeId, code: str, text: str, statement: bytes = b"") -> None:
        """Hang up on a peer, saying why, with the proof if there is one."""
        for link in [link for link in self._all if link.usable and link.peer.id == peer]:
            link.hang_up(code, text, statement)
        self.relay.lost(peer)

    async def stop(self, code: str = "bye", text: str = "the agent is stopping") -> None:
        """Stop listening, let open requests end, hang up on everyone."""
        self._stopped = True
        tasks = [*self._tasks, *self._dials.values(), *self._accepting]
        self.unlisten()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(link.close(code, text) for link in list(self._all) if link.via is not None))
        await self.relay.stop()
        await asyncio.gather(*(link.close(code, text) for link in list(self._all)))

    # --- listening ---

    def _arrived(self, connection: socket.socket, _source: str) -> Greeting:
        """Each gets the present certificate."""
        return self._start(self._greet(connection))

    def _offered(self, circuit: Circuit) -> None:
        """A peer will dial through a member."""
        greeting = self._greet(circuit.socket, circuit)
        suffer(self._porch, self._start(greeting), f"through {circuit.relay}")

    async def _greet(self, connection: socket.socket, circuit: Circuit | None = None) -> None:
        expected = circuit.peer if circuit is not None else None
        machine, link = self._side.machine, None
        ends = machine.now() + self._side.settings.handshake_s
        try:
            connection.setblocking(False)
            if circuit is None:
                await machine.spoken(connection, self._side.settings.handshake_s)
            link = self._link(
                lambda leaf: self._credentials.check_peer(leaf, expected), dialled=False, kind="", circuit=circuit
            )
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: link,  # what it returns is not our protocol on every event loop
                connection,
                ssl=self._server_context,
                ssl_handshake_timeout=max(ends - machine.now(), 0.001),  # 0 is not allowed
            )
            tune(link.socket)
            await link.opened()
        except (OSError, ssl.SSLError, TimeoutError, MeshError, asyncio.CancelledError) as error:
            log.debug("a stranger was turned away: %s", error)
            if link is not None:
                self._discard(link, "the handshake did not finish")
            connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            error.__traceback__ = None  # asyncio's frames in it hold the error and TLS: a ring

    # --- dialling ---

    def _dialled(self, peer: NodeId, kind: str, task: asyncio.Task[Link]) -> None:
        self._dials.pop((peer, kind), None)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it

    # --- which link stays ---

    def _link(self, prove: Prove, *, dialled: bool, kind: str, circuit: Circuit | None = None) -> Link:
        link = Link(
            self._side if circuit is None else self._relayed_side,
            dialled=dialled,
            prove=prove,
            features=(kind,) if kind else (),
            via=circuit.relay if circuit is not None else None,
            opened=self._opened,
            lost=self._lost,
            silent=self._on_silent,
        )
        self._all[link] = None
        if circuit is not None:
            circuit.taken, circuit.on_end = True, link.abort
        return link

    def _opened(self, link: Link) -> None:
        peer = link.peer
        if peer.id == self._credentials.id:
            link.hang_up("self", "this is the node itself")
            return
        key = (peer.id, BULK if BULK in peer.features else "")
        if link.dialled:
            key = (peer.id, next(iter(link.features), ""))
        if key[1] == BULK:
            give_way(link.socket)
        other = self._links.get(key)
        if other is not None and not other.usable:
            other = None
        if other is not None and not self._replaces(link, other):
            self._start(self._part(link, other, "the other connection stays", DRAIN_S))
            self._start(self._doubt(other))
            return
        self._links[key] = link
        if other is not None:
            drain_s = DRAIN_S if other.via is None else RELAYED_DRAIN_S
            self._start(self._part(other, link, "another connection replaced this one", drain_s))
            if other.via is None and (link.via is not None or link.peer.boot != other.peer.boot):
                self.relay.lost(peer.id)
        if key[1] == "":
            self._reach.opened(link)
            if link.via is not None:
                if not self._stopped:  # one that came up while the others were closed would never end
                    self._start(self._reach.seek_direct(link))
            elif (bulk := self._links.get((peer.id, BULK))) is not None and bulk.via is not None and bulk.usable:
                self._start(bulk.close("duplicate", "there is a direct way now", drain_s=RELAYED_DRAIN_S))
            self._on_opened(link)

    async def _part(self, loser: Link, winner: Link, why: str, drain_s: float) -> None:
        """Hang up the one of two links that does not stay; a peer that runs twice is told so first."""
        if loser.peer.boot != winner.peer.boot and self._on_rival is not None:
            with suppress(MeshError):
                await self._on_rival(loser)
        await loser.close("duplicate", why, drain_s=drain_s)

    async def _doubt(self, link: Link) -> None:
        """A peer that dials again may have lost the link that we hold: find out now, not at the next idle ping."""
        with suppress(MeshError):
            await link.call(StreamPing(), timeout_s=DOUBT_S)

    def _replaces(self, new: Link, old: Link) -> bool:
        """Both sides decide alike: a newer start, then direct, then what the smaller id dialled, then the newer."""
        if new.peer.boot != old.peer.boot:
            return new.peer.boot > old.peer.boot
        if old.silent:
            return True
        if (new.via is None) != (old.via is None):
            return new.via is None
        if new.dialled != old.dialled:
            return new.dialled == (self._credentials.id < new.peer.id)
        return True

    def _lost(self, link: Link, reason: str) -> None:
        if link.closed.is_set():
            self._all.pop(link, None)
        for key in [key for key, held in self._links.items() if held is link]:
            del self._links[key]
            if key[1] == "":
                if link.via is None:
                    self.relay.lost(key[0])
                self._on_lost(link, reason)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _quietly(dial: Awaitable[Link]) -> None:
    with suppress(MeshError):
        await dial

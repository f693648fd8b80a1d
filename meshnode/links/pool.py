"""All links of an agent: one a peer, and a second for bulk when it is asked for.

It listens, dials, and settles which of two links stays when both sides dialled. A verdict about a peer never forbids
a dial: who wants to reach a peer may always try. What is asked over the links is the handler's business.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from meshnode.errors import ListenError, MeshError, PeerLost, PermissionDenied
from meshnode.links.address import Address as Address  # others take it from here
from meshnode.links.address import Datagrams
from meshnode.links.link import Link
from meshnode.links.side import Prove, Side, lost
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

BULK = "bulk"
STAGGER_S = 0.3
"""The next address of a peer is tried beside the first after so long."""
USER_TIMEOUT_MS = 20_000
BACKLOG = 128


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
    """

    def __init__(
        self,
        credentials: Credentials,
        side: Side,
        *,
        opened: Callable[[Link], None],
        lost: Callable[[Link, str], None],
        silent: Callable[[Link], None],
    ) -> None:
        self._credentials = credentials
        self._side = side
        self._on_opened = opened
        self._on_lost = lost
        self._on_silent = silent
        self._links: dict[tuple[NodeId, str], Link] = {}
        self._all: set[Link] = set()
        self._dials: dict[tuple[NodeId, str], asyncio.Task[Link]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._server_context: ssl.SSLContext | None = None
        self._client_context: ssl.SSLContext | None = None
        self._handshakes = asyncio.Semaphore(side.settings.handshakes_max)

    async def start(self, host: str, port: int) -> Address:
        """Listen; returns the address with the real port. Raises ListenError when it cannot be had."""
        self.refresh()
        loop = asyncio.get_running_loop()
        listener = await listening(host, port, socket.SOCK_STREAM)
        listener.listen(BACKLOG)
        self._sockets.append(listener)
        accepting = asyncio.ensure_future(self._accept(loop, listener))
        self._accepting.add(accepting)
        name = listener.getsockname()
        return str(name[0]), int(name[1])

    def refresh(self) -> None:
        """Use the keeper's present certificate and roots for new links."""
        self._server_context, self._client_context = self._credentials.contexts()

    def links(self) -> list[Link]:
        """One live link for each peer."""
        return [link for (_, kind), link in self._links.items() if kind == "" and link.usable]

    def get(self, peer: NodeId) -> Link | None:
        """The live link to a peer, when there is one."""
        link = self._links.get((peer, ""))
        return link if link is not None and link.usable else None

    async def link(self, peer: NodeId, addresses: Sequence[Address], *, kind: str = "") -> Link:
        """The link to a peer, dialled when there is none. Raises PeerLost, PermissionDenied, ProtocolError."""
        link = self._links.get((peer, kind))
        if link is not None and link.usable:
            return link
        dial = self._dials.get((peer, kind))
        if dial is None:
            if not addresses:
                raise lost(f"no address of node {peer[:8]} is known", sent=False)
            dial = asyncio.ensure_future(self._dial_any(peer, list(addresses), kind))
            self._dials[peer, kind] = dial
            dial.add_done_callback(lambda task: self._dialled(peer, kind, task))
        return await asyncio.shield(dial)

    async def dial(self, address: Address, expected: NodeId | None = None, *, kind: str = "") -> Link:
        """Open a link to whoever answers at an address. Raises PeerLost, PermissionDenied, ProtocolError."""
        assert self._client_context is not None, "the pool is not started"
        loop = asyncio.get_running_loop()
        link = self._link(lambda leaf: self._credentials.check_peer(leaf, expected), dialled=True, kind=kind)
        try:
            async with asyncio.timeout(self._side.settings.handshake_s):
                await loop.create_connection(
                    lambda: link,
                    address[0],
                    address[1],
                    ssl=self._client_context,
                    ssl_handshake_timeout=self._side.settings.handshake_s,
                )
                _tune(link)
                await link.opened()
        except (OSError, TimeoutError, ssl.SSLError) as error:
            self._discard(link, "the handshake did not finish")
            refused = isinstance(error, ConnectionRefusedError)
            reason = "connection refused" if refused else getattr(error, "strerror", None) or str(error) or "no answer"
            raise lost(f"{address[0]}:{address[1]}: {reason}", sent=False, refused=refused) from error
        except BaseException:
            self._discard(link, "the dial was given up")
            raise
        return link

    def _discard(self, link: Link, reason: str) -> None:
        link.abort(reason)
        self._all.discard(link)

    def unlisten(self) -> None:
        """Close the listening sockets; links stay."""
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()
        for task in self._accepting:
            task.cancel()
        self._accepting.clear()

    def drop(self, peer: NodeId, code: str, text: str) -> None:
        """Hang up on a peer, saying why."""
        for link in [link for link in self._all if link.usable and link.peer.id == peer]:
            link.hang_up(code, text)

    async def stop(self, code: str = "bye", text: str = "the agent is stopping") -> None:
        """Stop listening, let open requests end, hang up on everyone."""
        tasks = [*self._tasks, *self._dials.values(), *self._accepting]
        self.unlisten()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(link.close(code, text) for link in list(self._all)))

    # --- listening ---

    async def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        """Accept one by one, so that handshakes in progress are bounded and use the present certificate."""
        while True:
            await self._handshakes.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._handshakes.release()
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(0.1)  # out of file descriptors: let some close
                continue
            except BaseException:
                self._handshakes.release()
                raise
            self._start(self._greet(loop, connection))

    async def _greet(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        link = self._link(lambda leaf: self._credentials.check_peer(leaf, None), dialled=False, kind="")
        try:
            connection.setblocking(False)
            await loop.connect_accepted_socket(
                lambda: link,  # what it returns is not our protocol on every event loop
                connection,
                ssl=self._server_context,
                ssl_handshake_timeout=self._side.settings.handshake_s,
            )
            _tune(link)
            await link.opened()
        except (OSError, ssl.SSLError, TimeoutError, MeshError) as error:
            log.debug("a stranger was turned away: %s", error)
            self._discard(link, "the handshake did not finish")
            connection.close()
        finally:
            self._handshakes.release()

    # --- dialling ---

    async def _dial_any(self, peer: NodeId, addresses: list[Address], kind: str) -> Link:
        """Try the addresses, each a little after the one before; the first that proves to be the peer wins."""
        failures: list[MeshError] = []
        dials: set[asyncio.Task[Link]] = set()
        try:
            for address in [*addresses, None]:
                if address is not None:
                    dials.add(asyncio.ensure_future(self.dial(address, peer, kind=kind)))
                timeout = STAGGER_S if address is not None and address != addresses[-1] else None
                while dials:
                    done, dials = await asyncio.wait(dials, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        error = task.exception()
                        if error is None:
                            return self._links.get((peer, kind)) or task.result()
                        if not isinstance(error, MeshError):
                            raise error
                        failures.append(error)
                    if timeout is not None:
                        break
        finally:
            for task in dials:
                task.cancel()
            await asyncio.gather(*dials, return_exceptions=True)
        refused = next((error for error in failures if isinstance(error, PermissionDenied)), None)
        if refused is not None:
            raise refused
        gone = any(isinstance(error, PeerLost) and error.refused for error in failures)
        raise lost(f"node {peer[:8]} cannot be reached ({'; '.join(map(str, failures))})", sent=False, refused=gone)

    def _dialled(self, peer: NodeId, kind: str, task: asyncio.Task[Link]) -> None:
        self._dials.pop((peer, kind), None)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it

    # --- which link stays ---

    def _link(self, prove: Prove, *, dialled: bool, kind: str) -> Link:
        link = Link(
            self._side,
            dialled=dialled,
            prove=prove,
            features=(kind,) if kind else (),
            opened=self._opened,
            lost=self._lost,
            silent=self._on_silent,
        )
        self._all.add(link)
        return link

    def _opened(self, link: Link) -> None:
        peer = link.peer
        if peer.id == self._credentials.id:
            link.hang_up("self", "this is the node itself")
            return
        key = (peer.id, BULK if BULK in peer.features else "")
        if link.dialled:
            key = (peer.id, next(iter(link.features), ""))
        other = self._links.get(key)
        if other is not None and other.usable and not self._replaces(link, other):
            self._start(link.close("duplicate", "the other connection stays"))
            return
        self._links[key] = link
        if other is not None and other.usable:
            self._start(other.close("duplicate", "another connection replaced this one"))
        if key[1] == "":
            self._on_opened(link)

    def _replaces(self, new: Link, old: Link) -> bool:
        """Both sides decide alike: a newer start wins, then the link that the smaller id dialled, then the newer."""
        if new.peer.boot != old.peer.boot:
            return new.peer.boot > old.peer.boot
        if old.silent:
            return True
        if new.dialled != old.dialled:
            return new.dialled == (self._credentials.id < new.peer.id)
        return True

    def _lost(self, link: Link, reason: str) -> None:
        if link.closed.is_set():
            self._all.discard(link)
        for key in [key for key, held in self._links.items() if held is link]:
            del self._links[key]
            if key[1] == "":
                self._on_lost(link, reason)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tune(link: Link) -> None:
    """Send small frames at once, and let the kernel give up unacknowledged data sooner than its quarter of an hour."""
    connection = link.socket
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


async def listening(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A bound socket; `::` takes IPv4 as well. Raises ListenError, naming the address."""
    try:
        (family, _, proto, _, address), *_ = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=kind, flags=socket.AI_PASSIVE
        )
        bound = (Datagrams if kind is socket.SOCK_DGRAM else socket.socket)(family, kind, proto)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    try:
        bound.setblocking(False)
        if kind is socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not ipaddress.ip_address(host).is_unspecified)
            )
        bound.bind(address)
    except (OSError, ValueError) as error:
        bound.close()
        raise ListenError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', error)}",
            hint="another program has this port: choose one with --listen HOST:PORT (port 0 = any free)",
        ) from error
    return bound

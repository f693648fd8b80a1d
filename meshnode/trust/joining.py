"""Joining with a token: the listener at the inviting node, and the joiner's side.

One TLS connection on a port of its own that is open while an invite is, and shortly after it was used. The inviter
shows its certificate; the joiner compares its key with the token before it says anything. Then, each a u32 length and
a MessagePack map:

    inviter  {v, nonce}
    joiner   {v, invite, spki, name, proof, possession}
    inviter  {leaf, statements, peers} or {error}

Single use needs no coordinator: the inviting node's disk is the judge, and the invite is burned there before anything
is signed. What someone without a token says on this port changes nothing here.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from meshnode.accepting import Greeting, accept, spoken
from meshnode.errors import InvalidInput, MeshError, PermissionDenied, ProtocolError, TokenRefused
from meshnode.porch import Porch
from meshnode.trust import identity, invites, inviting
from meshnode.trust.invites import Invite
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import (
    EXCHANGE_S,
    HANDSHAKE_S,
    REQUEST_BYTES_MAX,
    VERSION,
    Address,
    Joined,
    hang_up,
    receive,
    redeem,
    send,
)
from meshnode.trust.statements import Statement
from meshnode.trust.tokenbook import OpenInvite, TokenBook
from meshnode.wire.messages import NodeId

__all__ = ["Address", "Inviter", "Joined", "redeem"]

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 256
"""At once; beyond them the oldest goes of the source with most. A join takes some milliseconds, silence `HANDSHAKE_S`:
a room full of machines behind one address comes in, and strangers make room for each other."""
BACKLOG = 256


class Inviter:
    """The invites of this node and the port where they are redeemed.

    Args:
        host: where the join listener listens, as the agent's own listener.
        hints: addresses of this machine that a joiner may reach.
        peers: (id, addresses) of nodes that a joiner should know.
        joined: told about the grant of a node that joined.
    """

    def __init__(
        self,
        keeper: Keeper,
        *,
        host: str,
        hints: Callable[[], Sequence[str]],
        peers: Callable[[], Sequence[tuple[NodeId, Sequence[Address]]]],
        joined: Callable[[Statement], None],
    ) -> None:
        self._keeper = keeper
        self._host = host
        self._hints = hints
        self._peers = peers
        self._joined = joined
        self._book = TokenBook(keeper.home / "invites", keeper.id)
        self._context: ssl.SSLContext | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing: asyncio.TimerHandle | None = None
        self._porch = Porch[Greeting](CONNECTIONS_MAX)

    async def start(self) -> None:
        """Open the port again when invites from before a restart are still good."""
        if not self._keeper.belongs:
            return
        self._book.read(self._keeper.statements.mesh_id, time.time())
        if self._book.port_needed_until() > time.time():
            self._listen()
            self._settle()

    async def stop(self) -> None:
        """Close the port; open invites stay good for the next start."""
        tasks = [*self._connections, *([self._accepting] if self._accepting is not None else ())]
        self._unlisten()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def port(self) -> int | None:
        """Where tokens can be redeemed at this moment."""
        return None if self._listener is None else int(self._listener.getsockname()[1])

    async def invite(self, *, expires_s: float, roles: Sequence[str] | None, zones: Sequence[str]) -> str:
        """A new single-use token.

        Raises PermissionDenied without the admin key, InvalidInput for an unknown role or a life out of bounds,
        HomeError when it cannot be written down.
        """
        self._keeper.check_may_invite()
        chosen = inviting.check(expires_s=expires_s, roles=roles, zones=zones, longest_s=inviting.SINGLE_MAX_S)
        now = time.time()
        self._book.forget_expired(now)
        self._listen()
        assert self._listener is not None
        invite = Invite(
            self._keeper.statements.mesh_id[: 2 * invites.MESH_PREFIX_BYTES],
            self._keeper.id,
            secrets.token_bytes(invites.SECRET_BYTES),
            int(now + expires_s),
            tuple((host, self._book.port) for host in self._hints()),
        )
        try:
            self._book.add(OpenInvite(invite.key, chosen, list(zones), invite.expires_at))
        finally:
            self._settle()
        return invites.mint(invite)

    def open(self, now: float) -> list[OpenInvite]:
        """The tokens that nobody has used yet."""
        self._book.forget_expired(now)
        return [*self._book.open]

    def withdraw(self, tag: str) -> bool:
        """Close the open token whose tag begins so (hex); whether there was just one. Raises HomeError."""
        found = [it for it in self._book.open if invites.tag(it.key).hex().startswith(tag)]
        if len(found) != 1:
            return False
        self._book.burn(found[0], "withdrawn", time.time())
        self._settle()
        return True

    # --- the port ---

    def _listen(self) -> None:
        if self._listener is None:
            self._context = self._keeper.join_context()
            listener = self._listener = self._bind()
            listener.setblocking(False)
            self._book.port = int(listener.getsockname()[1])
            self._accepting = asyncio.ensure_future(accept(listener, self._porch, self._arrived, "the join port"))
            # Not closed before the event loop has let go of it, and also when the task never began.
            self._accepting.add_done_callback(lambda _: listener.close())

    def _bind(self) -> socket.socket:
        """The port that tokens from before a restart name, or another."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        both = self._host == "::" and socket.has_dualstack_ipv6()
        for port in dict.fromkeys((self._book.port, 0)):
            try:
                return socket.create_server((self._host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
            except OSError as error:
                if port == 0:
                    raise InvalidInput(f"cannot listen on {self._host}: {error.strerror}") from error
                log.warning("port %s is taken: tokens made before the restart no longer work", port)
        raise AssertionError("port 0 returns or raises")

    def _settle(self) -> None:
        """Close the port when no token leads to it, and look again when the last one ends."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        now = time.time()
        self._book.forget_expired(now)
        left_s = self._book.port_needed_until() - now
        if left_s <= 0:
            self._unlisten()
        else:
            self._closing = asyncio.get_running_loop().call_later(min(left_s + 0.05, 3600.0), self._settle)

    def _unlisten(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        self._listener = None

    def _arrived(self, connection: socket.socket, source: str) -> Greeting:
        task = asyncio.ensure_future(self._serve(connection, source))
        task.add_done_callback(self._served)
        self._connections.add(task)
        return task

    def _served(self, task: Greeting) -> None:
        self._connections.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the join port failed", exc_info=error)

    async def _serve(self, connection: socket.socket, source: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        ends = loop.time() + HANDSHAKE_S
        try:
            connection.setblocking(False)
            await spoken(connection, HANDSHAKE_S)
            left_s = max(ends - loop.time(), 0.001)  # 0 is not allowed
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=left_s
            )
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            log.debug("a stranger was turned away from the join port: %s", error)
            connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            nonce = secrets.token_bytes(32)
            send(writer, {"v": VERSION, "nonce": nonce})
            async with asyncio.timeout(HANDSHAKE_S):
                request = await receive(reader, REQUEST_BYTES_MAX)
            try:
                answer = self._redeem(request, nonce)
                task = asyncio.current_task()
                assert task is not None
                self._porch.leave(task, source)  # it is none of the strangers, and its token is used up
            except MeshError as error:
                log.warning("a join was refused: %s", error)
                answer = {"error": error.to_wire()}
            send(writer, answer)
            async with asyncio.timeout(EXCHANGE_S):
                await writer.drain()
        except (OSError, TimeoutError, ProtocolError, asyncio.IncompleteReadError) as error:
            log.debug("a connection to the join port ended: %s", error)
        finally:
            await hang_up(writer)

    # --- judging ---

    def _redeem(self, request: dict[str, Any], nonce: bytes) -> dict[str, Any]:
        """Judge a join request. There is no await in here: of two at once, one comes second."""
        spki, name, tag = request.get("spki"), request.get("name"), request.get("invite")
        shown, possession = request.get("proof"), request.get("possession")
        if request.get("v") != VERSION:
            raise ProtocolError(f"a join request of version {request.get('v')!r}; this node knows {VERSION}")
        if not all(isinstance(part, bytes) for part in (spki, tag, shown, possession)):
            raise ProtocolError("not a join request")
        assert isinstance(spki, bytes)
        assert isinstance(tag, bytes)
        assert isinstance(shown, bytes)
        assert isinstance(possession, bytes)
        if not (isinstance(name, str) and 0 < len(name) <= 128 and name.isprintable()):
            raise ProtocolError("a node's name is 1 to 128 printable characters")
        found = self._find(tag, spki, shown, nonce)
        me = self._keeper.id
        if not identity.verify(spki, invites.possession(spki, me, nonce), possession):
            raise PermissionDenied("the joiner does not hold the key that it shows")
        node = identity.node_id(spki)
        if (revocation := self._keeper.statements.revoked(node)) is not None:
            raise PermissionDenied(
                f"this machine's key was revoked ({revocation.reason or 'no reason given'}) and stays out",
                hint="move its home away, so that it makes a new key, and ask for a new token",
            )
        self._keeper.check_may_invite()
        self._book.burn(found, f"used by {name}", time.time())  # on disk before anything is signed
        try:
            leaf, statement = self._keeper.admit(spki, name, found.roles, found.zones)
        finally:
            self._settle()
        self._joined(statement)
        return {
            "leaf": leaf,
            "statements": [data for _, data in self._keeper.statements.items()],
            "peers": [[peer, [list(address) for address in addresses]] for peer, addresses in self._peers()],
        }

    def _find(self, tag: bytes, spki: bytes, shown: bytes, nonce: bytes) -> OpenInvite:
        now = time.time()
        self._book.forget_expired(now)
        invite = self._book.find(tag)
        if invite is None:
            raise TokenRefused(
                f"the token is not good any more: {self._book.why_closed(tag, now)}", hint="ask for a new one"
            )
        if hmac.compare_digest(invites.proof(invite.key, self._keeper.id, spki, nonce), shown):
            return invite
        self._book.count_wrong(invite, now)
        self._settle()
        raise TokenRefused("the proof does not fit the token", hint="ask for a new one")

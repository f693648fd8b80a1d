"""Joining with a token: the listener at the inviting node, and the joiner's side.

One TLS connection on a port of its own that is open only while an invite is. The inviter shows its certificate; the
joiner compares its key with the token before it says anything. Then, each a u32 length and a MessagePack map:

    inviter  {nonce}
    joiner   {spki, name, proof, possession}
    inviter  {leaf, statements, peers} or {error}

Single use needs no coordinator: the inviting node's disk is the judge, and the invite is burned there before anything
is signed.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshnode.errors import InvalidInput, MeshError, PeerLost, PermissionDenied, ProtocolError, TokenRefused, from_wire
from meshnode.trust import identity, invites
from meshnode.trust.files import read_checked, write_checked
from meshnode.trust.invites import Invite
from meshnode.trust.keeper import Keeper, Membership
from meshnode.trust.statements import DEFAULT_ROLES, ROLES, STATEMENTS_MAX, Statement
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
EXCHANGE_S = 10.0
CONNECTIONS_MAX = 16
REQUEST_BYTES_MAX = 2048
REPLY_BYTES_MAX = 256 * 1024 * 1024
WRONG_PROOFS_MAX = 5
EXPIRES_MAX_S = 7 * 86400
INVITES_MAX = 1000
_LENGTH = struct.Struct(">I")
Address = tuple[str, int]


@dataclass(slots=True)
class _Open:
    """An invite that nobody has redeemed yet."""

    key: bytes
    roles: list[str]
    zones: list[str]
    expires_at: int
    wrong: int = 0


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
        self._open: list[_Open] = []
        self._port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open the port again when invites from before a restart are still good."""
        payload = read_checked(self._keeper.home / "invites")
        if payload is not None:
            stored = msgpack.unpackb(payload)
            self._port = stored["port"]
            self._open = [_Open(**row) for row in stored["open"]]
        self._forget_expired()
        if self._open:
            await self._listen()

    async def stop(self) -> None:
        """Close the port; open invites stay good for the next start."""
        if self._closing is not None:
            self._closing.cancel()
        await self._unlisten()

    async def invite(self, *, expires_s: float, roles: Sequence[str] | None, zones: Sequence[str]) -> str:
        """A new single-use token. Raises PermissionDenied without the admin key, InvalidInput for an unknown role."""
        self._keeper.check_may_invite()
        chosen = list(DEFAULT_ROLES if roles is None else roles)
        if unknown := sorted(set(chosen) - ROLES):
            raise InvalidInput(f"unknown role {unknown[0]!r}", hint=f"roles are {', '.join(sorted(ROLES))}")
        if not 0 < expires_s <= EXPIRES_MAX_S:
            raise InvalidInput(f"an invite lasts up to {EXPIRES_MAX_S // 86400} days, not {expires_s:g} s")
        self._forget_expired()
        if len(self._open) >= INVITES_MAX:
            raise InvalidInput(f"{INVITES_MAX} invites are open, the limit")
        await self._listen()
        expires_at = int(time.time() + expires_s)
        hints = tuple((host, self._port) for host in self._hints())
        mesh = self._keeper.statements.mesh_id[: 2 * invites.MESH_PREFIX_BYTES]
        invite = Invite(mesh, self._keeper.id, secrets.token_bytes(invites.SECRET_BYTES), expires_at, hints)
        self._open.append(_Open(invite.key, chosen, list(zones), expires_at))
        self._save()
        return invites.mint(invite)

    # --- the port ---

    async def _listen(self) -> None:
        if self._server is None:
            context = self._keeper.join_context()
            for port in dict.fromkeys((self._port, 0)):
                try:
                    self._server = await asyncio.start_server(
                        self._accept, self._host, port, ssl=context, ssl_handshake_timeout=HANDSHAKE_S, backlog=32
                    )
                    break
                except OSError:
                    if port == 0:
                        raise
            assert self._server is not None
            self._port = self._server.sockets[0].getsockname()[1]
        self._close_later()

    def _close_later(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = asyncio.get_running_loop().call_later(5.0, self._close_when_unused)

    def _close_when_unused(self) -> None:
        self._forget_expired()
        if self._open or self._connections:
            self._close_later()
        elif self._server is not None:
            self._server.close()
            self._server = None

    async def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(EXCHANGE_S):
                nonce = secrets.token_bytes(32)
                _write(writer, {"nonce": nonce})
                request = await _read(reader, REQUEST_BYTES_MAX)
                try:
                    answer, statement = self._redeem(request, nonce)
                except MeshError as error:
                    log.warning("a join was refused: %s", error)
                    _write(writer, {"error": error.to_wire()})
                else:
                    _write(writer, answer)
                    self._joined(statement)
                await writer.drain()
        except (OSError, TimeoutError, MeshError, asyncio.IncompleteReadError) as error:
            log.info("a connection to the join port ended: %s", error)
        finally:
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    def _redeem(self, request: dict[str, Any], nonce: bytes) -> tuple[dict[str, Any], Statement]:
        spki, name = request.get("spki"), request.get("name")
        shown, possession = request.get("proof"), request.get("possession")
        if not (isinstance(spki, bytes) and isinstance(shown, bytes) and isinstance(possession, bytes)):
            raise ProtocolError("not a join request")
        if not (isinstance(name, str) and 0 < len(name) <= 128 and name.isprintable()):
            raise ProtocolError("a node's name is 1 to 128 printable characters")
        me = self._keeper.id
        found = self._find(spki, shown, nonce)
        if not identity.verify(spki, invites.possession(spki, me, nonce), possession):
            raise PermissionDenied("the joiner does not hold the key that it shows")
        node = identity.node_id(spki)
        if (revocation := self._keeper.statements.revoked(node)) is not None:
            raise PermissionDenied(
                f"this machine's key was revoked ({revocation.reason or 'no reason given'}) and stays out",
                hint="move its home away, so that it makes a new key, and ask for a new token",
            )
        self._open.remove(found)
        self._save()  # burned, on disk, before anything is signed
        leaf, statement = self._keeper.admit(spki, name, found.roles, found.zones)
        return {
            "leaf": leaf,
            "statements": [data for _, data in self._keeper.statements.items()],
            "peers": [[peer, [list(address) for address in addresses]] for peer, addresses in self._peers()],
        }, statement

    def _find(self, spki: bytes, shown: bytes, nonce: bytes) -> _Open:
        self._forget_expired()
        me = self._keeper.id
        for invite in self._open:
            if hmac.compare_digest(invites.proof(invite.key, me, spki, nonce), shown):
                return invite
        # Which invite was meant is not known, so a wrong proof counts against each: guessing burns what is open.
        for invite in self._open:
            invite.wrong += 1
        self._open = [invite for invite in self._open if invite.wrong < WRONG_PROOFS_MAX]
        self._save()
        raise TokenRefused("the token is unknown here: already used, expired or withdrawn", hint="ask for a new one")

    def _forget_expired(self) -> None:
        now = time.time()
        self._open = [invite for invite in self._open if invite.expires_at > now]

    def _save(self) -> None:
        stored = {"port": self._port, "open": [asdict(invite) for invite in self._open]}
        write_checked(self._keeper.home / "invites", msgpack.packb(stored))


@dataclass(frozen=True, slots=True)
class Joined:
    """What redeeming a token brought."""

    membership: Membership
    inviter: NodeId
    peers: tuple[tuple[NodeId, tuple[Address, ...]], ...]


async def redeem(keeper: Keeper, token: str, name: str) -> Joined:
    """Show the token to its inviter. Nothing is written; `Keeper.adopt` does that.

    Raises TokenRefused, PermissionDenied, PeerLost when no address of the token answers, ProtocolError.
    """
    invite = invites.parse(token, now=time.time())
    if not invite.hints:
        raise TokenRefused("the token names no address of its inviter")
    failures = []
    for host, port in invite.hints:
        try:
            async with asyncio.timeout(HANDSHAKE_S + EXCHANGE_S):
                return await _redeem_at(keeper, invite, name, host, port)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            failures.append(f"{host}:{port}: {error or type(error).__name__}")
    raise PeerLost(
        f"the inviter did not answer ({'; '.join(failures)})",
        hint="is its agent running, and are both machines on one network? the token's port must be reachable",
    )


async def _redeem_at(keeper: Keeper, invite: Invite, name: str, host: str, port: int) -> Joined:
    context = identity.base_context(server=False)
    reader, writer = await asyncio.open_connection(host, port, ssl=context, ssl_handshake_timeout=HANDSHAKE_S)
    try:
        _check_pin(writer, invite.inviter)
        nonce = (await _read(reader, REQUEST_BYTES_MAX)).get("nonce")
        if not isinstance(nonce, bytes) or len(nonce) != 32:
            raise ProtocolError("the inviter did not begin with a nonce")
        _write(
            writer,
            {
                "spki": keeper.spki,
                "name": name,
                "proof": invites.proof(invite.key, invite.inviter, keeper.spki, nonce),
                "possession": keeper.key.sign(invites.possession(keeper.spki, invite.inviter, nonce)),
            },
        )
        await writer.drain()
        answer = await _read(reader, REPLY_BYTES_MAX)
        if isinstance(error := answer.get("error"), dict):
            raise from_wire(error)
        return _joined(answer, invite.inviter)
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()


def _check_pin(writer: asyncio.StreamWriter, inviter: NodeId) -> None:
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True)
    assert der is not None, "a TLS server shows a certificate"
    public = x509.load_der_x509_certificate(der).public_key()
    if not isinstance(public, Ed25519PublicKey) or identity.node_id(identity.public_der(public)) != inviter:
        raise TokenRefused(
            "the machine that answered is not the inviter; nothing was told to it",
            hint="someone else has its address; do not go on until you know who",
        )


def _joined(answer: dict[str, Any], inviter: NodeId) -> Joined:
    try:
        statements = tuple(answer["statements"])
        peers = tuple((NodeId(peer), tuple((str(h), int(p)) for h, p in rows)) for peer, rows in answer["peers"])
        leaf = answer["leaf"]
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the inviter's answer is malformed: {error}") from error
    if not isinstance(leaf, bytes) or not all(isinstance(s, bytes) for s in statements):
        raise ProtocolError("the inviter's answer is malformed")
    return Joined(Membership(leaf, statements), inviter, peers)


def _write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    data: bytes = msgpack.packb(message)
    writer.write(_LENGTH.pack(len(data)) + data)


async def _read(reader: asyncio.StreamReader, bytes_max: int) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > bytes_max:
        raise ProtocolError(f"a join message of {length} bytes; {bytes_max} are allowed")
    data = await reader.readexactly(length)
    try:
        message = msgpack.unpackb(data, max_array_len=STATEMENTS_MAX, max_map_len=16, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a join message is malformed: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("a join message is not a map")
    return message

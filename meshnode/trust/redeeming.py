"""Showing a token to its inviter: the joiner's side, and how join messages travel.

Nothing is told to a machine whose key is not the one in the token. Of several addresses all are tried, each a little
after the one before, and the first that proves to be the inviter is the only one that hears the proof.

A join port that is flooded hangs up on who waits there longest (`porch`), be it a joiner: who was answered nothing
tries again. A token that was used up by a try whose answer was lost is refused at the next, with the name that used it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import PeerLost, PermissionDenied, ProtocolError, TokenRefused, from_wire
from meshnode.trust import identity, invites
from meshnode.trust.invites import Invite
from meshnode.trust.keeper import Membership
from meshnode.trust.statements import STATEMENTS_MAX
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

VERSION = 1
HANDSHAKE_S = 5.0
EXCHANGE_S = 30.0
"""For a statement set of a large mesh over a slow line."""
STAGGER_S = 0.3
"""The next address is tried beside the first after so long."""
AGAIN_S = 30.0
"""So long a joiner comes back to an inviter that hangs up and answers nothing."""
PAUSE_S, PAUSE_MAX_S = 0.1, 2.0
REQUEST_BYTES_MAX = 2048
REPLY_BYTES_MAX = 256 * 1024 * 1024
ANSWER_STATEMENTS_MAX = 2 * STATEMENTS_MAX
_LENGTH = struct.Struct(">I")
Address = tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Joined:
    """What redeeming a token brought."""

    membership: Membership
    peers: tuple[tuple[NodeId, tuple[Address, ...]], ...]


class Applicant(Protocol):
    """Who asks to join: a key, and its DER SubjectPublicKeyInfo."""

    @property
    def key(self) -> Ed25519PrivateKey:
        """The node's key."""
        ...

    @property
    def spki(self) -> bytes:
        """Its public half."""
        ...


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A node that is not there yet."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def spki(self) -> bytes:
        """Its public half."""
        return identity.public_der(self.key)


async def redeem(applicant: Applicant, token: str, name: str) -> Joined:
    """Show the token to its inviter. Nothing is written; `Keeper.adopt` does that.

    Raises TokenRefused, PermissionDenied, PeerLost when no address of the token answers, ProtocolError, and what the
    inviter answered.
    """
    invite = invites.parse(token, now=time.time())
    if not isinstance(invite, Invite):
        raise TokenRefused("a batch token is not redeemed at its inviter", hint="use `meshnode join`")
    if not invite.hints:
        raise TokenRefused("the token names no address of its inviter", hint="ask for a new one")
    clock, pause_s, told = asyncio.get_running_loop().time, PAUSE_S, False
    end = clock() + AGAIN_S
    while True:
        try:
            return await _try(applicant, invite, name)
        except _HungUp as error:
            told |= error.told
            pause = pause_s * random.uniform(0.5, 1.0)
            if clock() + pause > end:
                raise PeerLost(
                    f"the inviter hung up each time, for {AGAIN_S:g} s: {error}",
                    hint="its join port may be flooded; "
                    + ("ask for a new token if this one was used up" if told else "the token was not used: try again"),
                ) from error
            log.info("the inviter hung up before it answered, trying again: %s", error)
        await asyncio.sleep(pause)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)


class _HungUp(Exception):
    """The other side ended a connection and answered nothing. `told`: it may have heard the proof."""

    def __init__(self, why: str, *, told: bool) -> None:
        super().__init__(why)
        self.told = told


async def _try(applicant: Applicant, invite: Invite, name: str) -> Joined:
    """One connection. Raises what `redeem` raises, and _HungUp."""
    reader, writer = await _reach(invite)
    try:
        async with asyncio.timeout(EXCHANGE_S):
            return await _exchange(applicant, invite, name, reader, writer)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise PeerLost(
            f"the inviter fell silent: {error or type(error).__name__}",
            hint="ask for a new token if this one was used up",
        ) from error
    finally:
        await hang_up(writer)


async def _reach(invite: Invite) -> Streams:
    """A connection to the inviter itself. Raises TokenRefused when only others answered, _HungUp, else PeerLost."""
    failures: list[str] = []
    impostor: TokenRefused | None = None
    hung_up = False
    dials: set[asyncio.Task[Streams]] = set()
    won: Streams | None = None
    try:
        for index, (host, port) in enumerate(invite.hints):
            dials.add(asyncio.ensure_future(_dial(invite, host, port)))
            last = index == len(invite.hints) - 1
            while dials and won is None:
                done, dials = await asyncio.wait(
                    dials, timeout=None if last else STAGGER_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception()
                    if error is None and won is None:
                        won = task.result()
                    elif error is None:
                        task.result()[1].close()
                    elif isinstance(error, TokenRefused):
                        impostor = error
                    else:
                        hung_up |= isinstance(error, _HungUp)
                        failures.append(str(error))
                if not last:
                    break
            if won is not None:
                return won
    finally:
        for task in dials:
            task.cancel()
        for outcome in await asyncio.gather(*dials, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                outcome[1].close()
    if impostor is not None:
        raise impostor
    if hung_up:
        raise _HungUp("; ".join(failures), told=False)
    raise PeerLost(
        f"the inviter did not answer ({'; '.join(failures)})",
        hint="is its agent running, and are both machines on one network? "
        "the port of a token that was used or withdrawn is closed: then ask for a new one",
    )


async def _dial(invite: Invite, host: str, port: int) -> Streams:
    context = identity.base_context(server=False)
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        ended = isinstance(error, ssl.SSLEOFError | ConnectionError) and not isinstance(error, ConnectionRefusedError)
        why = f"{host}:{port}: {reason}"
        raise (_HungUp(why, told=False) if ended else PeerLost(why)) from error
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        if identity.leaf_id(tls.getpeercert(binary_form=True) or b"") == invite.inviter:
            return reader, writer
    except PermissionDenied:
        pass  # a key of another kind is another machine's
    writer.transport.abort()
    raise TokenRefused(
        f"the machine that answered at {host}:{port} is not the inviter; nothing was told to it",
        hint="someone else has its address; do not go on until you know who",
    )


async def _exchange(
    applicant: Applicant, invite: Invite, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Joined:
    nonce = (await _heard(reader, REQUEST_BYTES_MAX, told=False)).get("nonce")
    if not isinstance(nonce, bytes) or len(nonce) != 32:
        raise ProtocolError("the inviter did not begin with a nonce")
    send(
        writer,
        {
            "v": VERSION,
            "invite": invites.tag(invite.key),
            "spki": applicant.spki,
            "name": name,
            "proof": invites.proof(invite.key, invite.inviter, applicant.spki, nonce),
            "possession": applicant.key.sign(invites.possession(applicant.spki, invite.inviter, nonce)),
        },
    )
    answer = await _heard(reader, REPLY_BYTES_MAX, told=True)
    if isinstance(error := answer.get("error"), dict):
        raise from_wire(error)
    return _joined(answer, invite)


async def _heard(reader: asyncio.StreamReader, bytes_max: int, *, told: bool) -> dict[str, Any]:
    """What the inviter says. Raises _HungUp when it goes without a word, and what `receive` raises."""
    try:
        length = await reader.readexactly(_LENGTH.size)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise _HungUp(str(error) or type(error).__name__, told=told) from error
    return await _content(reader, length, bytes_max)


def _joined(answer: dict[str, Any], invite: Invite) -> Joined:
    try:
        statements = tuple(answer["statements"])
        peers = tuple((NodeId(peer), tuple((str(h), int(p)) for h, p in rows)) for peer, rows in answer["peers"])
        leaf = answer["leaf"]
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the inviter's answer is malformed: {error}") from error
    if not isinstance(leaf, bytes) or not all(isinstance(s, bytes) for s in statements):
        raise ProtocolError("the inviter's answer is malformed")
    return Joined(Membership(leaf, statements, invite.mesh_prefix), peers)


# --- join messages ---


def send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """Write a u32 length and a MessagePack map."""
    data: bytes = msgpack.packb(message)
    writer.write(_LENGTH.pack(len(data)) + data)


async def receive(reader: asyncio.StreamReader, bytes_max: int) -> dict[str, Any]:
    """Read what `send` wrote. Raises ProtocolError, IncompleteReadError when the other side hung up, OSError."""
    return await _content(reader, await reader.readexactly(_LENGTH.size), bytes_max)


async def _content(reader: asyncio.StreamReader, packed: bytes, bytes_max: int) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(packed)
    if length > bytes_max:
        raise ProtocolError(f"a join message of {length} bytes; {bytes_max} are allowed")
    data = await reader.readexactly(length)
    try:
        message = msgpack.unpackb(data, max_array_len=ANSWER_STATEMENTS_MAX, max_map_len=16, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a join message is malformed: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("a join message is not a map")
    return message


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, and do not wait long for a peer that does not."""
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()

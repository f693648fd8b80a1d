"""Invite tokens: what is in one, and the proof that the holder of a single-use one gives.

A token is `mesh1-` and base32 of `payload | 4 bytes of SHA-256(payload)`. The payload pins everything a joiner must
know before it says anything: the mesh, the key hash of the machine that will answer, and where. The secret never
travels: the joiner shows an HMAC over both sides of the connection, so that whoever relays it gains nothing.

A batch token holds a private key instead, with which the joiner signs its own certificate: any member may answer, and
the whole mesh id is what the joiner knows it by.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import struct
from dataclasses import dataclass

from meshnode.errors import TokenRefused
from meshnode.trust.identity import id_bytes, id_text
from meshnode.wire.messages import NodeId

PREFIX = "mesh1-"
VERSION = 1
KIND_SINGLE = 1
KIND_BATCH = 2
SECRET_BYTES = 16
MESH_PREFIX_BYTES = 16
EPOCH = 1_577_836_800
"""2020-01-01 UTC: expiry counts seconds from here, in four bytes, until 2156."""
HINTS_MAX = 3
BATCH_HINTS_MAX = 8
"""More than of a single-use token: it lives longer, and whoever is there may answer."""
_FIXED = struct.Struct(">BB16s32s16sIB")
_BATCH = struct.Struct(">BB32s32sIIB")
_SIZES = {KIND_SINGLE: _FIXED.size, KIND_BATCH: _BATCH.size}
"""Of what is before the addresses; its last byte is their number."""
_DOMAIN = b"meshnode/join/1\0"
TAG_BYTES = 8
_AGAIN = "copy it again, whole: it is one line"


@dataclass(frozen=True, slots=True)
class Invite:
    """What a token says. `hints` are (address, port) of the join listener."""

    mesh_prefix: str
    inviter: NodeId
    secret: bytes
    expires_at: int
    hints: tuple[tuple[str, int], ...]

    @property
    def key(self) -> bytes:
        """What the inviter knows the token by; the secret cannot be found from it."""
        return hmac.digest(self.secret, b"meshnode/invite/1", "sha256")


@dataclass(frozen=True, slots=True)
class BatchToken:
    """What a batch token says. `seed` is the private half of the invite's key, `hints` are where members listen."""

    mesh_id: str
    seed: bytes
    issued_at: int
    expires_at: int
    hints: tuple[tuple[str, int], ...]

    @property
    def mesh_prefix(self) -> str:
        """The whole mesh id."""
        return self.mesh_id


def tag(key: bytes) -> bytes:
    """Which invite a joiner means: 8 bytes that only the holders of its token can name, and that prove nothing."""
    return hmac.digest(key, b"meshnode/invite/tag/1", "sha256")[:TAG_BYTES]


def mint(invite: Invite) -> str:
    """The token's text: 138 characters with one IPv4 hint."""
    payload = _FIXED.pack(
        VERSION,
        KIND_SINGLE,
        bytes.fromhex(invite.mesh_prefix),
        id_bytes(invite.inviter),
        invite.secret,
        invite.expires_at - EPOCH,
        len(invite.hints[:HINTS_MAX]),
    )
    return _finished(payload, invite.hints[:HINTS_MAX])


def mint_batch(token: BatchToken) -> str:
    """The token's text: 144 characters with one IPv4 hint."""
    hints = token.hints[:BATCH_HINTS_MAX]
    times = (token.issued_at - EPOCH, token.expires_at - EPOCH)
    payload = _BATCH.pack(VERSION, KIND_BATCH, bytes.fromhex(token.mesh_id), token.seed, *times, len(hints))
    return _finished(payload, hints)


def _finished(payload: bytes, hints: tuple[tuple[str, int], ...]) -> str:
    for host, port in hints:
        packed = ipaddress.ip_address(host).packed
        payload += struct.pack(">B", len(packed)) + packed + struct.pack(">H", port)
    return PREFIX + _text(payload + _check(payload))


def parse(text: str, *, now: float) -> Invite | BatchToken:
    """What the token says. Raises TokenRefused: not a token, incomplete, damaged, a newer version, expired."""
    payload = _payload(text)
    version, kind = payload[:2]
    invite: Invite | BatchToken
    if (version, kind) == (VERSION, KIND_SINGLE):
        _, _, mesh, inviter, secret, expires, hints = _FIXED.unpack_from(payload)
        where = _hints(payload[_FIXED.size :], hints)
        invite = Invite(mesh.hex(), id_text(inviter), secret, expires + EPOCH, where)
    elif (version, kind) == (VERSION, KIND_BATCH):
        _, _, mesh, seed, issued, expires, hints = _BATCH.unpack_from(payload)
        invite = BatchToken(mesh.hex(), seed, issued + EPOCH, expires + EPOCH, _hints(payload[_BATCH.size :], hints))
    else:
        raise TokenRefused(
            f"the token has version {version}.{kind}; this meshnode knows {VERSION}.{KIND_SINGLE} and "
            f"{VERSION}.{KIND_BATCH}",
            hint="update meshnode on this machine",
        )
    if now >= invite.expires_at:
        raise TokenRefused(f"the token expired {ago(now - invite.expires_at)}: ask for a new one")
    return invite


def _payload(text: str) -> bytes:
    """What stands before the checksum, which is right. Raises TokenRefused."""
    text = "".join(text.split()).lower()
    if not text.startswith(PREFIX):
        raise TokenRefused(
            "this is not an invite token", hint=f"a token begins with {PREFIX!r}; `meshnode invite` makes one"
        )
    body = text.removeprefix(PREFIX)
    whole = body if len(body) % 8 not in (1, 3, 6) else body[:-1]  # lengths that base32 does not have
    try:
        data = base64.b32decode(whole.upper() + "=" * (-len(whole) % 8))
    except ValueError as error:
        raise TokenRefused("the token is damaged: it has characters that no token has", hint=_AGAIN) from error
    payload, check = data[:-4], data[-4:]
    enough = len(payload) >= (_SIZES.get(payload[1], _FIXED.size) if len(payload) > 1 else _FIXED.size)
    right = enough and hmac.compare_digest(check, _check(payload)) and _text(data) == body
    if not right:
        raise TokenRefused(_what_is_wrong(len(text), data), hint=_AGAIN)
    return payload


def _hints(data: bytes, count: int) -> tuple[tuple[str, int], ...]:
    found = []
    try:
        for _ in range(count):
            size = data[0]
            host = str(ipaddress.ip_address(data[1 : 1 + size]))
            (port,) = struct.unpack_from(">H", data, 1 + size)
            data = data[3 + size :]
            found.append((host, port))
    except (IndexError, ValueError, struct.error) as error:
        raise TokenRefused("the token is damaged: its addresses make no sense") from error
    return tuple(found)


def _text(data: bytes) -> str:
    return base64.b32encode(data).decode().lower().rstrip("=")


def _what_is_wrong(chars: int, data: bytes) -> str:
    fixed = _SIZES.get(data[1], _FIXED.size) if len(data) > 1 else _FIXED.size
    if len(data) < fixed:
        return f"the token is incomplete: {chars} of at least {_chars(fixed)} characters"
    # How long it should be is told by what is there of it.
    size, rest = fixed, data[fixed:]
    for _ in range(data[fixed - 1]):
        width = rest[0] if rest else 4
        size += 3 + width
        rest = rest[3 + width :]
    expected = _chars(size)
    if chars < expected:
        return f"the token is incomplete: {chars} of {expected} characters"
    if chars > expected:
        return f"the token is damaged: it has {chars} characters, and should have {expected}"
    return "the token is damaged: its checksum is wrong"


def _chars(payload_bytes: int) -> int:
    return len(PREFIX) + -(-(payload_bytes + 4) * 8 // 5)


def _check(payload: bytes) -> bytes:
    return hashlib.sha256(b"meshnode/token/1\0" + payload).digest()[:4]


def ago(seconds: float) -> str:
    """`3 h ago`, for people."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


def proof(key: bytes, inviter: NodeId, joiner_spki: bytes, server_nonce: bytes) -> bytes:
    """What the joiner shows: bound to this inviter, this joiner's key and this connection's nonce."""
    return hmac.digest(key, _DOMAIN + id_bytes(inviter) + joiner_spki + server_nonce, "sha256")


def possession(joiner_spki: bytes, inviter: NodeId, server_nonce: bytes) -> bytes:
    """What the joiner signs with its node key, to show that it holds it."""
    return b"meshnode/join/possession/1\0" + id_bytes(inviter) + joiner_spki + server_nonce

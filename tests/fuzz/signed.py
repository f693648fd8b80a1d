"""Readers of trust, for the table of targets: statements, tokens, join messages, certificates."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgpack

from meshnode.catalog import manifest
from meshnode.catalog.index import Catalog
from meshnode.errors import ProtocolError, from_wire
from meshnode.fleet import blueprint
from meshnode.trust import believing, form, identity, invites, policy, publishing, redeeming
from meshnode.trust.invites import Invite
from tests.trust.cast import NOW, Person, Town

TOWN = Town()
MEMBER, OTHER = Person(21), Person(22)
KINDS = tuple(sorted(form.KINDS - {"genesis"}))
INVITE = Invite(TOWN.mesh[:32], MEMBER.id, bytes(16), NOW + 600, (("192.0.2.7", 7434),))


@cache
def _grants() -> tuple[bytes, ...]:
    return tuple(TOWN.grants(it, roles=("publisher", "submitter", "worker")) for it in (MEMBER, OTHER))


def statement(data: bytes) -> None:
    """One from the wire, whoever signed it."""
    it = form.parse(data)
    assert it.data == data
    form.check_signatures(it, identity.verify)


def body(data: bytes) -> None:
    """What a live admin or a member has signed, for the set and everything that is read from it.

    The first byte names the kind, and who says it. Whatever a set has taken in, all that follows from it can be asked.
    """
    head = data[0] if data else 0
    kind, who = KINDS[(head >> 1) % len(KINDS)], MEMBER if head & 1 else TOWN.admin
    try:
        fields: Any = msgpack.unpackb(data[1:], max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as wrong:
        raise ProtocolError("no body") from wrong  # who signs has a map
    if not isinstance(fields, dict):
        raise ProtocolError("no body")
    said = form.make_statement(
        kind, fields, mesh=TOWN.mesh, issuer=who.spki, sign=who.key.sign, issued_at=NOW, nonce=bytes(16)
    )
    held = TOWN.set(*_grants())
    held.add(said)
    if kind in ("admin_add", "invite_key"):
        identity.make_context(server=False, key=MEMBER.key, leaf=leaf(), roots=believing.roots(held))
    for grant in held.members():
        assert held.grant(grant.node, NOW) is None or grant.ends_at > 0
    Catalog().refresh([(it, held.publisher(it)) for it in held.models()])
    for it in held.models():
        try:
            manifest.from_map(it.body, held.publisher(it))
        except ProtocolError:
            continue
    blueprint.holding(held.blueprints())
    rules = policy.stricter(policy.holding(held.policies()), policy.Policy())
    rules.refuses_submitter(policy.Node(MEMBER.id, "n21", frozenset(("worker",)), "ward-3"))
    publishing.publishers(held.publishers())
    for invite in held.invites().values():
        assert invite.uses >= 1
    held.flag("0" * 64)
    held.revoked(OTHER.id)
    assert held.root_hash == TOWN.set(*(it for _, it in held.items())).root_hash


def token(data: bytes) -> None:
    """As a person pastes it."""
    invites.parse(data.decode("utf-8", "surrogateescape"), now=NOW)


def payload(data: bytes) -> None:
    """As whoever mints one can write it: the checksum is right."""
    it = invites.parse(invites.PREFIX + invites._text(data + invites._check(data)), now=NOW)
    again = invites.mint(it) if isinstance(it, Invite) else invites.mint_batch(it)
    if len(it.hints) <= invites.HINTS_MAX:
        assert it == invites.parse(again, now=NOW)


def join(data: bytes) -> None:
    """A message on the join port, as its reader takes it from the stream; as an inviter's answer."""
    loop = _loop()
    reader = asyncio.StreamReader(loop=loop)
    reader.feed_data(struct.pack(">I", len(data)) + data)
    reader.feed_eof()
    receiving = redeeming.receive(reader, 1 << 20)
    try:
        receiving.send(None)
    except StopIteration as done:
        answer: dict[str, Any] = done.value
    else:
        raise AssertionError("all of it was there")
    if isinstance(error := answer.get("error"), dict):
        raise from_wire(error)
    redeeming._joined(answer, INVITE)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def leaf() -> bytes:
    """The certificate of a member."""
    return identity.issue_leaf(TOWN.admin.key, TOWN.admin.root, MEMBER.spki, TOWN.mesh, now=_now())


def _now() -> datetime:
    return datetime.fromtimestamp(NOW, UTC)


def certificate(data: bytes) -> None:
    """What a peer shows, or an admin's statement holds as a root."""
    identity.is_root(data, TOWN.admin.spki)
    identity.is_key(data)
    identity.verify(data, b"message", bytes(64))
    node = identity.leaf_id(data)
    for expected in (None, node, MEMBER.id):
        identity.peer_identity(
            data,
            mesh_id=TOWN.mesh,
            roots=(TOWN.admin.root, data),
            expected=expected,
            revoked=lambda _: None,
            now=_now(),
        )

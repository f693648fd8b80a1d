"""The form of one statement."""

from __future__ import annotations

import hashlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import MeshError, PermissionDenied, ProtocolError
from meshnode.trust import form, identity
from tests.trust.cast import NOW, Person, Town

TOWN = Town()
GRANT = TOWN.grants(Person(2))

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def changed(data: bytes, **fields: object) -> bytes:
    return form.canonical({**msgpack.unpackb(data), **fields})


def check(data: bytes) -> form.Statement:
    statement = form.parse(data)
    form.check_signatures(statement, identity.verify)
    return statement


def test_a_statement_reads_as_it_was_made() -> None:
    """Kind, mesh, body, issuer and time come back, and the id is the hash of what was signed."""
    statement = check(GRANT)
    unsigned = {key: value for key, value in msgpack.unpackb(GRANT).items() if key != "sigs"}

    assert ("grant", TOWN.mesh, TOWN.admin.spki, NOW) == (
        statement.kind,
        statement.mesh,
        statement.issuer,
        statement.issued_at,
    )
    assert Person(2).id == statement.body["node"]
    assert hashlib.sha256(form.canonical(unsigned)).digest() == statement.id


def test_a_second_signature_makes_no_second_statement() -> None:
    """Who adds a signature of his own to a statement does not get it past a revocation of its id."""
    stranger = Person(9)
    fields = msgpack.unpackb(GRANT)
    message = form.DOMAIN + form.canonical({key: value for key, value in fields.items() if key != "sigs"})
    both = changed(GRANT, sigs=[*fields["sigs"], [stranger.spki, stranger.key.sign(message)]])

    assert both != GRANT
    assert form.parse(GRANT).id == check(both).id


@settings(deadline=None)  # a loaded machine
@given(values)
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value: object) -> None:
    """One value has one form, which reads back as the value."""
    data = form.canonical({"a": value, "b": 1})

    assert data == form.canonical({"b": 1, "a": value})
    assert {"a": value, "b": 1} == msgpack.unpackb(data)


@settings(deadline=None)  # a loaded machine
@given(st.binary(max_size=200))
def test_no_bytes_end_in_another_error(noise: bytes) -> None:
    """Whatever comes, reading it ends in a statement or a ProtocolError."""
    with pytest.raises(ProtocolError):
        form.parse(noise)


@settings(deadline=None)  # a loaded machine
@given(st.dictionaries(st.sampled_from(sorted(msgpack.unpackb(GRANT))), values, min_size=1, max_size=3))
def test_no_wrong_type_of_a_field_ends_in_another_error(fields: dict[str, object]) -> None:
    """A statement with fields of any type is refused or still what its issuer signed."""
    try:
        statement = check(changed(GRANT, **fields))
    except MeshError:
        return
    assert form.parse(GRANT).id == statement.id


@settings(deadline=None)  # a loaded machine
@given(st.integers(0, len(GRANT) - 1), st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(place: int, flip: int) -> None:
    """A single wrong byte anywhere is a refusal."""
    spoiled = bytearray(GRANT)
    spoiled[place] ^= flip
    with pytest.raises(MeshError):
        check(bytes(spoiled))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (changed(GRANT, v=2), "version"),
        (changed(GRANT, v=True), "version"),
        (changed(GRANT, kind="pardon"), "version"),
        (changed(GRANT, nonce=bytes(15)), "version"),
        (changed(GRANT, sigs=[]), "version"),
        (changed(GRANT, issued_at=-1), "version"),
        (changed(GRANT, extra=1), "version"),
        (changed(GRANT, mesh=""), "genesis"),
        (changed(TOWN.genesis, mesh=TOWN.mesh), "genesis"),
        (changed(TOWN.genesis, issuer=Person(3).spki), "admins"),
        (changed(GRANT, body={**form.parse(GRANT).body, "node": "me"}), "malformed"),
        (changed(GRANT, body={**form.parse(GRANT).body, "name": "a\nb"}), "malformed"),
        (changed(GRANT, body={**form.parse(GRANT).body, "zones": [1]}), "malformed"),
        (changed(GRANT, body={**form.parse(GRANT).body, "more": "x" * 5000}), "4096 are allowed"),
        (GRANT + b"\0", "not a statement"),
        (b"\x81\xa1v\xcd\x00\x01", "canonical"),
        (msgpack.packb({"v": 1.0}), "float"),
        (b"\x82\xa1v\x01\xa1v\x01", "twice"),
        (bytes(50_000), "40960 are allowed"),
        (b"\xd4\x05\x00", "not a statement"),
        (b"\x91" * 2000 + b"\x00", "not a statement"),
    ],
)
def test_what_is_not_a_statement_is_refused(data: bytes, says: str) -> None:
    """Each defect has its own words."""
    with pytest.raises(ProtocolError, match=says):
        form.parse(data)


def test_a_statement_without_its_issuers_signature_is_refused() -> None:
    """Somebody else's signature alone does not speak for the issuer."""
    stranger = Person(9)
    fields = msgpack.unpackb(GRANT)
    message = form.DOMAIN + form.canonical({key: value for key, value in fields.items() if key != "sigs"})
    with pytest.raises(ProtocolError, match="issuer's signature"):
        check(changed(GRANT, sigs=[[stranger.spki, stranger.key.sign(message)]]))
    with pytest.raises(ProtocolError, match="once"):
        check(changed(GRANT, sigs=fields["sigs"] * 2))


def test_a_forged_signature_is_refused() -> None:
    """A signature by the right name and the wrong key does not verify."""
    fields = msgpack.unpackb(GRANT)
    message = form.DOMAIN + form.canonical({key: value for key, value in fields.items() if key != "sigs"})
    with pytest.raises(PermissionDenied, match="signature"):
        check(changed(GRANT, sigs=[[TOWN.admin.spki, Person(9).key.sign(message)]]))


def test_a_body_that_is_too_large_is_refused_before_it_is_signed() -> None:
    """Models have 32 KiB, everything else 4."""
    admin = TOWN.admin
    assert len(admin.says("model", {"x": "y" * 32_000}, mesh=TOWN.mesh)) < form.STATEMENT_BYTES_MAX
    with pytest.raises(ProtocolError, match="32768 are allowed"):
        admin.says("model", {"x": "y" * 33_000}, mesh=TOWN.mesh)
    with pytest.raises(ProtocolError, match="4096 are allowed"):
        admin.says("publisher", {"x": "y" * 4096}, mesh=TOWN.mesh)


@pytest.mark.parametrize("value", [1.5, object(), {1: 2}, 2**64, "\ud800"])
def test_what_no_statement_can_hold_is_refused_before_it_is_signed(value: object) -> None:
    """Floats, foreign objects, keys that are no text, numbers and text that have no bytes."""
    with pytest.raises(ProtocolError, match="cannot hold"):
        TOWN.admin.says("publisher", {"x": value}, mesh=TOWN.mesh)

"""Who a node is: its key, its certificate, and what TLS makes of them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from meshnode.errors import HomeError, PermissionDenied
from meshnode.trust import identity
from tests.trust.cast import Person

MESH = "ab" * 32
ADMIN, A, B = Person(1), Person(2), Person(3)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def leaf(person: Person, *, admin: Person = ADMIN, mesh: str = MESH, now: datetime = NOW) -> bytes:
    return identity.issue_leaf(admin.key, admin.root, person.spki, mesh, now=now)


def check(der: bytes | None, *, expected: Person | None = None, revoked: str | None = None, now: datetime = NOW) -> str:
    return identity.peer_identity(
        der,
        mesh_id=MESH,
        roots=[Person(8).root, ADMIN.root],
        expected=None if expected is None else expected.id,
        revoked=lambda _: None if revoked is None else PermissionDenied(f"it was revoked: {revoked}"),
        now=now,
    )


def self_made(key: Any, *, uri: str | None = None, days: int = 10) -> bytes:
    """A certificate that its own key signed."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "me")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=days))
    )
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    algorithm = SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


# --- keys and ids ---


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The second start reads the first one's key, which only its owner can."""
    first = identity.load_or_create_key(tmp_path / "node.key")
    second = identity.load_or_create_key(tmp_path / "node.key")

    assert identity.public_der(first) == identity.public_der(second)
    assert 0o600 == (tmp_path / "node.key").stat().st_mode & 0o777


@pytest.mark.parametrize("content", [b"", b"noise", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    """A key file that holds no key is an error and stays as it is."""
    path = tmp_path / "node.key"
    path.write_bytes(content)
    with pytest.raises(HomeError, match="damaged"):
        identity.load_or_create_key(path)
    assert content == path.read_bytes()


def test_a_key_that_others_can_read_is_closed_to_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and put right."""
    path = tmp_path / "node.key"
    identity.load_or_create_key(path)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        identity.load_key(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert "other users" in caplog.text


def test_an_id_is_the_hash_of_the_key() -> None:
    """52 characters of base32 that go back to the 32 bytes of SHA-256 over the DER public key."""
    assert hashlib.sha256(A.spki).digest() == identity.id_bytes(A.id)
    assert A.id == identity.id_text(identity.id_bytes(A.id))
    assert 52 == len(A.id)


def test_a_signature_is_checked_and_nothing_raises() -> None:
    """Right is True; a wrong signature, message or key, or noise for a key, is False."""
    signature = A.key.sign(b"message")

    assert identity.verify(A.spki, b"message", signature)
    assert not identity.verify(A.spki, b"massage", signature)
    assert not identity.verify(B.spki, b"message", signature)
    assert not identity.verify(b"noise", b"message", signature)
    assert not identity.verify(A.spki, b"message", b"short")


# --- peer_identity ---


def test_a_members_certificate_names_it() -> None:
    """Key, name, mesh and signature fit: this is the node."""
    assert A.id == check(leaf(A), expected=A)


def test_each_lie_has_its_reason() -> None:
    """Another node, mesh or signer, a revoked node, no certificate or a foreign one: refused, and told why."""
    stolen_name = self_made(B.key, uri=f"meshnode://{MESH}/{A.id}")
    own_name = self_made(B.key, uri=f"meshnode://{MESH}/{B.id}")
    p256 = ec.generate_private_key(ec.SECP256R1())
    for der, expected, revoked, reason in [
        (leaf(A), B, None, f"dialled node {B.id[:8]}, and node {A.id[:8]} answered"),
        (leaf(A), None, "stolen", "was revoked: stolen"),
        (leaf(A, mesh="cd" * 32), None, None, "names"),
        (leaf(A, admin=Person(9)), None, None, "not signed by an admin"),
        (stolen_name, None, None, "names"),
        (own_name, None, None, "not signed by an admin"),
        (ADMIN.root, None, None, "not one of a meshnode"),
        (self_made(p256, uri=f"meshnode://{MESH}/{A.id}"), None, None, "Ed25519"),
        (b"noise", None, None, "cannot be read"),
        (None, None, None, "no certificate"),
    ]:
        with pytest.raises(PermissionDenied, match=reason):
            check(der, expected=expected, revoked=revoked)


def test_a_certificate_signed_by_a_member_is_refused() -> None:
    """A member's leaf cannot act as an authority: the chain has exactly one step."""
    by_member = identity.issue_leaf(A.key, leaf(A), B.spki, MESH, now=NOW)
    with pytest.raises(PermissionDenied, match="not signed by an admin"):
        check(by_member)


@pytest.mark.parametrize(("days", "warns"), [(-24 / 24, True), (0.0, False), (364.0, False), (394.0, True)])
def test_a_clock_that_is_a_little_wrong_is_a_warning(
    days: float, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A day early and thirty days late pass, and are told."""
    with caplog.at_level(logging.WARNING):
        assert A.id == check(leaf(A), now=NOW + timedelta(days=days))
    assert warns == ("valid" in caplog.text)


@pytest.mark.parametrize("days", [-26 / 24, 396.0])
def test_a_clock_that_is_far_off_is_refused_with_both_times(days: float) -> None:
    """The message shows the certificate's dates and our clock."""
    now = NOW + timedelta(days=days)
    with pytest.raises(PermissionDenied, match=rf"2026-05-31 to 2027-06-01.*{now:%Y-%m-%d %H:%M}"):
        check(leaf(A), now=now)


# --- TLS ---


@asynccontextmanager
async def greeter(context: ssl.SSLContext) -> Any:
    """A TLS server that says hello; gives (port, certificates and errors seen)."""
    seen: list[Any] = []

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.write(b"hello")
        with suppress(OSError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=5)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def hear(port: int, context: ssl.SSLContext) -> tuple[bytes, ssl.SSLObject]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            return await reader.read(), writer.get_extra_info("ssl_object")
        finally:
            writer.transport.abort()


def between(*, server: bool, person: Person, admin: Person = ADMIN, now: datetime | None = None) -> ssl.SSLContext:
    der = leaf(person, admin=admin, now=now or datetime.now(UTC))
    return identity.make_context(server=server, key=person.key, leaf=der, roots=[admin.root])


async def test_two_members_talk_over_tls_1_3() -> None:
    """Both see the other's certificate, under our protocol name, and nothing can be resumed."""
    async with greeter(between(server=True, person=A)) as (port, seen):
        heard, tls = await hear(port, between(server=False, person=B))

    assert (b"hello", "TLSv1.3", identity.ALPN) == (heard, tls.version(), tls.selected_alpn_protocol())
    assert A.id == identity.leaf_id(tls.getpeercert(binary_form=True) or b"")
    assert [B.id] == [identity.leaf_id(der) for der in seen]


async def test_a_certificate_that_ran_out_passes_tls_and_is_judged_by_us() -> None:
    """OpenSSL's check of dates is off on both sides, so that our own words reach the user."""
    old = datetime(2021, 1, 1, tzinfo=UTC)
    async with greeter(between(server=True, person=A, now=old)) as (port, _):
        heard, _ = await hear(port, between(server=False, person=B, now=old))
    assert b"hello" == heard


async def test_strangers_hear_nothing() -> None:
    """No certificate, a foreign mesh's, a self-made one, or TLS 1.2: not one byte, and our side serves nobody."""
    bare = identity.base_context(server=False)
    old = identity.base_context(server=False)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    own = identity.base_context(server=False, key=B.key, leaf=self_made(B.key, uri=f"meshnode://{MESH}/{B.id}"))
    foreign = identity.base_context(server=False, key=B.key, leaf=leaf(B, admin=Person(9)))
    async with greeter(between(server=True, person=A)) as (port, seen):
        for context in (bare, old, own, foreign):
            heard = b""
            with suppress(ssl.SSLError, ConnectionError):
                heard, _ = await hear(port, context)
            assert b"" == heard
    assert [] == seen


async def test_a_dialler_refuses_a_server_of_another_mesh() -> None:
    """The client side checks as strictly as the server side."""
    async with greeter(between(server=True, person=A, admin=Person(9))) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await hear(port, between(server=False, person=B))


async def test_each_of_several_admins_certifies() -> None:
    """A context takes all live roots, so that admins can be replaced one by one."""
    second = Person(9)
    der = leaf(A, admin=second, now=datetime.now(UTC))
    server = identity.make_context(server=True, key=A.key, leaf=der, roots=[ADMIN.root, second.root, ADMIN.root])
    mine = leaf(B, now=datetime.now(UTC))
    client = identity.make_context(server=False, key=B.key, leaf=mine, roots=[second.root])
    async with greeter(server) as (port, _):
        heard, _ = await hear(port, client)
    assert b"hello" == heard


def test_a_context_leaves_no_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The private key reaches OpenSSL without staying in any temporary folder, with and without memory files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    between(server=True, person=A)
    monkeypatch.delattr("os.memfd_create", raising=False)
    between(server=True, person=A)
    assert [] == list(tmp_path.iterdir())

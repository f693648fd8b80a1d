"""Who a node is: its key, the id that follows from it, and the certificate that says so in TLS.

A node id is the SHA-256 of the DER SubjectPublicKeyInfo of its Ed25519 key, in lower-case base32: nobody can claim
another's. An admin key is the mesh's certificate authority; a node's certificate is signed by it directly, carries
`meshnode://MESH/NODE` as its only name, and is checked again by `peer_identity` after the handshake. OpenSSL's own
check of dates is switched off, since a machine whose clock is wrong must be told so and not just be dropped; ours has
a tolerance.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshnode.errors import HomeError, PermissionDenied
from meshnode.trust.files import write_atomic
from meshnode.trust.grants import EARLY_S, GRANT_S, LATE_S
from meshnode.trust.renewing import Term
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

ALPN = "meshnode/1"
EARLY, LATE = timedelta(seconds=EARLY_S), timedelta(seconds=LATE_S)
IDS_KEPT = 4096
BACKDATED = timedelta(hours=1)
"""A certificate begins so long before it was made, for clocks that are a little behind."""
_UNREADABLE = (
    ValueError,
    InternalError,  # what OpenSSL says and cryptography does not know
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the X.509 parser raises about foreign bytes."""
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for."""


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The key in the file, or a new one (0600). A file that is there but is no key is a HomeError, never replaced."""
    if not path.exists():
        return write_key(path, Ed25519PrivateKey.generate())
    return load_key(path)


def write_key(path: Path, key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    """Write the key into the file (0600). Raises HomeError."""
    write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in a PEM file. Raises HomeError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise HomeError(f"the key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise HomeError(
            f"the key {path} is damaged",
            hint="restore it from a backup; without it this machine is a new node (move the home away and join again)",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HomeError(f"the key {path} is not an Ed25519 key")
    if path.stat().st_mode & 0o077:
        log.warning("%s can be read by other users; set to 0600", path)
        path.chmod(0o600)
    return key


def public_der(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo (44 bytes) of a key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def seed_of(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes that the key is."""
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def node_id(spki: bytes) -> NodeId:
    """The id of the node whose DER SubjectPublicKeyInfo this is."""
    return NodeId(base64.b32encode(hashlib.sha256(spki).digest()).decode().lower().rstrip("="))


def id_bytes(node: NodeId) -> bytes:
    """The 32 bytes of a node id."""
    return base64.b32decode(node.upper() + "====")


@functools.lru_cache(maxsize=IDS_KEPT)
def id_text(raw: bytes) -> NodeId:
    """The node id of 32 bytes. Kept: each line of gossip names a node so."""
    return NodeId(base64.b32encode(raw).decode().lower().rstrip("="))


def is_key(spki: bytes) -> bool:
    """Whether this is an Ed25519 public key, DER."""
    try:
        return isinstance(load_der_public_key(spki), Ed25519PublicKey)
    except (ValueError, UnsupportedAlgorithm, InternalError):
        return False


def verify(spki: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is right."""
    try:
        key = load_der_public_key(spki)
        if not isinstance(key, Ed25519PublicKey):
            return False
        key.verify(signature, message)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm, InternalError):
        return False
    return True


def make_root(admin: Ed25519PrivateKey, mesh_name: str) -> bytes:
    """A self-signed authority for an admin key, DER. Its dates span a century: what ends trust is a statement.

    It follows from key and name, serial number included, so that all who vote for a key mean one certificate.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"meshnode {mesh_name}"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(admin.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(public_der(admin)).digest()[:16]) >> 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(admin.public_key()), critical=False)
        .sign(admin, None)
    )
    return certificate.public_bytes(Encoding.DER)


def is_root(root: bytes, spki: bytes) -> bool:
    """Whether this is a certificate, DER, that the key made for itself."""
    try:
        certificate = x509.load_der_x509_certificate(root)
        public = certificate.public_key()
        return isinstance(public, Ed25519PublicKey) and public_der(public) == spki and _signed_by(certificate, root)
    except _UNREADABLE:
        return False


def issue_leaf(
    admin: Ed25519PrivateKey, root: bytes, spki: bytes, mesh_id: str, *, now: datetime, life_s: float = GRANT_S
) -> bytes:
    """A node's certificate, DER, valid from an hour ago for `life_s` from now."""
    public = load_der_public_key(spki)
    assert isinstance(public, Ed25519PublicKey)
    issuer = x509.load_der_x509_certificate(root)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(seconds=life_s))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_name(mesh_id, node_id(spki)))]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(admin.public_key()), critical=False)
        .sign(admin, None)
    )
    return certificate.public_bytes(Encoding.DER)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(mesh_id: str, node: NodeId) -> str:
    return f"meshnode://{mesh_id}/{node}"


def make_context(*, server: bool, key: Ed25519PrivateKey, leaf: bytes, roots: Collection[bytes]) -> ssl.SSLContext:
    """A TLS context between agents: 1.3 only, both sides show a certificate signed by one of `roots`."""
    context = base_context(server=server, key=key, leaf=leaf)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    for root in roots:
        try:
            context.load_verify_locations(cadata=_pem(root))
        except ssl.SSLError:  # one admin can sign anything, and must not be able to end all links with it
            log.warning("a root certificate of %d bytes in this mesh's statements cannot be read: left out", len(root))
    return context


def base_context(*, server: bool, key: Ed25519PrivateKey | None = None, leaf: bytes | None = None) -> ssl.SSLContext:
    """TLS 1.3 with our protocol name and, when given, our certificate; who the other side is remains to be checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # names are not identities: ids are checked by peer_identity
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    if server:
        context.num_tickets = 0  # a resumed session would skip the certificate
    if key is not None and leaf is not None:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + _pem(leaf).encode()
        with _as_file(pem) as path:
            context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path for what reads only files, as ssl reads keys: in memory where that can be, so that no disk sees it."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        fd = os.memfd_create("meshnode", os.MFD_CLOEXEC)
        try:
            os.write(fd, data)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.TemporaryDirectory() as folder:  # 0700
        path = os.path.join(folder, "pair.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        yield path


def _pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


def peer_identity(
    leaf: bytes | None,
    *,
    mesh_id: str,
    roots: Collection[bytes],
    expected: NodeId | None,
    revoked: Callable[[NodeId], PermissionDenied | None],
    now: datetime,
) -> NodeId:
    """The node that a TLS peer is, from its DER certificate.

    Raises PermissionDenied with the reason: its name does not follow from its key, another mesh, another node than the
    one that was dialled, not signed by a live admin, revoked (`revoked` gives the refusal), or far out of its dates.
    """
    if leaf is None:
        raise PermissionDenied("the peer showed no certificate")
    node = leaf_id(leaf)
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except _UNREADABLE as error:
        raise PermissionDenied("the peer's certificate is not one of a meshnode") from error
    if uris != [_name(mesh_id, node)]:
        raise PermissionDenied(f"the peer's certificate names {uris}, its key is node {node[:8]} of mesh {mesh_id[:8]}")
    if expected is not None and node != expected:
        raise PermissionDenied(f"dialled node {expected[:8]}, and node {node[:8]} answered")
    if not any(_signed_by(certificate, root) for root in roots):
        raise PermissionDenied(f"the certificate of node {node[:8]} is not signed by an admin of this mesh")
    if (refusal := revoked(node)) is not None:
        raise refusal
    _check_dates(certificate, node, now)
    return node


def leaf_id(leaf: bytes) -> NodeId:
    """The node id that follows from the key of a DER certificate, whoever signed it. Raises PermissionDenied."""
    try:
        public = x509.load_der_x509_certificate(leaf).public_key()
    except _UNREADABLE as error:
        raise PermissionDenied("the peer's certificate cannot be read") from error
    if not isinstance(public, Ed25519PublicKey):
        raise PermissionDenied("the peer's key is not an Ed25519 key")
    return node_id(public_der(public))


def term_of(leaf: bytes) -> Term:
    """From when until when a DER certificate was made for."""
    certificate = x509.load_der_x509_certificate(leaf)
    begins = certificate.not_valid_before_utc + BACKDATED
    return Term(begins.timestamp(), certificate.not_valid_after_utc.timestamp())


def signed_by_any(leaf: bytes, roots: Iterable[bytes]) -> bool:
    """Whether one of the roots signed the certificate; all DER."""
    certificate = x509.load_der_x509_certificate(leaf)
    return any(_signed_by(certificate, root) for root in roots)


def _signed_by(certificate: x509.Certificate, root: bytes) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(root))
    except (*_UNREADABLE, TypeError, InvalidSignature):
        return False
    return True


def _check_dates(certificate: x509.Certificate, node: NodeId, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begins - EARLY <= now <= ends + LATE:
        if not begins <= now <= ends:
            log.warning("the certificate of node %s is valid %s to %s; our clock says %s", node[:8], begins, ends, now)
        return
    raise PermissionDenied(
        f"the certificate of node {node[:8]} is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, "
        f"and this machine's clock says {now:%Y-%m-%d %H:%M}",
        hint="set the clock of the machine that is wrong; one that was away for so long needs a new token",
    )

"""The certificate that the HTTP and gRPC doors show to other machines when their owner brings none.

Browsers and gRPC know no Ed25519, of which the mesh's own certificates are: this one has a P-256 key. It is signed by
itself; who wants to be sure takes the file `http.crt` along, as in `curl --cacert`.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshnode.trust.files import write_atomic

CHAIN, KEY = "http.crt", "http.key"
YEARS = 10


def ensure(home: Path) -> tuple[Path, Path]:
    """The files of the certificate and of its key, made when they are not there. Raises HomeError."""
    chain, key = home / CHAIN, home / KEY
    if not (chain.exists() and key.exists()):
        secret = ec.generate_private_key(ec.SECP256R1())
        write_atomic(
            key,
            secret.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        write_atomic(chain, _signed(secret).public_bytes(serialization.Encoding.PEM), mode=0o644)
    return chain, key


def _signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    host = socket.gethostname()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"meshnode on {host}"[:64])])
    names: list[x509.GeneralName] = [x509.DNSName(it) for it in dict.fromkeys((host, f"{host}.local", "localhost"))]
    names += [x509.IPAddress(it) for it in _addresses()]
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _addresses() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    texts = {it.address.partition("%")[0] for rows in psutil.net_if_addrs().values() for it in rows}
    found = set()
    for text in texts:
        try:
            found.add(ipaddress.ip_address(text))
        except ValueError:
            continue  # the address of a network card
    return sorted(found, key=str)

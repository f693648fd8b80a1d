"""What the files of a home say about trust, read back: the key, statements and certificate, and the count of starts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import HomeError, MeshError
from meshnode.trust import identity
from meshnode.trust.files import move_aside, read_checked, sync_folder, write_atomic, write_checked
from meshnode.trust.statements import StatementSet

NEXT_KEY = "node.key.next"
"""The key that takes the place of this node's once `trust` holds a certificate for it."""
UNJOINED = "unjoined"
"""Lies beside a key that has been in no mesh yet. Where it does not, and neither does `trust`, that was lost."""
EPOCH = 1_577_836_800
"""2020-01-01 UTC; the first boot of a home is counted from here in seconds."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a join brings: the node's certificate and everything the mesh knows about trust.

    `mesh_prefix` is the beginning of the mesh id (hex) that the token pinned.
    """

    leaf: bytes
    statements: tuple[bytes, ...]
    mesh_prefix: str


def empty(mesh_id: str | None = None) -> StatementSet:
    """A set that knows nothing, or only which mesh it is of."""
    return StatementSet(identity.verify, identity.node_id, mesh_id)


def node_key(home: Path) -> Ed25519PrivateKey:
    """The key of a home; a new one where there never was one. Raises HomeError."""
    if not (home / "node.key").exists() and (home / "trust").exists():
        raise HomeError(
            f"the key {home / 'node.key'} is missing, and the certificate in {home / 'trust'} is for it",
            hint="restore it from a backup, or move the home away and join again with a new token",
        )
    if not (home / "node.key").exists():
        mark_unjoined(home)  # before there is a key: a first start that is interrupted is another first start
    return identity.load_or_create_key(home / "node.key")


def mark_unjoined(home: Path) -> None:
    """The key here is in no mesh, or will be in none in a moment. Raises HomeError."""
    write_atomic(home / UNJOINED, b"")


def is_lost(home: Path) -> bool:
    """Whether the key was in a mesh, and `trust` is not there any more."""
    return not (home / "trust").exists() and not (home / UNJOINED).exists()


def check_not_lost(home: Path) -> None:
    """Raises HomeError when it is: another mesh must not take its place unnoticed."""
    if is_lost(home):
        raise HomeError(
            f"{home / 'trust'} is missing, and the key beside it has been in a mesh",
            hint="restore it from a backup; or join again with a new token, `meshnode up TOKEN`; "
            "or leave that mesh behind: `meshnode up --new-mesh` puts the old keys aside",
        )


def put_aside(home: Path, names: Iterable[str], why: str) -> None:
    """Rename what is there of these, in this order, and forget the addresses of peers. Raises HomeError."""
    for name in names:
        if (home / name).exists():
            move_aside(home / name, why)
    (home / "peers").unlink(missing_ok=True)


def read_trust(path: Path) -> tuple[StatementSet, bytes | None]:
    """The statements and the certificate that a home keeps. Raises HomeError; never forgets a mesh by itself."""
    held = empty()
    payload = read_checked(path, precious=True)
    if payload is None:
        return held, None
    try:
        stored = msgpack.unpackb(payload)
        leaf, statements = stored["leaf"], stored["statements"]
        _, refused = held.merge(statements)
        if refused:
            raise refused[0]
        if not isinstance(leaf, bytes):
            raise TypeError("it holds no certificate")
    except (ValueError, TypeError, KeyError, MeshError, msgpack.UnpackException) as error:
        raise HomeError(
            f"{path} does not hold together: {error}",
            hint="restore it from a backup, or move the home away and join again with a new token",
        ) from error
    return held, leaf


def settle_key(home: Path, leaf: bytes | None) -> None:
    """Put the next key in the node key's place when the certificate is for it, or throw it away. Raises HomeError."""
    after = home / NEXT_KEY
    if not after.exists():
        return
    node = identity.node_id(identity.public_der(identity.load_key(after)))
    if leaf is not None and identity.leaf_id(leaf) == node:
        os.replace(after, home / "node.key")
        sync_folder(home)
    else:
        after.unlink()


def next_boot(path: Path) -> int:
    """Count this start: a restart must be newer than everything said about the start before."""
    payload = read_checked(path)
    if payload is not None and not payload.isdigit():
        raise HomeError(f"{path} holds no number", hint="move the file away; the agent starts a new count")
    # A lost counter must not run backwards: seconds of real time are ahead of any count of starts.
    boot = max(1, int(time.time()) - EPOCH) if payload is None else int(payload) + 1
    write_checked(path, str(boot).encode())
    return boot

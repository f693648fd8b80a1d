"""What a home folder keeps about trust: keys, certificate, the statement set, and who may use the folder.

    node.key  admin.key  node.crt  trust  boot  agent.lock

Every change is on disk before it is acted upon. One agent holds the lock of a home at a time.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import HomeError, MeshError, PermissionDenied, ProtocolError
from meshnode.trust import identity, statements
from meshnode.trust.files import move_aside, read_checked, write_atomic, write_checked
from meshnode.trust.statements import Statement, StatementSet
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

GRANT_S = 365 * 86400
EPOCH = 1_577_836_800
"""2020-01-01 UTC; the first boot of a home is counted from here in seconds."""
ADMIN_ROLES = ("admin", "operator", "publisher", "submitter", "worker")


@dataclass(frozen=True, slots=True)
class Membership:
    """What a join brings: the node's certificate and everything the mesh knows about trust."""

    leaf: bytes
    statements: tuple[bytes, ...]


class Keeper:
    """The trust of one home. Use `Keeper.open`; end with `close`."""

    def __init__(self, home: Path, lock: int, key: Ed25519PrivateKey) -> None:
        self.home = home
        self.key = key
        self.spki = identity.public_der(key)
        self.id: NodeId = identity.node_id(self.spki)
        self.admin_key: Ed25519PrivateKey | None = None
        self.statements = self._empty()
        self.leaf: bytes | None = None
        self.boot = 0
        self._lock = lock

    @classmethod
    def open(cls, home: Path) -> Keeper:
        """Take the home's lock and read what it keeps. Raises HomeError."""
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            home.chmod(0o700)
        except OSError as error:
            raise HomeError(f"the home {home} cannot be used: {error.strerror}") from error
        lock = _take_lock(home / "agent.lock")
        try:
            keeper = cls(home, lock, identity.load_or_create_key(home / "node.key"))
            keeper._read()
        except BaseException:
            os.close(lock)
            raise
        return keeper

    def close(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- belonging ---

    @property
    def belongs(self) -> bool:
        """Whether this node is in a mesh."""
        return self.leaf is not None and len(self.statements) > 0

    def found(self, mesh_name: str, node_name: str) -> None:
        """Make a mesh of one: an admin key, a genesis, and this node's own grant and certificate."""
        self.admin_key = identity.load_or_create_key(self.home / "admin.key")
        admin = identity.public_der(self.admin_key)
        root = identity.make_root(self.admin_key, mesh_name)
        genesis = statements.make_statement(
            "genesis",
            statements.genesis_body(mesh_name, admin, root, secrets.token_bytes(32)),
            mesh="",
            issuer=admin,
            sign=self.admin_key.sign,
            issued_at=int(time.time()),
            nonce=secrets.token_bytes(16),
        )
        self.statements = self._empty()
        self.statements.add(genesis)
        self._grant(self.id, node_name, ADMIN_ROLES, ())
        self._save_leaf(self._issue(self.spki))
        self._save()

    def adopt(self, membership: Membership, mesh_prefix: str) -> None:
        """Enter another mesh with what its inviter sent. Raises PermissionDenied when it does not hold together."""
        adopted = self._empty()
        for data in membership.statements:
            adopted.add(data)
        if not adopted.mesh_id.startswith(mesh_prefix):
            raise PermissionDenied("the inviter answered for another mesh than the token's")
        if adopted.grant(self.id) is None:
            raise PermissionDenied("the inviter sent no valid grant for this node")
        identity.peer_identity(
            membership.leaf,
            mesh_id=adopted.mesh_id,
            roots=adopted.admins().values(),
            expected=self.id,
            revoked=lambda _: None,
            now=datetime.now(UTC),
        )
        self.statements = adopted
        if (self.home / "admin.key").exists():
            self._put_away("admin.key")  # the key of the mesh of one that is left behind
        self.admin_key = None
        self._save()
        self._save_leaf(membership.leaf)

    def leave(self) -> Statement:
        """Revoke this node and forget the mesh; the key is put away, for a revoked id cannot come back."""
        statement = self._state("revoke", statements.revoke_node_body(self.id, "left"), self.key, self.spki)
        for name in ("node.key", "admin.key", "node.crt", "trust"):
            if (self.home / name).exists():
                self._put_away(name)
        self.leaf = None
        return statement

    def admit(self, spki: bytes, name: str, roles: Iterable[str], zones: Iterable[str]) -> tuple[bytes, Statement]:
        """Make another node a member: its certificate and its grant. Raises PermissionDenied without the admin key."""
        statement = self._grant(identity.node_id(spki), name, roles, zones)
        self._save()
        return self._issue(spki), statement

    # --- saying ---

    def revoke(self, node: NodeId, reason: str) -> Statement:
        """Throw a node out, for good. Raises PermissionDenied without the admin key."""
        admin = self._admin("revoke a node")
        statement = self._state("revoke", statements.revoke_node_body(node, reason), admin, identity.public_der(admin))
        self._save()
        return statement

    def check_may_publish(self) -> None:
        """Raises PermissionDenied when this node may not add models."""
        grant = self.statements.grant(self.id, time.time())
        if grant is None or "publisher" not in grant.roles:
            raise PermissionDenied(
                "this node may not add models to the mesh", hint="its grant lacks the role `publisher`; ask an admin"
            )

    def check_may_invite(self) -> None:
        """Raises PermissionDenied without the admin key."""
        self._admin("invite a machine")

    def publish_model(self, manifest: Mapping[str, Any]) -> Statement:
        """Make a model known. Raises PermissionDenied, and ProtocolError when the manifest is too large."""
        self.check_may_publish()
        statement = self._state("model", manifest, self.key, self.spki)
        self._save()
        return statement

    def remove_model(self, statement_id: bytes) -> Statement:
        """Take a model back: its publisher may, and an admin. Raises PermissionDenied."""
        subject = self.statements.get(statement_id)
        body = statements.revoke_statement_body(statement_id)
        if subject is not None and subject.issuer == self.spki:
            statement = self._state("revoke", body, self.key, self.spki)
        else:
            admin = self._admin("remove a model that another node added")
            statement = self._state("revoke", body, admin, identity.public_der(admin))
        self._save()
        return statement

    def merge(self, data: Iterable[bytes]) -> list[Statement]:
        """Take in statements from a peer; those that were new. Bad ones are counted, logged and left out."""
        new = []
        for item in data:
            try:
                statement = self.statements.add(item)
            except MeshError as error:
                log.warning("a statement from a peer was refused: %s", error)
                continue
            if statement is not None:
                new.append(statement)
        if new:
            self._save()
        return new

    # --- being believed ---

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """TLS contexts between agents: (server, client). Raises PermissionDenied when this node is in no mesh."""
        leaf = self._leaf()
        roots = list(self.statements.admins().values())
        server = identity.make_context(server=True, key=self.key, leaf=leaf, roots=roots)
        client = identity.make_context(server=False, key=self.key, leaf=leaf, roots=roots)
        return server, client

    def join_context(self) -> ssl.SSLContext:
        """The TLS context of the join listener: shows this node's certificate, asks for none."""
        return identity.base_context(server=True, key=self.key, leaf=self._leaf())

    def check_peer(self, leaf: bytes | None, expected: NodeId | None) -> NodeId:
        """Who a TLS peer is, after the handshake. Raises PermissionDenied with the reason."""
        return identity.peer_identity(
            leaf,
            mesh_id=self.statements.mesh_id,
            roots=self.statements.admins().values(),
            expected=expected,
            revoked=self._revoked,
            now=datetime.now(UTC),
        )

    # --- inside ---

    def _revoked(self, node: NodeId) -> str | None:
        revocation = self.statements.revoked(node)
        return None if revocation is None else revocation.reason

    def _empty(self) -> StatementSet:
        return StatementSet(identity.verify, identity.node_id)

    def _leaf(self) -> bytes:
        if self.leaf is None:
            raise PermissionDenied("this node belongs to no mesh yet")
        return self.leaf

    def _admin(self, what: str) -> Ed25519PrivateKey:
        if self.admin_key is None:
            holders = [g for g in self.statements.members() if "admin" in g.roles]
            where = ", ".join(f"{g.name} ({g.node[:8]})" for g in holders) or "the founder"
            raise PermissionDenied(
                f"this node holds no admin key, and only an admin may {what}", hint=f"do it on {where}"
            )
        return self.admin_key

    def _grant(self, node: NodeId, name: str, roles: Iterable[str], zones: Iterable[str]) -> Statement:
        admin = self._admin("admit a node")
        body = statements.grant_body(node, name, roles, zones, int(time.time()) + GRANT_S)
        return self._state("grant", body, admin, identity.public_der(admin))

    def _issue(self, spki: bytes) -> bytes:
        admin = self._admin("admit a node")
        root = self.statements.admins()[identity.public_der(admin)]
        return identity.issue_leaf(admin, root, spki, self.statements.mesh_id, now=datetime.now(UTC))

    def _state(self, kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey, issuer: bytes) -> Statement:
        data = statements.make_statement(
            kind,
            body,
            mesh=self.statements.mesh_id,
            issuer=issuer,
            sign=key.sign,
            issued_at=int(time.time()),
            nonce=secrets.token_bytes(16),
        )
        statement = self.statements.add(data)
        assert statement is not None, "a fresh nonce makes a new statement"
        return statement

    def _read(self) -> None:
        self.boot = _next_boot(self.home / "boot")
        if (self.home / "admin.key").exists():
            self.admin_key = identity.load_key(self.home / "admin.key")
        payload = read_checked(self.home / "trust")
        if payload is not None:
            try:
                for data in msgpack.unpackb(payload):
                    self.statements.add(data)
            except (ValueError, TypeError, MeshError, msgpack.UnpackException) as error:
                log.warning("%s does not hold together (%s): moved aside", self.home / "trust", error)
                move_aside(self.home / "trust")
                self.statements = self._empty()
        if (self.home / "node.crt").exists():
            self.leaf = (self.home / "node.crt").read_bytes()
        if self.leaf is not None and len(self.statements) == 0:
            raise HomeError(
                f"{self.home / 'trust'} is lost or damaged, and this node cannot know who belongs to its mesh",
                hint="restore it from a backup, or move the home away and join again with a new token",
            )

    def _save(self) -> None:
        write_checked(self.home / "trust", msgpack.packb([data for _, data in self.statements.items()]))

    def _save_leaf(self, leaf: bytes) -> None:
        write_atomic(self.home / "node.crt", leaf)
        self.leaf = leaf

    def _put_away(self, name: str) -> None:
        (self.home / name).replace(self.home / f"{name}.left-{int(time.time())}")


def _take_lock(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeError(f"the home {path.parent} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise HomeError(
            f"an agent already runs on the home {path.parent} (process {holder})",
            hint="stop it first, or start this one with another --home and --listen",
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _next_boot(path: Path) -> int:
    """Count this start: a restart must be newer than everything said about the start before."""
    payload = read_checked(path)
    try:
        last = int(payload) if payload is not None else 0
    except ValueError as error:
        raise ProtocolError(f"{path} holds no number") from error
    # A lost counter must not run backwards: seconds of real time are ahead of any count of starts.
    boot = last + 1 if payload is not None else int(time.time()) - EPOCH
    write_checked(path, str(boot).encode())
    return boot

"""What a home folder keeps about trust: keys, certificate, the statement set, and who may use the folder.

    node.key  admin.key  trust  boot  agent.lock

`trust` holds this node's certificate and all statements in one file, so that entering a mesh is one rename: a crash
leaves the old mesh or the new one. What this node says itself is on disk before it holds; what peers say holds even
when the disk is full, for a revocation must. One agent has the lock of a home at a time.
"""

from __future__ import annotations

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

from meshnode.errors import HomeError, PermissionDenied, Revoked
from meshnode.trust import believing, form, identity
from meshnode.trust.files import move_aside, take_lock, write_checked
from meshnode.trust.grants import GRANT_S
from meshnode.trust.homefiles import empty, next_boot, node_key, read_trust
from meshnode.trust.statements import Statement, StatementSet
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

ADMIN_ROLES = ("admin", "operator", "publisher", "submitter", "worker")


KEPT = ("trust", "invites", "admin.key", "node.key")
"""What is put away when a node ends, in this order: without `trust` it is in no mesh, wherever it is interrupted."""
ANEW = "a new token makes this machine a new node: `meshnode up TOKEN`; a revoked key stays out for good"


@dataclass(frozen=True, slots=True)
class Membership:
    """What a join brings: the node's certificate and everything the mesh knows about trust.

    `mesh_prefix` is the beginning of the mesh id (hex) that the token pinned.
    """

    leaf: bytes
    statements: tuple[bytes, ...]
    mesh_prefix: str


@dataclass(frozen=True, slots=True)
class Peek:
    """What can be told about a home without its lock."""

    id: NodeId
    mesh_id: str | None
    mesh_name: str | None


class Keeper:
    """The trust of one home. Use `Keeper.open`; end with `close`."""

    def __init__(self, home: Path, lock: int, key: Ed25519PrivateKey) -> None:
        self.home = home
        self.key = key
        self.spki = identity.public_der(key)
        self.id: NodeId = identity.node_id(self.spki)
        self.admin_key: Ed25519PrivateKey | None = None
        self.statements = empty()
        self.leaf: bytes | None = None
        self.boot = 0
        self._lock = lock
        self._unsaved = False

    @classmethod
    def open(cls, home: Path) -> Keeper:
        """Take the home's lock and read what it keeps. Raises HomeError."""
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            home.chmod(0o700)
        except OSError as error:
            raise HomeError(f"the home {home} cannot be used: {error.strerror}") from error
        lock = take_lock(home / "agent.lock")
        try:
            keeper = cls(home, lock, node_key(home))
            keeper._read()
        except BaseException:
            os.close(lock)
            raise
        return keeper

    @staticmethod
    def peek(home: Path) -> Peek | None:
        """What a home says about itself, beside a running agent too; None when no agent ever ran on it.

        Raises HomeError when it is damaged. Changes nothing.
        """
        if not (home / "node.key").exists():
            return None
        node = identity.node_id(identity.public_der(identity.load_key(home / "node.key")))
        held, leaf = read_trust(home / "trust")
        if leaf is None:
            return Peek(node, None, None)
        return Peek(node, held.mesh_id, held.mesh_name)

    def close(self) -> None:
        """Give the lock back; what a full disk refused before is written, if it can be now."""
        if self._unsaved:
            try:
                self._save()
            except HomeError as error:
                log.error("statements that came from peers are not on disk: %s", error)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- belonging ---

    @property
    def belongs(self) -> bool:
        """Whether this node is in a mesh."""
        return self.leaf is not None and len(self.statements) > 0

    def found(self, mesh_name: str, node_name: str, zone: str = "") -> None:
        """Make a mesh of one: an admin key, a genesis, and this node's own grant and certificate. Raises HomeError."""
        admin = identity.load_or_create_key(self.home / "admin.key")
        spki = identity.public_der(admin)
        root = identity.make_root(admin, mesh_name)
        founded = empty()
        genesis = self._sign(
            "genesis", form.genesis_body(mesh_name, spki, root, secrets.token_bytes(32)), admin, spki, mesh=""
        )
        founded.add(genesis)
        body = form.grant_body(self.id, node_name, ADMIN_ROLES, filter(None, (zone,)), int(time.time()) + GRANT_S)
        founded.add(self._sign("grant", body, admin, spki, mesh=founded.mesh_id))
        leaf = identity.issue_leaf(admin, root, self.spki, founded.mesh_id, now=datetime.now(UTC))
        self._save(founded, leaf)
        self.admin_key, self.statements, self.leaf = admin, founded, leaf

    @property
    def out(self) -> Revoked | None:
        """That this node itself was revoked, and what can be done."""
        return self.refusal(self.id)

    @property
    def quarantine(self) -> str:
        """Why this node may neither run nor submit anything until an admin accepts it; or nothing."""
        grant = self.statements.grant(self.id)
        return "" if grant is None else grant.quarantine

    def adopt(self, membership: Membership, key: Ed25519PrivateKey | None = None) -> None:
        """Enter another mesh with what its inviter sent; with a new key, which replaces a revoked one, when given.

        Raises PermissionDenied when what came does not hold together (then nothing has changed), and HomeError.
        """
        adopted = empty()
        _, refused = adopted.merge(membership.statements)
        if refused:
            raise PermissionDenied(f"the inviter sent a statement that does not hold: {refused[0]}") from refused[0]
        if not adopted.mesh_id.startswith(membership.mesh_prefix):
            raise PermissionDenied("the inviter answered for another mesh than the token's")
        node = self.id if key is None else identity.node_id(identity.public_der(key))
        if adopted.grant(node) is None:
            raise PermissionDenied("the inviter sent no valid grant for this node")
        believing.check_peer(adopted, membership.leaf, node, lambda _: None, datetime.now(UTC))
        if key is not None:
            self._put_away("revoked")
            self.key = identity.write_key(self.home / "node.key", key)
            self.spki, self.id = identity.public_der(key), node
        self._save(adopted, membership.leaf)
        self.statements, self.leaf, self.admin_key = adopted, membership.leaf, None
        for name in ("invites", "admin.key"):  # of the mesh of one that is left behind
            if (self.home / name).exists():
                move_aside(self.home / name, "left")
        (self.home / "peers").unlink(missing_ok=True)

    def raise_boot(self, boot: int) -> None:
        """Count this start as a later one, because a later one was heard of. Raises HomeError."""
        write_checked(self.home / "boot", str(boot).encode())
        self.boot = boot

    def leave(self) -> Statement:
        """Revoke this node and forget the mesh; the key is put away, for a revoked id cannot come back.

        Returns the revocation, which the caller spreads. Raises HomeError.
        """
        statement = self.state("revoke", form.revoke_node_body(self.id, "left"), self.key, self.spki, save=False)
        self._put_away("left")
        return statement

    def admit(self, spki: bytes, name: str, roles: Iterable[str], zones: Iterable[str]) -> tuple[bytes, Statement]:
        """Make another node a member: its certificate and its grant.

        Raises PermissionDenied without the admin key, ProtocolError for a name or zones out of bounds, HomeError.
        """
        admin = self.admin("admit a node")
        key = identity.public_der(admin)
        leaf = identity.issue_leaf(
            admin, self.statements.admins()[key], spki, self.statements.mesh_id, now=datetime.now(UTC)
        )
        body = form.grant_body(identity.node_id(spki), name, roles, zones, int(time.time()) + GRANT_S)
        return leaf, self.state("grant", body, admin, key)

    # --- saying ---

    def say(self, kind: str, body: Mapping[str, Any], *, admin: str = "") -> Statement:
        """As this node, or as an admin who may do `admin`. Raises PermissionDenied, ProtocolError, HomeError."""
        key = self.admin(admin) if admin else self.key
        return self.state(kind, body, key, identity.public_der(key))

    def revoke(self, node: NodeId, reason: str) -> Statement:
        """Throw a node out, for good. Raises PermissionDenied without the admin key."""
        return self.say("revoke", form.revoke_node_body(node, reason[:256]), admin="revoke a node")

    def check_may_publish(self) -> None:
        """Raises PermissionDenied when this node may not add models."""
        grant = self.statements.grant(self.id, time.time())
        if grant is None or "publisher" not in grant.roles:
            raise PermissionDenied(
                "this node may not add models to the mesh", hint="its grant lacks the role `publisher`; ask an admin"
            )

    def check_may_invite(self) -> None:
        """Raises PermissionDenied without the admin key."""
        self.admin("invite a machine")

    def publish_model(self, manifest: Mapping[str, Any]) -> Statement:
        """Make a model known. Raises PermissionDenied, and ProtocolError when the manifest is too large."""
        self.check_may_publish()
        return self.say("model", manifest)

    def remove_model(self, statement_id: bytes) -> Statement:
        """Take a model back: its publisher may, and an admin. Raises PermissionDenied."""
        subject = self.statements.get(statement_id)
        own = subject is not None and subject.issuer == self.spki
        body = form.revoke_statement_body(statement_id)
        return self.say("revoke", body, admin="" if own else "remove a model that another node added")

    def merge(self, data: Iterable[bytes]) -> list[Statement]:
        """Take in statements from a peer; those that were new. Bad ones are logged and left out. Never raises."""
        new, refused = self.statements.merge(data)
        for error in refused:
            log.warning("a statement from a peer was refused: %s", error)
        if (new or self._unsaved) and self.belongs:  # a mesh that was left is not written down again
            try:
                self._save()
            except HomeError as error:
                self._unsaved = True
                log.error("statements from a peer hold but are not on disk yet: %s", error)
        return new

    # --- being believed ---

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """TLS contexts between agents: (server, client). Raises PermissionDenied when this node is in no mesh."""
        leaf = self._leaf()
        roots = believing.roots(self.statements)
        server = identity.make_context(server=True, key=self.key, leaf=leaf, roots=roots)
        client = identity.make_context(server=False, key=self.key, leaf=leaf, roots=roots)
        return server, client

    def join_context(self) -> ssl.SSLContext:
        """The TLS context of the join listener: shows this node's certificate, asks for none."""
        return identity.base_context(server=True, key=self.key, leaf=self._leaf())

    def check_peer(self, leaf: bytes | None, expected: NodeId | None) -> NodeId:
        """Who a TLS peer is, after the handshake. Raises PermissionDenied with the reason."""
        return believing.check_peer(self.statements, leaf, expected, self.refusal, datetime.now(UTC))

    def refusal(self, node: NodeId) -> Revoked | None:
        """Why a node is out, with the proof that it is given when it comes."""
        revocation = self.statements.revoked(node)
        if revocation is None:
            return None
        who, hint = (f"node {node[:8]}", "") if node != self.id else ("this node", ANEW)
        error = Revoked(f"{who} was revoked: {revocation.reason or 'no reason given'}", hint=hint)
        statement = self.statements.get(revocation.statement)
        error.statement = statement.data if statement is not None else b""
        return error

    # --- inside ---

    def _put_away(self, why: str) -> None:
        for name in KEPT:
            if (self.home / name).exists():
                move_aside(self.home / name, why)
        (self.home / "peers").unlink(missing_ok=True)
        self.leaf = None
        self._unsaved = False

    def _leaf(self) -> bytes:
        if self.leaf is None:
            raise PermissionDenied("this node belongs to no mesh yet")
        return self.leaf

    def admin(self, what: str) -> Ed25519PrivateKey:
        """The admin key, for `what`. Raises PermissionDenied when this node has none that is live."""
        if self.admin_key is None or identity.public_der(self.admin_key) not in self.statements.admins():
            holders = [g for g in self.statements.members() if "admin" in g.roles]
            where = ", ".join(f"{g.name} ({g.node[:8]})" for g in holders) or "the founder"
            raise PermissionDenied(
                f"this node holds no live admin key, and only an admin may {what}", hint=f"do it on {where}"
            )
        return self.admin_key

    def _sign(self, kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey, issuer: bytes, *, mesh: str) -> bytes:
        return form.make_statement(
            kind,
            body,
            mesh=mesh,
            issuer=issuer,
            sign=key.sign,
            issued_at=int(time.time()),
            nonce=secrets.token_bytes(form.NONCE_BYTES),
        )

    def state(
        self, kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey, issuer: bytes, *, save: bool = True
    ) -> Statement:
        """Say something: on disk first, then it holds."""
        data = self._sign(kind, body, key, issuer, mesh=self.statements.mesh_id)
        if save:
            self._save(also=data)
        statement = self.statements.add(data)
        assert statement is not None, "a fresh nonce makes a new statement"
        return statement

    def _read(self) -> None:
        self.boot = next_boot(self.home / "boot")
        self.statements, self.leaf = read_trust(self.home / "trust")
        if self.leaf is not None and identity.leaf_id(self.leaf) != self.id:
            raise HomeError(
                f"the certificate in {self.home / 'trust'} is not for the key in {self.home / 'node.key'}",
                hint="restore both from one backup, or move the home away and join again with a new token",
            )
        if (self.home / "admin.key").exists():
            key = identity.load_key(self.home / "admin.key")
            if identity.public_der(key) in self.statements.admins():
                self.admin_key = key
            else:  # one that was removed, or one that a turned bit has made another
                log.warning("%s is the key of no admin of this mesh, and is not used", self.home / "admin.key")

    def _save(self, held: StatementSet | None = None, leaf: bytes | None = None, also: bytes | None = None) -> None:
        statements = [data for _, data in (held or self.statements).items()]
        if also is not None:
            statements.append(also)
        write_checked(self.home / "trust", msgpack.packb({"leaf": leaf or self.leaf, "statements": statements}))
        self._unsaved = False

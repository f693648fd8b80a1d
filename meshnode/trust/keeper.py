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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.errors import HomeError, PermissionDenied, Revoked
from meshnode.trust import adminkey, believing, form, homefiles, identity
from meshnode.trust.adminkey import Holding
from meshnode.trust.files import take_lock, write_checked
from meshnode.trust.grants import GRANT_S
from meshnode.trust.homefiles import Membership, empty
from meshnode.trust.statements import Statement, StatementSet
from meshnode.wire.messages import NodeId

log = logging.getLogger(__name__)

__all__ = ["Keeper", "Membership"]

ADMIN_ROLES = ("admin", "publisher", "submitter", "worker")


KEPT = ("trust", "invites", "admin.key", "node.key")
"""What is put away when a node ends, in this order: without `trust` it is in no mesh, wherever it is interrupted."""
ANEW = "a new token makes this machine a new node: `meshnode up TOKEN`; a revoked key stays out for good"


class Keeper:
    """The trust of one home. Use `Keeper.open`; end with `close`."""

    def __init__(self, home: Path, lock: int, key: Ed25519PrivateKey) -> None:
        self.home = home
        self.key = key
        self.spki = identity.public_der(key)
        self.id: NodeId = identity.node_id(self.spki)
        self.holding: Holding | None = None
        self.life_s: float = GRANT_S
        """So long are the certificates and grants that this node gives as an admin."""
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
            homefiles.settle_key(home, homefiles.read_trust(home / "trust")[1])
            keeper = cls(home, lock, homefiles.node_key(home))
            keeper._read()
        except BaseException:
            os.close(lock)
            raise
        return keeper

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

    def found(
        self,
        mesh_name: str,
        node_name: str,
        zone: str = "",
        *,
        others: Sequence[Ed25519PrivateKey] = (),
        quorum: int = 1,
    ) -> None:
        """Make a mesh of one: an admin key, a genesis, and this node's own grant and certificate. Raises HomeError.

        `others` are admin keys that are kept elsewhere; `quorum` of all must agree about who is admin. Never in the
        place of a mesh whose `trust` was lost: see `begin_anew`.
        """
        homefiles.check_not_lost(self.home)
        admin = identity.load_or_create_key(self.home / adminkey.NAME)
        spki = identity.public_der(admin)
        first = [(identity.public_der(key), identity.make_root(key, mesh_name)) for key in (admin, *others)]
        founded = empty()
        body = form.genesis_body(mesh_name, first, secrets.token_bytes(32), quorum)
        founded.add(self._sign("genesis", body, admin, spki, mesh=""))
        ends = int(time.time() + self.life_s)
        body = form.grant_body(self.id, node_name, ADMIN_ROLES, filter(None, (zone,)), ends)
        founded.add(self._sign("grant", body, admin, spki, mesh=founded.mesh_id))
        leaf = identity.issue_leaf(
            admin, first[0][1], self.spki, founded.mesh_id, now=datetime.now(UTC), life_s=self.life_s
        )
        self._save(founded, leaf)
        self.holding, self.statements, self.leaf = adminkey.plain(admin), founded, leaf

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
        still = self.holding is not None and self.holding.spki in adopted.admins()  # its `trust` was lost
        self.statements, self.leaf, self.holding = adopted, membership.leaf, self.holding if still else None
        # Of the mesh of one that is left behind:
        homefiles.put_aside(self.home, ("invites", *(() if still else (adminkey.NAME,))), "left")

    def begin_anew(self) -> None:
        """Put aside what is left of a mesh whose `trust` was lost, and be a new node in none. Raises HomeError."""
        assert not self.belongs, "who is in a mesh leaves it"
        self._put_away("lost")
        self.key = homefiles.node_key(self.home)
        self.spki = identity.public_der(self.key)
        self.id, self.holding = identity.node_id(self.spki), None

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
        """Make another node a member: certificate and grant. Raises PermissionDenied, ProtocolError, HomeError."""
        leaf = self.issue(spki, "admit a node")
        body = form.grant_body(identity.node_id(spki), name, roles, zones, int(time.time() + self.life_s))
        return leaf, self.say("grant", body, admin="admit a node")

    def issue(self, spki: bytes, what: str, *, until: float = float("inf")) -> bytes:
        """A certificate for a node. Raises PermissionDenied without the admin key."""
        admin = self.admin(what)
        root = self.statements.admins()[identity.public_der(admin)]
        life_s = min(self.life_s, max(0.0, until - time.time()))
        return identity.issue_leaf(admin, root, spki, self.statements.mesh_id, now=datetime.now(UTC), life_s=life_s)

    def renew(self, leaf: bytes) -> None:
        """Show this certificate from now on. Raises PermissionDenied when it is not this node's, HomeError."""
        believing.check_peer(self.statements, leaf, self.id, self.refusal, datetime.now(UTC))
        self._save(leaf=leaf)
        self.leaf = leaf

    def become(self, key: Ed25519PrivateKey, leaf: bytes, statements: Iterable[bytes]) -> None:
        """Be another node in the same mesh, with the key, certificate and statements that make it one.

        Raises PermissionDenied when they do not (then nothing has changed), and HomeError.
        """
        held = empty()
        held.merge([*(data for _, data in self.statements.items()), *statements])
        node = identity.node_id(identity.public_der(key))
        if held.grant(node) is None:
            raise PermissionDenied("the admin sent no grant for the new key")
        believing.check_peer(held, leaf, node, lambda _: None, datetime.now(UTC))
        identity.write_key(self.home / homefiles.NEXT_KEY, key)
        self._save(held, leaf)  # from here on the new key is this node's; `open` finishes what is interrupted
        homefiles.settle_key(self.home, leaf)
        self.key, self.spki, self.id = key, identity.public_der(key), node
        self.statements, self.leaf = held, leaf

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
        with suppress(HomeError):  # a full disk keeps nobody in a mesh
            homefiles.mark_unjoined(self.home)
        homefiles.put_aside(self.home, KEPT, why)
        self.leaf = None
        self._unsaved = False

    def _leaf(self) -> bytes:
        if self.leaf is None:
            raise PermissionDenied("this node belongs to no mesh yet")
        return self.leaf

    @property
    def is_admin(self) -> bool:
        """Whether the key of a live admin is here, if only sealed."""
        return self.holding is not None and self.holding.spki in self.statements.admins()

    @property
    def admin_key(self) -> Ed25519PrivateKey | None:
        """The key of a live admin, when it is here and open."""
        return self.holding.key if self.holding is not None and self.is_admin else None

    def admin(self, what: str) -> Ed25519PrivateKey:
        """The admin key, for `what`. Raises PermissionDenied when this node has none that is live and open."""
        if self.is_admin and self.admin_key is None:
            raise PermissionDenied(
                f"the admin key is sealed, and only an admin may {what}", hint="`meshnode admin unlock` opens it"
            )
        if self.admin_key is None:
            members = self.statements.members()
            holders = [g for g in members if "admin" in g.roles and not self.statements.revoked(g.node)]
            where = ", ".join(f"{g.name} ({g.node[:8]})" for g in holders) or "the founder"
            raise PermissionDenied(
                f"this node holds no live admin key, and only an admin may {what}", hint=f"do it on {where}"
            )
        return self.admin_key

    def _sign(
        self, kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey, issuer: bytes, *, mesh: str, at: int = 0
    ) -> bytes:
        return form.make_statement(
            kind,
            body,
            mesh=mesh,
            issuer=issuer,
            sign=key.sign,
            issued_at=max(int(time.time()), at),
            nonce=secrets.token_bytes(form.NONCE_BYTES),
        )

    def state(
        self, kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey, issuer: bytes, *, save: bool = True
    ) -> Statement:
        """Say something: on disk first, then it holds."""
        if save:
            return self.state_all([(kind, body, key)])[0]
        statement = self.statements.add(self._sign(kind, body, key, issuer, mesh=self.statements.mesh_id))
        assert statement is not None, "a fresh nonce makes a new statement"
        return statement

    def sign(self, kind: str, body: Mapping[str, Any], key: Ed25519PrivateKey, *, at: int = 0) -> bytes:
        """A statement of this mesh that is not said yet; of now, or of the time `at` which is later."""
        return self._sign(kind, body, key, identity.public_der(key), mesh=self.statements.mesh_id, at=at)

    def state_all(self, said: Iterable[tuple[str, Mapping[str, Any], Ed25519PrivateKey]]) -> list[Statement]:
        """Say several things, all of them or none."""
        return self.take([self.sign(kind, body, key) for kind, body, key in said])

    def take(self, signed: Sequence[bytes]) -> list[Statement]:
        """Statements of this node's own that belong together: on disk first, then they hold. Raises HomeError."""
        self._save(also=signed)
        return self.statements.merge(signed)[0]

    def open_admin(self, key: Ed25519PrivateKey) -> None:
        """The sealed key that this node holds is this one."""
        assert self.holding is not None
        self.holding = replace(self.holding, key=key)

    def _read(self) -> None:
        self.boot = homefiles.next_boot(self.home / "boot")
        self.statements, self.leaf = homefiles.read_trust(self.home / "trust")
        if self.leaf is not None:
            (self.home / homefiles.UNJOINED).unlink(missing_ok=True)  # the start that joined was interrupted
        if self.leaf is not None and identity.leaf_id(self.leaf) != self.id:
            raise HomeError(
                f"the certificate in {self.home / 'trust'} is not for the key in {self.home / 'node.key'}",
                hint="restore both from one backup, or move the home away and join again with a new token",
            )
        self.holding = adminkey.settle(self.home, set(self.statements.admins()))

    def _save(self, held: StatementSet | None = None, leaf: bytes | None = None, also: Iterable[bytes] = ()) -> None:
        statements = [*(data for _, data in (held or self.statements).items()), *also]
        write_checked(self.home / "trust", msgpack.packb({"leaf": leaf or self.leaf, "statements": statements}))
        (self.home / homefiles.UNJOINED).unlink(missing_ok=True)
        self._unsaved = False

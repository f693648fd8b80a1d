"""The people of the trust tests: keys that are the same in every run, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.trust import admins, form, identity
from meshnode.trust.statements import StatementSet
from meshnode.wire.messages import NodeId

NOW = 1_800_000_000


@dataclass
class Person:
    """A key, with what follows from it."""

    seed: int
    said: int = field(default=0, init=False)

    @cached_property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes([self.seed]) * 32)

    @cached_property
    def spki(self) -> bytes:
        return identity.public_der(self.key)

    @cached_property
    def id(self) -> NodeId:
        return identity.node_id(self.spki)

    @cached_property
    def root(self) -> bytes:
        return identity.make_root(self.key, f"person {self.seed}")

    def says(self, kind: str, body: Mapping[str, Any], *, mesh: str, at: int = NOW) -> bytes:
        """A statement; each call draws the next nonce."""
        self.said += 1
        nonce = bytes([self.seed]) * 8 + self.said.to_bytes(8, "big")
        return form.make_statement(
            kind, body, mesh=mesh, issuer=self.spki, sign=self.key.sign, issued_at=at, nonce=nonce
        )


@dataclass
class Town:
    """A mesh with one admin, or with others and a quorum, as bytes to be told to sets."""

    admin: Person = field(default_factory=lambda: Person(1))
    others: tuple[Person, ...] = ()
    quorum: int = 1

    @cached_property
    def genesis(self) -> bytes:
        first = [(it.spki, it.root) for it in (self.admin, *self.others)]
        body = form.genesis_body("town", first, bytes(32), self.quorum)
        return self.admin.says("genesis", body, mesh="")

    @cached_property
    def mesh(self) -> str:
        return form.parse(self.genesis).id.hex()

    def grants(self, node: Person, *, by: Person | None = None, roles: tuple[str, ...] = (), at: int = NOW) -> bytes:
        body = form.grant_body(node.id, f"n{node.seed}", roles or form.DEFAULT_ROLES, ["ward-3"], NOW + 1000)
        return (by or self.admin).says("grant", body, mesh=self.mesh, at=at)

    def revokes(self, node: Person, *, by: Person | None = None, reason: str = "lost", at: int = NOW) -> bytes:
        return (by or self.admin).says("revoke", form.revoke_node_body(node.id, reason), mesh=self.mesh, at=at)

    def takes_back(self, statement: bytes, *, by: Person | None = None) -> bytes:
        body = form.revoke_statement_body(form.parse(statement).id)
        return (by or self.admin).says("revoke", body, mesh=self.mesh)

    def publishes(self, by: Person, name: str = "digits") -> bytes:
        return by.says("model", {"name": name}, mesh=self.mesh)

    def reports(self, by: Person, digest: str, reason: str = "signal 8 (SIGFPE)") -> bytes:
        return by.says("flag", form.flag_body(digest, reason), mesh=self.mesh)

    def adds(self, admin: Person, *, by: Person | None = None, at: int = NOW) -> bytes:
        body = admins.add_body(admin.spki, admin.root, admin.id)
        return (by or self.admin).says("admin_add", body, mesh=self.mesh, at=at)

    def removes(
        self, admin: Person, *, by: Person | None = None, at: int = NOW, keeping: Sequence[bytes] | None = None
    ) -> bytes:
        """A vote that says what is kept, or in the form of versions that could not say it."""
        body: dict[str, Any] = {"key": admin.spki}
        if keeping is not None:
            (body,) = admins.remove_bodies(admin.spki, [form.parse(data) for data in keeping])
        return (by or self.admin).says("admin_remove", body, mesh=self.mesh, at=at)

    def set(self, *statements: bytes) -> StatementSet:
        held = empty()
        held.merge([self.genesis, *statements])
        return held


def empty() -> StatementSet:
    """A set that knows nothing."""
    return StatementSet(identity.verify, identity.node_id)

"""Who belongs to the mesh: a grow-only set of signed statements, in which revocation wins.

The set is the same whatever order statements arrive in: it keeps every well-formed statement of this mesh whose
signatures verify, and what holds (who is admin, who is a member, which models exist) is derived from the whole set.
Two nodes with the same set have the same `root_hash`. There is no chain to fork and no quorum to lose.

A statement is a canonical MessagePack map `{body, issued_at, issuer, kind, mesh, nonce, sigs, v}` (keys sorted, no
floats); its id is the SHA-256 of these bytes, and each entry of `sigs` is `[public key DER, signature]` over a domain
tag and the map without `sigs`. Which signatures count is decided by what holds: those of admins, of publishers for
models, of the node itself when it leaves.

No clock: `issued_at` is told for people to read and to order grants, and expiry is asked with a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from meshnode.errors import PermissionDenied, ProtocolError
from meshnode.wire.messages import NodeId

DOMAIN = b"meshnode/statement/1\0"
VERSION = 1
STATEMENT_BYTES_MAX = 40 * 1024
BODY_BYTES_MAX = {"model": 32 * 1024}
BODY_BYTES_DEFAULT = 4 * 1024
STATEMENTS_MAX = 50_000
KINDS = frozenset(
    {"genesis", "admin_add", "admin_remove", "grant", "revoke", "publisher", "policy", "model", "blueprint"}
)
ROLES = frozenset({"worker", "submitter", "publisher", "operator", "admin"})
DEFAULT_ROLES = ("publisher", "submitter", "worker")

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key DER, message, signature) -> is it right?"""
Sign = Callable[[bytes], bytes]
IdOf = Callable[[bytes], NodeId]
"""(public key DER) -> node id"""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement as its issuer signed it."""

    id: bytes
    data: bytes
    kind: str
    mesh: str
    body: Mapping[str, Any]
    issuer: bytes
    """The issuer's public key, DER."""
    issued_at: int
    signers: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Grant:
    """A node is a member until `expires_at` (UTC seconds)."""

    node: NodeId
    name: str
    roles: frozenset[str]
    zones: tuple[str, ...]
    granted_by: NodeId
    granted_at: int
    expires_at: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class Revocation:
    """A node is out for good."""

    reason: str
    by: NodeId
    at: int


@dataclass(slots=True)
class _Held:
    """What follows from the set; computed when it is first asked for after a change."""

    admins: dict[bytes, bytes] = field(default_factory=dict)
    grants: dict[NodeId, Grant] = field(default_factory=dict)
    revocations: dict[NodeId, Revocation] = field(default_factory=dict)
    models: list[Statement] = field(default_factory=list)


class StatementSet:
    """The trust of one mesh.

    Args:
        verify: checks a signature.
        id_of: the node id of a public key.
        mesh_id: the mesh that statements must be of; taken from the genesis when None.
    """

    def __init__(self, verify: Verify, id_of: IdOf, mesh_id: str | None = None) -> None:
        self._verify = verify
        self._id_of = id_of
        self._mesh_id = mesh_id
        self._statements: dict[bytes, Statement] = {}
        self._root = 0
        self._held: _Held | None = None

    # --- the set ---

    def add(self, data: bytes) -> Statement | None:
        """Take in a statement; None when it is known already.

        Raises ProtocolError when it is malformed, PermissionDenied when it is of another mesh or a signature is wrong.
        """
        statement_id = hashlib.sha256(data).digest()
        if statement_id in self._statements:
            return None
        statement = self._parse(statement_id, data)
        if statement.kind == "genesis":
            if self._mesh_id not in (None, statement.id.hex()):
                raise PermissionDenied("the genesis of another mesh")
            self._mesh_id = statement.id.hex()
        elif statement.mesh != self._mesh_id:
            raise PermissionDenied(f"a statement of mesh {statement.mesh[:8]}, not of {(self._mesh_id or '?')[:8]}")
        if len(self._statements) >= STATEMENTS_MAX:
            raise ProtocolError(f"{STATEMENTS_MAX} statements are held, the limit")
        self._statements[statement.id] = statement
        self._root ^= int.from_bytes(hashlib.sha256(b"root" + statement.id).digest(), "big")
        self._held = None
        return statement

    def ids(self) -> Iterable[bytes]:
        """The 32-byte ids held."""
        return self._statements.keys()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Ids and bytes; the genesis first, so that a receiver knows the mesh before the rest."""
        genesis = sorted(self._statements.values(), key=lambda s: (s.kind != "genesis", s.id))
        return iter([(s.id, s.data) for s in genesis])

    def get(self, statement_id: bytes) -> Statement | None:
        """The statement of that id."""
        return self._statements.get(statement_id)

    def __len__(self) -> int:
        return len(self._statements)

    @property
    def root_hash(self) -> bytes:
        """32 bytes that are equal exactly when two sets are (an XOR of hashes, so order does not matter)."""
        return self._root.to_bytes(32, "big")

    # --- what holds ---

    @property
    def mesh_id(self) -> str:
        """The id of the genesis, hex. Raises PermissionDenied when there is none yet."""
        if self._mesh_id is None:
            raise PermissionDenied("this node belongs to no mesh yet")
        return self._mesh_id

    @property
    def mesh_name(self) -> str:
        """The name that the founder gave."""
        return str(self._genesis().body.get("name", ""))

    def admins(self) -> Mapping[bytes, bytes]:
        """Admin public keys (DER) and their certificates (DER), the TLS roots."""
        return self._derived().admins

    def grant(self, node: NodeId, now: float | None = None) -> Grant | None:
        """The grant that makes a node a member; None when it has none, was revoked, or `now` is past its expiry."""
        held = self._derived()
        grant = held.grants.get(node)
        if grant is None or node in held.revocations or (now is not None and now >= grant.expires_at):
            return None
        return grant

    def revoked(self, node: NodeId) -> Revocation | None:
        """Why a node is out."""
        return self._derived().revocations.get(node)

    def members(self) -> list[Grant]:
        """Everyone who ever was granted membership, revoked ones included, by name."""
        return sorted(self._derived().grants.values(), key=lambda g: (g.name, g.node))

    def models(self) -> list[Statement]:
        """Model statements that hold: signed by an admin or a publisher and not revoked."""
        return self._derived().models

    def publisher(self, statement: Statement) -> NodeId:
        """The node id of a statement's issuer."""
        return self._id_of(statement.issuer)

    # --- inside ---

    def _genesis(self) -> Statement:
        genesis = self._statements.get(bytes.fromhex(self.mesh_id))
        if genesis is None:
            raise PermissionDenied("the genesis of this mesh is not known here yet")
        return genesis

    def _parse(self, statement_id: bytes, data: bytes) -> Statement:
        if len(data) > STATEMENT_BYTES_MAX:
            raise ProtocolError(f"a statement of {len(data)} bytes; {STATEMENT_BYTES_MAX} are allowed")
        try:
            fields = msgpack.unpackb(
                data, strict_map_key=True, max_ext_len=0, max_map_len=4096, object_pairs_hook=_no_duplicates
            )
            unsigned = {key: value for key, value in fields.items() if key != "sigs"}
            ok = (
                set(unsigned) == {"v", "mesh", "kind", "body", "issuer", "issued_at", "nonce"}
                and fields["v"] == VERSION
                and isinstance(fields["mesh"], str)
                and fields["kind"] in KINDS
                and isinstance(fields["body"], dict)
                and isinstance(fields["issuer"], bytes)
                and isinstance(fields["issued_at"], int)
                and isinstance(fields["nonce"], bytes)
                and len(fields["nonce"]) == 16
                and isinstance(fields["sigs"], list)
                and 1 <= len(fields["sigs"]) <= 16
                and all(len(s) == 2 and isinstance(s[0], bytes) and isinstance(s[1], bytes) for s in fields["sigs"])
                and canonical(fields) == data
            )
        except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
            raise ProtocolError(f"not a statement: {error}") from error
        if not ok:
            raise ProtocolError("not a statement of this version in its canonical form")
        if len(canonical(fields["body"])) > BODY_BYTES_MAX.get(fields["kind"], BODY_BYTES_DEFAULT):
            raise ProtocolError(f"the body of a {fields['kind']} statement is too large")
        message = DOMAIN + canonical(unsigned)
        signers = frozenset(key for key, _ in fields["sigs"])
        if fields["issuer"] not in signers or len(signers) != len(fields["sigs"]):
            raise ProtocolError("a statement must carry its issuer's signature, and each signature once")
        if not all(self._verify(key, message, signature) for key, signature in fields["sigs"]):
            raise PermissionDenied(f"a signature of a {fields['kind']} statement is wrong")
        return Statement(
            statement_id,
            data,
            fields["kind"],
            fields["mesh"],
            fields["body"],
            fields["issuer"],
            fields["issued_at"],
            signers,
        )

    def _derived(self) -> _Held:
        if self._held is None:
            self._held = self._derive()
        return self._held

    def _derive(self) -> _Held:
        held = _Held()
        genesis = self._statements.get(bytes.fromhex(self._mesh_id)) if self._mesh_id else None
        if genesis is None:
            return held
        of_kind: dict[str, list[Statement]] = {kind: [] for kind in KINDS}
        for statement in sorted(self._statements.values(), key=lambda s: (s.issued_at, s.id)):
            of_kind[statement.kind].append(statement)
        held.admins = self._admins(genesis, of_kind)
        revoked_statements: set[bytes] = set()
        for statement in of_kind["revoke"]:
            self._revoke(statement, held, revoked_statements)
        for statement in of_kind["grant"]:
            holds = statement.id not in revoked_statements and not statement.signers.isdisjoint(held.admins)
            if holds and (grant := self._grant(statement)) is not None:
                held.grants[grant.node] = grant  # the latest by (time, id) wins
        for statement in of_kind["model"]:
            publisher = self._id_of(statement.issuer)
            grant = held.grants.get(publisher)
            may = statement.issuer in held.admins or (grant is not None and "publisher" in grant.roles)
            if may and statement.id not in revoked_statements:
                held.models.append(statement)
        return held

    def _admins(self, genesis: Statement, of_kind: dict[str, list[Statement]]) -> dict[bytes, bytes]:
        """Start from the genesis; additions in order; removals last and only while one admin stays: the oldest."""
        admins = {bytes(key): bytes(root) for key, root in genesis.body.get("admins", [])}
        for statement in of_kind["admin_add"]:
            key, root = statement.body.get("key"), statement.body.get("root")
            if not statement.signers.isdisjoint(admins) and isinstance(key, bytes) and isinstance(root, bytes):
                admins[key] = root
        everyone = dict(admins)
        for statement in of_kind["admin_remove"]:
            key = statement.body.get("key")
            if not statement.signers.isdisjoint(everyone) and key in admins and len(admins) > 1:
                del admins[key]
        return admins

    def _revoke(self, statement: Statement, held: _Held, revoked_statements: set[bytes]) -> None:
        by = self._id_of(statement.issuer)
        is_admin = not statement.signers.isdisjoint(held.admins)
        node, target = statement.body.get("node"), statement.body.get("statement")
        if isinstance(node, str) and (is_admin or by == node):
            reason = str(statement.body.get("reason", ""))[:256]
            held.revocations.setdefault(NodeId(node), Revocation(reason, by, statement.issued_at))
        if isinstance(target, bytes):
            subject = self._statements.get(target)
            if is_admin or (subject is not None and subject.issuer == statement.issuer):
                revoked_statements.add(target)

    def _grant(self, statement: Statement) -> Grant | None:
        body = statement.body
        node, name, expires_at = body.get("node"), body.get("name"), body.get("expires_at")
        roles, zones = body.get("roles"), body.get("zones")
        if not (isinstance(node, str) and isinstance(name, str) and isinstance(expires_at, int)):
            return None
        if not (isinstance(roles, list) and isinstance(zones, list) and all(isinstance(z, str) for z in zones)):
            return None
        return Grant(
            NodeId(node),
            name,
            frozenset(role for role in roles if role in ROLES),
            tuple(zones),
            self._id_of(statement.issuer),
            statement.issued_at,
            expires_at,
            statement.id,
        )


def canonical(value: Any) -> bytes:
    """MessagePack with sorted map keys and no floats: one value has one form. Raises TypeError."""
    packed: bytes = msgpack.packb(_ordered(value), use_bin_type=True)
    return packed


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys of a statement are text")
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    raise TypeError(f"a statement holds no {type(value).__name__}")


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def make_statement(
    kind: str, body: Mapping[str, Any], *, mesh: str, issuer: bytes, sign: Sign, issued_at: int, nonce: bytes
) -> bytes:
    """A signed statement. Raises ProtocolError when its body is too large."""
    limit = BODY_BYTES_MAX.get(kind, BODY_BYTES_DEFAULT)
    if (size := len(canonical(body))) > limit:
        raise ProtocolError(f"a {kind} statement of {size} bytes; {limit} are allowed")
    fields: dict[str, Any] = {
        "v": VERSION,
        "mesh": mesh,
        "kind": kind,
        "body": body,
        "issuer": issuer,
        "issued_at": issued_at,
        "nonce": nonce,
    }
    fields["sigs"] = [[issuer, sign(DOMAIN + canonical(fields))]]
    return canonical(fields)


def genesis_body(name: str, admin: bytes, root: bytes, secret: bytes) -> dict[str, Any]:
    """A new mesh: its name, its first admin (key and certificate), and 32 random bytes."""
    return {"name": name, "admins": [[admin, root]], "random": secret}


def grant_body(node: NodeId, name: str, roles: Iterable[str], zones: Iterable[str], expires_at: int) -> dict[str, Any]:
    """A node is a member."""
    return {"node": node, "name": name, "roles": sorted(roles), "zones": list(zones), "expires_at": expires_at}


def revoke_node_body(node: NodeId, reason: str) -> dict[str, Any]:
    """A node is out, for good."""
    return {"node": node, "reason": reason}


def revoke_statement_body(statement: bytes) -> dict[str, Any]:
    """A statement no longer holds."""
    return {"statement": statement}

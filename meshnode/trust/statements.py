"""The trust of one mesh: a grow-only set of signed statements that is the same whatever order they arrive in.

There is no chain to fork and no quorum to lose: two nodes with the same set have the same `root_hash` and derive the
same members. The set holds only statements of issuers with standing: an admin of any time; for models, reports and
revocations a node that was ever a member; for redemptions the key of a batch invite. Standing only ever grows, so what
one node may hold all may; a statement that arrives before the one that gives its issuer standing waits for it in a
bounded space. Thus a member cannot fill the set with strangers' statements, and admins' are never refused for lack of
room: a revocation fits.

No clock: expiry is asked with a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from meshnode.errors import MeshError, PermissionDenied, ProtocolError
from meshnode.trust import standing
from meshnode.trust.admins import Admins
from meshnode.trust.batch import OVER_MAX, BatchInvite
from meshnode.trust.form import (
    DEFAULT_ROLES,
    ROLES,
    STATEMENT_BYTES_MAX,
    Sign,
    Statement,
    Verify,
    check_signatures,
    make_statement,
    parse,
)
from meshnode.trust.grants import Grant, IdOf
from meshnode.trust.standing import Flag, Revocation, Standing
from meshnode.wire.messages import NodeId

__all__ = [
    "DEFAULT_ROLES",
    "ROLES",
    "STATEMENTS_MAX",
    "STATEMENT_BYTES_MAX",
    "BatchInvite",
    "Flag",
    "Grant",
    "IdOf",
    "Revocation",
    "Sign",
    "Statement",
    "StatementSet",
    "Verify",
    "make_statement",
]

STATEMENTS_MAX = 50_000
"""Held at most, admins' own not counted against it."""
MEMBER_STATEMENTS_MAX = 1000
"""Models, reports and revocations of one node that is no admin."""
WAITING_MAX = 256
"""Statements whose issuer has no standing yet."""
_SPOKEN_BY_MEMBERS = frozenset({"model", "revoke", "flag"})
_GIVES_STANDING = frozenset({"genesis", "admin_add", "grant", "invite_key", "redeem"})


class StatementSet:
    """See the module's docstring.

    Args:
        verify: checks a signature.
        id_of: the node id of a public key.
        mesh_id: the mesh that statements must be of, hex; taken from the genesis when None.
    """

    def __init__(self, verify: Verify, id_of: IdOf, mesh_id: str | None = None) -> None:
        self._verify = verify
        self._id_of = id_of
        self._mesh_id = mesh_id
        self._statements: dict[bytes, Statement] = {}
        self._waiting: OrderedDict[bytes, Statement] = OrderedDict()
        self._admins_ever: set[bytes] = set()
        self._members_ever: set[NodeId] = set()
        self._uses_ever: dict[bytes, int] = {}  # of the keys of batch invites
        self._of_members: Counter[bytes] = Counter()
        self._root: bytes | None = None
        self._standing: Standing | None = None

    # --- the set ---

    def add(self, data: bytes) -> Statement | None:
        """Take in a statement; None when it is known already. What waited for it is taken in as well (see `merge`).

        Raises ProtocolError when it is malformed or too many, PermissionDenied when it is of another mesh, a
        signature is wrong, or its issuer has no standing (yet: it is kept waiting).
        """
        new = self._take(data)
        return new[0] if new else None

    def merge(self, batch: Iterable[bytes]) -> tuple[list[Statement], list[MeshError]]:
        """Take in what can be; what was new, waiting ones that now have standing included, and why the rest was not."""
        new: list[Statement] = []
        refused: list[MeshError] = []
        for data in batch:
            try:
                new += self._take(data)
            except MeshError as error:
                refused.append(error)
        return new, refused

    def ids(self) -> Iterable[bytes]:
        """The 32-byte ids held."""
        return self._statements.keys()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Ids and bytes, in an order in which another set can take them in: the genesis first."""
        return iter([(s.id, s.data) for s in self._statements.values()])

    def get(self, statement_id: bytes) -> Statement | None:
        """The statement of that id."""
        return self._statements.get(statement_id)

    def __len__(self) -> int:
        return len(self._statements)

    @property
    def root_hash(self) -> bytes:
        """32 bytes that are equal exactly when two sets are: SHA-256 over the sorted ids.

        Not an XOR or a sum of hashes, for which somebody who may publish can compute two sets with one root.
        """
        if self._root is None:
            self._root = hashlib.sha256(b"meshnode/set/1\0" + b"".join(sorted(self._statements))).digest()
        return self._root

    # --- what holds ---

    @property
    def mesh_id(self) -> str:
        """The id of the genesis, hex. Raises PermissionDenied when there is none yet."""
        if self._mesh_id is None:
            raise PermissionDenied("this node belongs to no mesh yet")
        return self._mesh_id

    @property
    def genesis(self) -> Statement:
        """The first statement. Raises PermissionDenied when it is not known."""
        genesis = self._statements.get(bytes.fromhex(self.mesh_id))
        if genesis is None:
            raise PermissionDenied("the genesis of this mesh is not known here yet")
        return genesis

    @property
    def mesh_name(self) -> str:
        """The name that the founder gave."""
        return str(self.genesis.body["name"])

    def admins(self) -> Mapping[bytes, bytes]:
        """Admin public keys (DER) and their certificates (DER), the oldest first."""
        return self._derived().admins.live

    def office(self) -> Admins:
        """Who is admin, who was, and what is proposed."""
        return self._derived().admins

    def said_by(self, key: bytes) -> list[Statement]:
        """All statements of an issuer."""
        return [it for it in self._statements.values() if it.issuer == key]

    def of_kinds(self, *kinds: str) -> list[Statement]:
        """All statements of these kinds, whether they hold or not, in the order in which they were taken in."""
        return [it for it in self._statements.values() if it.kind in kinds]

    def grant(self, node: NodeId, now: float | None = None) -> Grant | None:
        """The grant that makes a node a member; None when it has none, was revoked, gave its place to another key, or
        it is over at `now`. It may be renewed for some time after its expiry; see `Grant.ends_at`.
        """
        return None if node in self._derived().idle else self._granted(node, now)

    def to_hand_over(self, node: NodeId, now: float | None = None) -> Grant | None:
        """The grant that a node may have given to another key, or given anew: it may not have heard that it was.

        None as for `grant`, and for good when who took its place was revoked.
        """
        held = self._derived()
        heir = held.heirs.get(node)
        if heir is not None and heir in held.revocations:
            return None
        return self._granted(node, now) if heir is not None else self.grant(node, now)

    def _granted(self, node: NodeId, now: float | None) -> Grant | None:
        held = self._derived()
        grant = held.grants.get(node)
        if grant is None or node in held.revocations or (now is not None and now >= grant.ends_at):
            return None
        return grant

    def revoked(self, node: NodeId) -> Revocation | None:
        """Why a node is out."""
        return self._derived().revocations.get(node)

    def members(self) -> list[Grant]:
        """Everyone who ever was granted membership, revoked ones included, by name."""
        return sorted(self._derived().grants.values(), key=lambda g: (g.name, g.node))

    def models(self) -> list[Statement]:
        """Model statements that hold, oldest first: of an admin or a publisher that no admin threw out, not revoked."""
        return list(self._derived().models)

    def blueprints(self) -> list[Statement]:
        """Blueprint statements that hold, oldest first: of a live admin, not revoked."""
        return list(self._derived().blueprints)

    def invites(self) -> Mapping[bytes, BatchInvite]:
        """The batch invites that hold, ended and expired ones included, by id, the oldest first."""
        return self._derived().invites

    def flag(self, digest: str) -> Flag | None:
        """What members and admins report about a model; whether that keeps it from running is for the flag to say."""
        return self._derived().flags.get(digest)

    def policies(self) -> list[Statement]:
        """Policy statements that hold: of a live admin, not revoked."""
        return list(self._derived().policies)

    def publishers(self) -> list[Statement]:
        """Publisher statements that hold: of a live admin, not revoked."""
        return list(self._derived().publishers)

    def publisher(self, statement: Statement) -> NodeId:
        """The node id of a statement's issuer."""
        return self._id_of(statement.issuer)

    # --- inside ---

    def _take(self, data: bytes) -> list[Statement]:
        statement = parse(data)
        if statement.id in self._statements:
            return []
        mesh = statement.id.hex() if statement.kind == "genesis" else statement.mesh
        if self._mesh_id is None and statement.kind != "genesis":
            raise PermissionDenied("the genesis of this mesh is not known here yet")
        if self._mesh_id not in (None, mesh):
            raise PermissionDenied(f"a statement of mesh {mesh[:8]}, not of {(self._mesh_id or '')[:8]}")
        check_signatures(statement, self._verify)
        if not self._has_standing(statement):
            self._waiting[statement.id] = statement
            while len(self._waiting) > WAITING_MAX:
                self._waiting.popitem(last=False)
            raise PermissionDenied(
                f"node {self._id_of(statement.issuer)[:8]} may make no {statement.kind} statement in this mesh"
            )
        self._check_room(statement)
        new = [statement]
        self._hold(statement)
        if statement.kind not in _GIVES_STANDING:
            return new
        while ready := [waiting for waiting in self._waiting.values() if self._has_standing(waiting)]:
            for waiting in ready:
                del self._waiting[waiting.id]
                try:
                    self._check_room(waiting)
                except ProtocolError:
                    continue
                self._hold(waiting)
                new.append(waiting)
        return new

    def _has_standing(self, statement: Statement) -> bool:
        if statement.kind == "genesis" or statement.issuer in self._admins_ever:
            return True
        if statement.kind == "redeem":
            return statement.issuer in self._uses_ever
        return statement.kind in _SPOKEN_BY_MEMBERS and self._id_of(statement.issuer) in self._members_ever

    def _check_room(self, statement: Statement) -> None:
        if statement.kind == "genesis" or statement.issuer in self._admins_ever:
            return
        redeems = statement.kind == "redeem"
        most = self._uses_ever[statement.issuer] + OVER_MAX if redeems else MEMBER_STATEMENTS_MAX
        if self._of_members[statement.issuer] >= most:
            who = f"{'invite' if redeems else 'node'} {self._id_of(statement.issuer)[:8]}"
            raise ProtocolError(f"{who} has made {most} statements, the limit")
        if len(self._statements) >= STATEMENTS_MAX:
            raise ProtocolError(f"{STATEMENTS_MAX} statements are held, the limit")

    def _hold(self, statement: Statement) -> None:
        self._statements[statement.id] = statement
        self._root = None
        self._standing = None
        match statement.kind:
            case "genesis":
                self._mesh_id = statement.id.hex()
                self._admins_ever |= {key for key, _ in statement.body["admins"]}
            case "admin_add":
                self._admins_ever.add(statement.body["key"])
            case "invite_key":
                key = statement.body["key"]
                self._uses_ever[key] = max(self._uses_ever.get(key, 0), statement.body["uses"])
            case "grant" | "redeem":
                self._members_ever.add(statement.body["node"])
            case _:
                pass
        if statement.issuer not in self._admins_ever:
            self._of_members[statement.issuer] += 1

    def _derived(self) -> Standing:
        if self._standing is None:
            if self._mesh_id is None or bytes.fromhex(self._mesh_id) not in self._statements:
                return standing.NOTHING
            self._standing = standing.derive(self.genesis, self._statements.values(), self._id_of)
        return self._standing

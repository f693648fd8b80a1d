"""What the mesh allows: who may submit and publish, which models run, how much of a node one submitter gets.

One document is signed by an admin and holds for everybody; of several the one with the highest (version, id). A node
may keep a second one of its own, `policy.toml` in its home, which only ever narrows: `stricter` keeps the conditions of
both beside each other, so that whoever passes the two together passes each alone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta, structs

from meshnode import toml
from meshnode.errors import InvalidInput, MeshError
from meshnode.ranges import amount
from meshnode.trust.form import EMPTY_ROLES, ROLES
from meshnode.trust.zones import checked_zone, in_zone
from meshnode.wire.messages import Digest, NodeId

BYTES_MAX = 64 * 1024
Word = Annotated[str, Meta(min_length=1, max_length=128)]
Words = Annotated[tuple[Word, ...], Meta(max_length=256)]
Amount = Annotated[int, Meta(ge=0, le=2**53)]


class Who(msgspec.Struct, frozen=True):
    """Each list that is not empty must name the node: one of its roles, itself (name or id), a zone that it lies in."""

    roles: Words = ()
    nodes: Words = ()
    zones: Words = ()


class Models(msgspec.Struct, frozen=True):
    """Each that is given must hold: listed digest, listed publisher, at most so many bytes, signed by a live key.

    A publisher is one whose key signed the model, or the node that brought it in, by name or id.
    """

    digests: Words = ()
    publishers: Words = ()
    max_bytes: Amount = 0
    allow: Literal["any", "signed"] = "any"


class Quota(msgspec.Struct, frozen=True):
    """What one submitter gets of one node at most; 0 is no limit."""

    concurrent: Amount = 0
    tasks_s: Amount = 0
    compute_s_minute: Amount = 0
    bytes_s: Amount = 0


NO_QUOTA = Quota()


class Policy(msgspec.Struct, frozen=True):
    """One document; what is left out allows all."""

    version: Annotated[int, Meta(ge=0, le=2**53)] = 0
    submit: Who = Who()
    publish: Who = Who()
    models: Models = Models()
    quota: Quota = Quota()
    default_zone: Annotated[str, Meta(max_length=64)] = ""

    def to_map(self) -> dict[str, Any]:
        """The body of the statement."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        return body


class Signed(Protocol):
    """What is needed of a `policy` statement."""

    @property
    def id(self) -> bytes:
        """Its id."""
        ...

    @property
    def body(self) -> Mapping[str, Any]:
        """The document's map."""
        ...


def holding(statements: Iterable[Signed]) -> Policy:
    """The mesh's: the highest (version, id) of those that can be read; one that allows all when there is none."""
    found: list[tuple[int, bytes, Policy]] = []
    for statement in statements:
        try:
            policy = msgspec.convert(dict(statement.body), Policy)
        except msgspec.ValidationError:
            continue
        found.append((policy.version, statement.id, policy))
    return max(found, key=lambda it: it[:2])[2] if found else Policy()


# --- both together ---


@dataclass(frozen=True, slots=True)
class Node:
    """Whoever submits or publishes, as grants have it."""

    id: NodeId
    name: str
    roles: frozenset[str]
    zone: str


@dataclass(frozen=True, slots=True)
class Model:
    """What decides about one. `publisher` is the node that brought it in, `signers` whose live keys signed it."""

    digest: Digest
    size: int
    publisher: str
    publisher_name: str
    signers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds on a node: conditions with where each comes from.

    `default_zone` is for tasks of this node's clients that name none; `mesh_zone` for anybody's.
    """

    submit: tuple[tuple[str, Who], ...] = ()
    publish: tuple[tuple[str, Who], ...] = ()
    models: tuple[tuple[str, Models], ...] = ()
    quota: Quota = NO_QUOTA
    default_zone: str = ""
    mesh_zone: str = ""

    def refuses_submitter(self, node: Node) -> str:
        """The rule that keeps a node from submitting; "" when none does."""
        return _refuses(self.submit, "submit", node)

    def refuses_publisher(self, node: Node) -> str:
        """The rule that keeps a node from publishing."""
        return _refuses(self.publish, "publish", node)

    def refuses_model(self, model: Model) -> str:
        """The rule that keeps a model from running."""
        for source, it in self.models:
            if it.digests and model.digest not in it.digests:
                return f"models.digests of {source}"
            if it.publishers and not {model.publisher, model.publisher_name, *model.signers} & set(it.publishers):
                return f"models.publishers of {source}"
            if it.allow == "signed" and not model.signers:
                return f"models.allow = signed of {source}"
            if it.max_bytes and model.size > it.max_bytes:
                return f"models.max_bytes = {it.max_bytes} of {source}"
        return ""


def stricter(mesh: Policy, local: Policy) -> Rules:
    """Both at once: never looser than either."""
    sources = ((f"the mesh's policy, version {mesh.version}", mesh), ("policy.toml of this node", local))
    own = local.default_zone
    return Rules(
        submit=tuple((source, it.submit) for source, it in sources if it.submit != Who()),
        publish=tuple((source, it.publish) for source, it in sources if it.publish != Who()),
        models=tuple((source, it.models) for source, it in sources if it.models != Models()),
        quota=Quota(
            *(
                min((n for n in (getattr(mesh.quota, name), getattr(local.quota, name)) if n), default=0)
                for name in Quota.__struct_fields__
            )
        ),
        # A zone of this node's own narrows the mesh's or does not count.
        default_zone=own if own and (not mesh.default_zone or in_zone(own, mesh.default_zone)) else mesh.default_zone,
        mesh_zone=mesh.default_zone,
    )


def _refuses(conditions: tuple[tuple[str, Who], ...], what: str, node: Node) -> str:
    for source, who in conditions:
        if who.roles and not node.roles & set(who.roles):
            return f"{what}.roles of {source}"
        if who.nodes and not {node.id, node.name} & set(who.nodes):
            return f"{what}.nodes of {source}"
        if who.zones and not any(in_zone(node.zone, zone) for zone in who.zones):
            return f"{what}.zones of {source}"
    return ""


# --- as a person writes it ---


class _Who(Who, frozen=True, forbid_unknown_fields=True):
    pass


class _Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digests: Words = ()
    publishers: Words = ()
    max_bytes: str | Amount = 0
    allow: Literal["any", "signed"] = "any"


class _Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    concurrent: Amount = 0
    tasks_s: Amount = 0
    compute_s_minute: Amount = 0
    bytes_s: str | Amount = 0


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    submit: _Who = _Who()
    publish: _Who = _Who()
    models: _Models = _Models()
    quota: _Quota = _Quota()
    default_zone: str = ""


def read(text: str, version: int = 0) -> Policy:
    """A policy in TOML. Raises InvalidInput with the place."""
    document = toml.given(text, "policy", BYTES_MAX)
    try:
        it = msgspec.convert(document, _Written)
        max_bytes, bytes_s = amount(it.models.max_bytes), amount(it.quota.bytes_s)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidInput(
            f"the policy does not say what it should: {error}",
            hint="[submit], [publish], [models], [quota] and default_zone; README shows one",
        ) from error
    for place, who in (("submit", it.submit), ("publish", it.publish)):
        if unknown := sorted(set(who.roles) - ROLES):
            raise InvalidInput(
                f"{place}.roles names {', '.join(unknown)}; there are {', '.join(sorted(ROLES - EMPTY_ROLES))}"
            )
    try:
        for zone in (*it.submit.zones, *it.publish.zones, *((it.default_zone,) if it.default_zone else ())):
            checked_zone(zone)
    except MeshError as error:
        raise InvalidInput(f"the policy: {error}", hint=error.hint) from error
    if bad := [digest for digest in it.models.digests if len(digest) != 64 or set(digest) - set("0123456789abcdef")]:
        raise InvalidInput(
            f"models.digests: {bad[0][:80]!r} is no digest", hint="64 hex digits, as `model show` prints"
        )
    return Policy(
        version=version,
        submit=Who(*structs.astuple(it.submit)),
        publish=Who(*structs.astuple(it.publish)),
        models=Models(it.models.digests, it.models.publishers, max_bytes, it.models.allow),
        quota=Quota(it.quota.concurrent, it.quota.tasks_s, it.quota.compute_s_minute, bytes_s),
        default_zone=it.default_zone,
    )

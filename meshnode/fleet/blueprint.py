"""A blueprint: which models are to live where, as a person writes it and as an admin signs it.

A person writes TOML, by names; what is signed names versions and digests, so that every node means the same files. Of
the statements with one blueprint's name the one with the highest (revision, id) holds, and the others are its history.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from meshnode import toml
from meshnode.errors import InvalidInput, ProtocolError
from meshnode.ranges import amount
from meshnode.wire.messages import Digest
from meshnode.wire.terms import Hex64

WISHES_MAX = 256
BYTES_MAX = 64 * 1024
NAME = r"\A[a-z0-9][a-z0-9._-]{0,63}\Z"
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Label = Annotated[str, Meta(max_length=64)]
Labels = Annotated[dict[Label, Label], Meta(max_length=16)]
Zone = Annotated[str, Meta(max_length=64)]
Word = Annotated[str, Meta(max_length=64)]
ModelName = Annotated[str, Meta(pattern=NAME)]
Version = Annotated[int, Meta(ge=1, le=2**31)]


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a new version comes: `share_permille` of the tasks and of the replicas first, for `for_s` seconds.

    It goes on to all when, of what ran meanwhile, at most `errors_permille` more failed than of the old version, and a
    run took at most `slower_percent` of the old one's time; else back.
    """

    share_permille: Annotated[int, Meta(ge=1, le=500)] = 100
    for_s: Annotated[int, Meta(ge=1, le=30 * 86400)] = 300
    errors_permille: Annotated[int, Meta(ge=0, le=1000)] = 10
    slower_percent: Annotated[int, Meta(ge=100, le=100_000)] = 150


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is being tried. `everywhere`: it did well, and all nodes get it before all tasks do."""

    version: Version
    digest: Hex64
    everywhere: bool = False


class Want(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model: this version, on so many nodes of those that match; `replicas` 0 is every one of them.

    A node matches when it is `node` (empty: any), lies in `zone`, has all `labels`, runs models on `provider` and has
    `memory_bytes`. `loaded`: in memory, not only on disk. `trial` is a version that is being tried beside it.
    """

    model: ModelName
    version: Version
    digest: Hex64
    replicas: Annotated[int, Meta(ge=0, le=100_000)] = 1
    zone: Zone = ""
    labels: Labels = {}
    provider: Word = ""
    memory_bytes: Annotated[int, Meta(ge=0, le=2**53)] = 0
    loaded: bool = True
    node: Annotated[str, Meta(max_length=52)] = ""
    canary: Canary | None = None
    trial: Trial | None = None


class Blueprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed; one without wants was removed. `note` is why it was said, when no person said it."""

    name: ModelName
    revision: Annotated[int, Meta(ge=1, le=2**53)]
    wants: Annotated[tuple[Want, ...], Meta(max_length=WISHES_MAX)]
    note: Annotated[str, Meta(max_length=512)] = ""

    def to_map(self) -> dict[str, Any]:
        """The body of the statement."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        return body


def from_map(body: Mapping[str, Any]) -> Blueprint:
    """What a statement says. Raises ProtocolError."""
    try:
        return msgspec.convert(dict(body), Blueprint)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"a blueprint is malformed: {error}") from error


class Signed(Protocol):
    """What is needed of a `blueprint` statement."""

    @property
    def id(self) -> bytes:
        """Its id."""
        ...

    @property
    def body(self) -> Mapping[str, Any]:
        """The blueprint's map."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """A blueprint as it holds, with what it said before, the newest first."""

    now: Blueprint
    statement: bytes
    before: tuple[Blueprint, ...]


def holding(statements: Iterable[Signed]) -> dict[str, Held]:
    """The blueprints that hold, removed ones left out; malformed statements are nobody's blueprint."""
    found: dict[str, list[tuple[int, bytes, Blueprint]]] = {}
    for statement in statements:
        try:
            blueprint = from_map(statement.body)
        except ProtocolError:
            continue
        found.setdefault(blueprint.name, []).append((blueprint.revision, statement.id, blueprint))
    held = {}
    for name, revisions in sorted(found.items()):
        (_, newest, now), *older = sorted(revisions, key=lambda it: it[:2], reverse=True)
        held[name] = Held(now, newest, tuple(blueprint for _, _, blueprint in older))
    return held


# --- as a person writes it ---


class _CanaryWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    share: float = 0.1
    for_: str = msgspec.field(default="5m", name="for")
    errors: float = 0.01
    slower: float = 1.5


class _Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    replicas: Annotated[int, Meta(ge=1, le=100_000)] | Literal["all"] = 1
    zone: Zone = ""
    labels: Labels = {}
    provider: Word = ""
    memory: str | int = 0
    keep: Literal["loaded", "disk"] = "loaded"
    node: Annotated[str, Meta(max_length=52)] = ""
    canary: _CanaryWish | None = None


class _Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: ModelName
    models: Annotated[tuple[_Wish, ...], Meta(min_length=1, max_length=WISHES_MAX)]


class Known(Protocol):
    """What is needed of a manifest."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def version(self) -> int:
        """Of the model."""
        ...

    @property
    def digest(self) -> Digest:
        """Of its files."""
        ...


class Resolve(Protocol):
    """`name` (its newest version), `name:version` or a digest; raises ModelNotFound."""

    def __call__(self, wanted: str) -> Known:
        """The model."""
        ...


def read(text: str, resolve: Resolve) -> tuple[str, tuple[Want, ...]]:
    """The name and the wants of a blueprint in TOML. Raises InvalidInput with the place, ModelNotFound."""
    document = toml.given(text, "blueprint", BYTES_MAX)
    try:
        wishes = msgspec.convert(document, _Wishes)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the blueprint does not say what it should: {error}",
            hint="`name` and a list of [[models]]; README shows one",
        ) from error
    wants = tuple(_want(number, wish, resolve) for number, wish in enumerate(wishes.models, 1))
    twice = {want.model for want in wants if sum(it.model == want.model for it in wants) > 1}
    if twice:
        raise InvalidInput(f"the blueprint names {', '.join(sorted(twice))} twice: one entry says where a model lives")
    return wishes.name, wants


def _want(number: int, wish: _Wish, resolve: Resolve) -> Want:
    known = resolve(wish.model)
    canary = None
    try:
        if wish.canary is not None:
            canary = msgspec.convert(
                {
                    "share_permille": round(wish.canary.share * 1000),
                    "for_s": span(wish.canary.for_),
                    "errors_permille": round(wish.canary.errors * 1000),
                    "slower_percent": round(wish.canary.slower * 100),
                },
                Canary,
            )
        memory_bytes = amount(wish.memory)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"entry {number} of the blueprint, {wish.model}: {error}") from error
    return Want(
        model=known.name,
        version=known.version,
        digest=known.digest,
        replicas=0 if wish.replicas == "all" else wish.replicas,
        zone=wish.zone.strip("/"),
        labels=wish.labels,
        provider=wish.provider,
        memory_bytes=memory_bytes,
        loaded=wish.keep == "loaded",
        node=wish.node,
        canary=canary,
    )


def span(text: str) -> int:
    """Seconds, from `90s`, `5m`, `2h` or `1d`. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+)\s*([smhd])\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no time: write it as 90s, 5m, 2h or 1d")
    return int(match[1]) * SPANS[match[2]]

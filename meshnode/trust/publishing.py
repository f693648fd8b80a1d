"""Signatures of publishers: keys of the mesh that belong to no node and can stay offline. Pure.

A publisher signs what a model is (name, version, digest of its files, zone); whoever may publish brings model and
signature in, and cannot change any of it. Which keys count is said by `publisher` statements of admins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from meshnode.errors import InvalidInput
from meshnode.trust.form import canonical
from meshnode.wire.terms import Hex64

DOMAIN = b"meshnode/publish/1\0"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signature file, as JSON: what was signed, the public key (DER) and the Ed25519 signature, both in hex."""

    name: Annotated[str, Meta(max_length=64)]
    version: Annotated[int, Meta(ge=1, le=2**31)]
    digest: Hex64
    key: Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{2}){1,128}\Z")]
    signature: Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]
    zone: Annotated[str, Meta(max_length=64)] = ""


class Said(Protocol):
    """What is needed of a `publisher` statement."""

    @property
    def id(self) -> bytes:
        """Its id."""
        ...

    @property
    def body(self) -> Mapping[str, Any]:
        """`name` and `key`."""
        ...


def message(name: str, version: int, digest: str, zone: str) -> bytes:
    """What a publisher signs."""
    return DOMAIN + canonical({"name": name, "version": version, "digest": digest, "zone": zone})


def read(text: str) -> Signature:
    """A signature file. Raises InvalidInput."""
    try:
        return msgspec.json.decode(text.encode(), type=Signature)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"it is no signature of `meshnode model sign`: {error}") from error


def publishers(statements: Iterable[Said]) -> dict[bytes, str]:
    """The keys that count, with their names; malformed statements name nobody."""
    found = {}
    for statement in statements:
        name, key = statement.body.get("name"), statement.body.get("key")
        if isinstance(name, str) and isinstance(key, bytes):
            found[key] = name
    return found

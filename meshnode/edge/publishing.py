"""Publishers at the door: whose keys count, and which models they signed."""

from __future__ import annotations

import functools

import msgspec

from meshnode.catalog.manifest import Manifest, Mark
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import InvalidInput, PermissionDenied
from meshnode.trust import identity, publishing
from meshnode.trust.form import revoke_statement_body
from meshnode.trust.statements import Statement


class Add(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is a public key, DER in hex."""

    name: str
    key: str


class Name(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a publisher."""

    name: str


@functools.lru_cache(maxsize=4096)
def signed(name: str, version: int, digest: str, zone: str, mark: Mark) -> bool:
    """Whether the key of a mark signed this."""
    return identity.verify(mark.key, publishing.message(name, version, digest, zone), mark.signature)


def signer(keys: dict[bytes, str], manifest: Manifest) -> str:
    """The publisher whose live key signed a manifest, or ""."""
    mark = manifest.mark
    if mark is None or mark.key not in keys:
        return ""
    right = signed(manifest.name, manifest.version, manifest.digest, manifest.zone, mark)
    return keys[mark.key] if right else ""


def mark_of(node: Node, text: str) -> tuple[publishing.Signature, Mark]:
    """A signature file that a publisher of this mesh made. Raises InvalidInput, PermissionDenied."""
    it = publishing.read(text)
    mark = Mark(bytes.fromhex(it.key), bytes.fromhex(it.signature))
    if mark.key not in publishing.publishers(node.keeper.statements.publishers()):
        raise PermissionDenied(
            "the key of this signature is no publisher's of this mesh",
            hint="`meshnode publisher list` shows them; an admin adds one by `meshnode publisher add`",
        )
    if not signed(it.name, it.version, it.digest, it.zone, mark):
        raise InvalidInput("the signature is wrong: the file was changed, or made for something else")
    return it, mark


def _say(node: Node, statement: Statement) -> None:
    node.trust.publish([statement.data])
    node.trust.learnt([statement])


async def _add(node: Node, args: Add) -> JSON:
    try:
        key = bytes.fromhex(args.key)
    except ValueError as error:
        raise InvalidInput("the key is no hex") from error
    if not identity.is_key(key):
        raise InvalidInput("it is no Ed25519 public key", hint="the .pub file of `meshnode publisher keygen`")
    known = publishing.publishers(node.keeper.statements.publishers())
    if known.get(key) == args.name:
        return {"name": args.name, "key": args.key}
    if not args.name or args.name in known.values() or key in known:
        raise InvalidInput(f"the name {args.name!r} or the key is a publisher's already")
    _say(node, node.keeper.say("publisher", {"name": args.name, "key": key}, admin="add a publisher"))
    return {"name": args.name, "key": args.key}


async def _remove(node: Node, args: Name) -> JSON:
    mine = [it for it in node.keeper.statements.publishers() if it.body.get("name") == args.name]
    if not mine:
        raise InvalidInput(f"no publisher {args.name!r} in this mesh", hint="`meshnode publisher list` shows them")
    for it in mine:
        _say(node, node.keeper.say("revoke", revoke_statement_body(it.id), admin="remove a publisher"))
    return {"name": args.name}


async def _list(node: Node, _: Nothing) -> JSON:
    keys = publishing.publishers(node.keeper.statements.publishers())
    models = node.catalog.manifests()
    return [
        {
            "name": name,
            "key": key.hex(),
            "models": [f"{m.name}:{m.version}" for m in models if m.mark is not None and signer({key: name}, m)],
        }
        for key, name in sorted(keys.items(), key=lambda it: it[1])
    ]


VERBS: Verbs = {
    "publisher.add": (Add, _add),
    "publisher.remove": (Name, _remove),
    "publisher.list": (Nothing, _list),
}

"""One signed statement: its form, its limits, and how it becomes bytes and back.

A statement is a canonical MessagePack map `{body, issued_at, issuer, kind, mesh, nonce, sigs, v}` (keys sorted, no
floats). Its id is the SHA-256 of the map without `sigs`, so that nobody can bring a revoked statement back under
another id by adding a signature of his own. Each entry of `sigs` is `[public key DER, signature]` over a domain tag
and the same bytes; the issuer's must be among them. Whether a statement counts is decided in `standing`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from meshnode.errors import PermissionDenied, ProtocolError
from meshnode.wire.messages import NodeId

DOMAIN = b"meshnode/statement/1\0"
VERSION = 1
NONCE_BYTES = 16
SIGNATURES_MAX = 16
STATEMENT_BYTES_MAX = 40 * 1024
BODY_BYTES_MAX = {
    "model": 32 * 1024,
    "blueprint": 32 * 1024,
    "policy": 32 * 1024,
    "invite_key": 36 * 1024,
    "invite_end": 36 * 1024,
}
BODY_BYTES_DEFAULT = 4 * 1024
KINDS = frozenset(
    {"genesis", "admin_add", "admin_remove", "grant", "revoke", "publisher", "policy", "model", "blueprint"}
) | {"flag", "invite_key", "invite_end", "redeem"}
ROLES = frozenset({"worker", "submitter", "publisher", "operator", "admin"})
EMPTY_ROLES = frozenset({"operator"})
"""Nothing asks for them. Grants of before have them, and policies may name them; nobody is given one any more."""
DEFAULT_ROLES = ("publisher", "submitter", "worker")
NAME_CHARS_MAX = 128
ZONES_MAX = 32
ZONE_CHARS_MAX = 64
USES_MAX = 2000
HARDWARE_MAX = 1000
"""Machines that a batch invite may name."""
KEPT_BYTES = 16
"""Of each id that an `invite_end` or `admin_remove` keeps; together they must fit into a body."""
REASON_CHARS_MAX = 256
TIME_MAX = 2**53
"""Times are UTC seconds that every language's numbers can hold."""
_NODE = re.compile(r"[a-z2-7]{52}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"v", "mesh", "kind", "body", "issuer", "issued_at", "nonce", "sigs"}

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key DER, message, signature) -> is it right?"""
Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement as its issuer signed it.

    `id` is 32 bytes, `issuer` a public key in DER, `issued_at` UTC seconds by the issuer's clock.
    """

    id: bytes
    data: bytes
    kind: str
    mesh: str
    body: Mapping[str, Any]
    issuer: bytes
    issued_at: int


def parse(data: bytes) -> Statement:
    """Read a statement without checking its signatures. Raises ProtocolError."""
    if len(data) > STATEMENT_BYTES_MAX:
        raise ProtocolError(f"a statement of {len(data)} bytes; {STATEMENT_BYTES_MAX} are allowed")
    fields = _unpack(data)
    if not _is_statement(fields):
        raise ProtocolError(f"not a statement of version {VERSION}")
    kind, body = fields["kind"], fields["body"]
    limit = BODY_BYTES_MAX.get(kind, BODY_BYTES_DEFAULT)
    if (size := len(canonical(body))) > limit:
        raise ProtocolError(f"the body of a {kind} statement has {size} bytes; {limit} are allowed")
    if (shape := _SHAPES.get(kind)) is not None and not shape(body):
        raise ProtocolError(f"the body of a {kind} statement is malformed")
    if (kind == "genesis") != (fields["mesh"] == ""):
        raise ProtocolError("a genesis names no mesh, and everything else does")
    if kind == "genesis" and fields["issuer"] not in {key for key, _ in body["admins"]}:
        raise ProtocolError("a genesis is issued by one of its admins")
    return Statement(
        hashlib.sha256(_unsigned(fields)).digest(),
        data,
        kind,
        fields["mesh"],
        body,
        fields["issuer"],
        fields["issued_at"],
    )


def check_signatures(statement: Statement, verify: Verify) -> None:
    """Raises PermissionDenied when one is wrong, ProtocolError when the issuer's is missing or one stands twice."""
    fields = _unpack(statement.data)
    signers = [key for key, _ in fields["sigs"]]
    if statement.issuer not in signers or len(set(signers)) != len(signers):
        raise ProtocolError("a statement carries its issuer's signature, and each signer's once")
    message = DOMAIN + _unsigned(fields)
    if not all(verify(key, message, signature) for key, signature in fields["sigs"]):
        raise PermissionDenied(f"a signature of a {statement.kind} statement is wrong")


def make_statement(
    kind: str, body: Mapping[str, Any], *, mesh: str, issuer: bytes, sign: Sign, issued_at: int, nonce: bytes
) -> bytes:
    """A signed statement. Raises ProtocolError when its body is malformed or too large."""
    fields: dict[str, Any] = {
        "v": VERSION,
        "mesh": mesh,
        "kind": kind,
        "body": body,
        "issuer": issuer,
        "issued_at": issued_at,
        "nonce": nonce,
        "sigs": [],
    }
    try:
        fields["sigs"] = [[issuer, sign(DOMAIN + _unsigned(fields))]]
        data = canonical(fields)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"a {kind} statement cannot hold this: {error}") from error
    return parse(data).data


def canonical(value: Any) -> bytes:
    """MessagePack with sorted map keys and no floats: one value has one form. Raises TypeError, ValueError."""
    packed: bytes = msgpack.packb(_ordered(value), use_bin_type=True)
    return packed


def genesis_body(name: str, admins: Sequence[tuple[bytes, bytes]], random: bytes, quorum: int = 1) -> dict[str, Any]:
    """A new mesh: its name, its first admins (public key and certificate, DER), 32 random bytes; see `admins`."""
    body: dict[str, Any] = {"name": name, "admins": [list(admin) for admin in admins], "random": random}
    return body if quorum == 1 else {**body, "quorum": quorum}


def grant_body(
    node: NodeId,
    name: str,
    roles: Iterable[str],
    zones: Iterable[str],
    expires_at: int,
    *,
    final: bool = False,
    was: str = "",
) -> dict[str, Any]:
    """A node is a member until `expires_at`; `final` when that is not put off, `was` its id before."""
    body = {"node": node, "name": name, "roles": sorted(roles), "zones": list(zones), "expires_at": expires_at}
    return body | ({"final": True} if final else {}) | ({"was": was} if was else {})


def revoke_node_body(node: NodeId, reason: str) -> dict[str, Any]:
    """A node is out, for good."""
    return {"node": node, "reason": reason}


def revoke_statement_body(statement: bytes) -> dict[str, Any]:
    """A statement no longer holds."""
    return {"statement": statement}


def flag_body(digest: str, reason: str) -> dict[str, Any]:
    """A model does harm: a member's report that it killed its worker, or an admin's word."""
    return {"digest": digest, "reason": reason[:REASON_CHARS_MAX]}


def is_node_id(value: object) -> bool:
    """Whether this is the text of a node id."""
    return isinstance(value, str) and _NODE.fullmatch(value) is not None


def _unsigned(fields: Mapping[str, Any]) -> bytes:
    return canonical({key: value for key, value in fields.items() if key != "sigs"})


def _unpack(data: bytes) -> dict[str, Any]:
    """The map, when these are the canonical bytes of one. Raises ProtocolError."""
    try:
        fields = msgpack.unpackb(
            data, strict_map_key=True, max_ext_len=0, max_map_len=4096, object_pairs_hook=_no_duplicates
        )
        if isinstance(fields, dict) and canonical(fields) == data:
            return fields
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a statement: {error}") from error
    raise ProtocolError("not a statement in its canonical form")


def _is_statement(fields: Mapping[str, Any]) -> bool:
    return (
        set(fields) == _FIELDS
        and fields["v"] == VERSION
        and type(fields["v"]) is int
        and isinstance(fields["mesh"], str)
        and isinstance(fields["kind"], str)
        and fields["kind"] in KINDS
        and isinstance(fields["body"], dict)
        and isinstance(fields["issuer"], bytes)
        and _is_time(fields["issued_at"])
        and isinstance(fields["nonce"], bytes)
        and len(fields["nonce"]) == NONCE_BYTES
        and isinstance(fields["sigs"], list)
        and 1 <= len(fields["sigs"]) <= SIGNATURES_MAX
        and all(_is_pair_of_bytes(pair) for pair in fields["sigs"])
    )


def _is_pair_of_bytes(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, bytes) for part in value)


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value <= TIME_MAX


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX and value.isprintable()


def _is_genesis(body: Mapping[str, Any]) -> bool:
    admins, random = body.get("admins"), body.get("random")
    return (
        _is_name(body.get("name"))
        and isinstance(admins, list)
        and 1 <= len(admins) <= SIGNATURES_MAX
        and all(_is_pair_of_bytes(pair) for pair in admins)
        and isinstance(random, bytes)
        and len(random) == 32
        and type(quorum := body.get("quorum", 1)) is int
        and 1 <= quorum <= len(admins)
    )


def _is_grant(body: Mapping[str, Any]) -> bool:
    return (
        is_node_id(body.get("node"))
        and _is_name(body.get("name"))
        and _is_time(body.get("expires_at"))
        and _are_roles(body.get("roles"))
        and _are_zones(body.get("zones"))
        and isinstance(body.get("final", False), bool)
        and (body.get("was", "") == "" or is_node_id(body["was"]))
    )


def _are_roles(roles: object) -> bool:
    return isinstance(roles, list) and len(roles) <= 16 and all(isinstance(role, str) for role in roles)


def _are_zones(zones: object) -> bool:
    return (
        isinstance(zones, list)
        and len(zones) <= ZONES_MAX
        and all(isinstance(zone, str) and 0 < len(zone) <= ZONE_CHARS_MAX for zone in zones)
    )


def _is_invite_key(body: Mapping[str, Any]) -> bool:
    uses, hardware = body.get("uses"), body.get("hardware")
    return (
        isinstance(body.get("key"), bytes)
        and isinstance(body.get("root"), bytes)
        and _is_time(body.get("expires_at"))
        and type(uses) is int
        and 1 <= uses <= USES_MAX
        and isinstance(hardware, list)
        and len(hardware) <= HARDWARE_MAX
        and all(isinstance(digest, bytes) and len(digest) == 32 for digest in hardware)
        and _are_roles(body.get("roles"))
        and _are_zones(body.get("zones"))
    )


def _is_invite_end(body: Mapping[str, Any]) -> bool:
    return _is_id(body.get("invite")) and _are_kept(body.get("kept"))


def _are_kept(kept: object) -> bool:
    return isinstance(kept, bytes) and len(kept) % KEPT_BYTES == 0


def _is_redeem(body: Mapping[str, Any]) -> bool:
    hardware = body.get("hardware")
    right = isinstance(hardware, bytes) and len(hardware) in (0, 32) and _is_time(body.get("at_ms"))
    return right and _is_id(body.get("invite")) and is_node_id(body.get("node")) and _is_name(body.get("name"))


def _is_id(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def _is_revoke(body: Mapping[str, Any]) -> bool:
    if "node" in body:
        reason = body.get("reason")
        return is_node_id(body["node"]) and _is_reason(reason) and "statement" not in body
    return isinstance(body.get("statement"), bytes) and len(body["statement"]) == 32


def _is_flag(body: Mapping[str, Any]) -> bool:
    digest = body.get("digest")
    return isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None and _is_reason(body.get("reason"))


def _is_reason(value: object) -> bool:
    return isinstance(value, str) and len(value) <= REASON_CHARS_MAX


_SHAPES: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "genesis": _is_genesis,
    "grant": _is_grant,
    "revoke": _is_revoke,
    "flag": _is_flag,
    "admin_add": lambda body: isinstance(body.get("key"), bytes) and isinstance(body.get("root"), bytes),
    "admin_remove": lambda body: isinstance(body.get("key"), bytes) and _are_kept(body.get("kept", b"")),
    "invite_key": _is_invite_key,
    "invite_end": _is_invite_end,
    "redeem": _is_redeem,
}
"""What a body must have. More keys than these are a newer version's, and are kept."""


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

"""Models that do harm: a node that saw one kill its worker says so, and two such nodes keep it from running anywhere.

The reports are statements of the trust set, so that they outlive restarts and reach machines that are away. Taking
them back, which an admin may, is a revocation of each. A node whose own report stands does not run the model, whatever
the others say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from meshnode.catalog.manifest import Manifest
from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, MeshError, ModelRefused
from meshnode.trust.form import flag_body, revoke_statement_body
from meshnode.trust.statements import Flag, Statement
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

CLEAR = "`meshnode model clear NAME`, on a machine that holds the admin key, lets it run again"


def unflagged(node: Node, manifest: Manifest) -> Manifest:
    """The same manifest. Raises ModelRefused when the mesh does not run the model."""
    flag = node.keeper.statements.flag(manifest.digest)
    if flag is not None and flag.holds:
        raise ModelRefused(f"{_name(manifest)} runs on no node of this mesh: {told(node, flag)}", hint=CLEAR)
    return manifest


def harmless(node: Node, manifest: Manifest) -> Manifest:
    """The same manifest. Raises ModelRefused when the mesh, or this node, does not run the model."""
    flag = node.keeper.statements.flag(unflagged(node, manifest).digest)
    if flag is not None and node.keeper.id in flag.reporters:
        raise ModelRefused(
            f"this node does not run {_name(manifest)}: {told(node, flag)}", hint=f"another node may; {CLEAR}"
        )
    return manifest


def checked(
    check: Callable[[Node, Manifest], Manifest], node: Callable[[], Node], find: Callable[[Any], Manifest]
) -> Callable[[Any], Manifest]:
    """What `find` finds, when `check` lets it pass."""
    return lambda wanted: check(node(), find(wanted))


def report(node: Node, digest: Digest, how: str) -> None:
    """This node saw the model kill its worker: tell the mesh, once, while the model is one of the mesh's."""
    flag = node.keeper.statements.flag(digest)
    if not node.catalog.knows(digest) or node.keeper.out is not None:
        return
    if flag is not None and (flag.holds or node.keeper.id in flag.reporters):
        return
    try:
        statement = node.keeper.say("flag", flag_body(digest, how))
    except MeshError as error:
        log.error("model %s killed its worker here, and the mesh cannot be told: %s", digest[:12], error)
        return
    node.trust.publish([statement.data])
    node.trust.learnt([statement])


def flag(node: Node, manifest: Manifest, reason: str) -> None:
    """No node is to run the model, from now on. Raises PermissionDenied without the admin key, HomeError."""
    statement = node.keeper.say("flag", flag_body(manifest.digest, reason), admin="flag a model")
    node.trust.publish([statement.data])
    node.trust.learnt([statement])


def clear(node: Node, manifest: Manifest) -> int:
    """Take back all reports about a model; how many. Raises InvalidInput without any, PermissionDenied, HomeError."""
    statements = node.keeper.statements
    flag = statements.flag(manifest.digest)
    if flag is None:
        raise InvalidInput(f"nobody reported {_name(manifest)}", hint="`meshnode model list` shows what is flagged")
    subjects = [it for id in flag.statements if (it := statements.get(id)) is not None]
    own = all(it.issuer == node.keeper.spki for it in subjects)
    admin = "" if own else "clear a model that another node reported"
    said = [node.keeper.say("revoke", revoke_statement_body(it.id), admin=admin) for it in subjects]
    node.trust.publish([it.data for it in said])
    node.trust.learnt(said)
    return len(said)


def heard(node: Node, statements: Iterable[Statement]) -> None:
    """Reports that are new here, or taken back: what nobody runs any more leaves the memory."""
    subjects = [it if it.kind == "flag" else _taken_back(node, it) for it in statements]
    for digest in {Digest(it.body["digest"]) for it in subjects if it is not None}:
        flag = node.keeper.statements.flag(digest)
        if flag is None:
            node.execution.pardon(digest)
            continue
        name = _name(node.catalog.of_digest(digest)) if node.catalog.knows(digest) else f"model {digest[:12]}"
        if flag.holds:
            log.warning("%s runs on no node of this mesh any more: %s", name, told(node, flag))
            node.execution.unload(digest)
        else:
            log.warning("%s is reported: %s", name, told(node, flag))


def told(node: Node, flag: Flag) -> str:
    """Who says what, in one line."""
    names = {grant.node: grant.name for grant in node.keeper.statements.members()}
    who = [f"{names[it]} ({it[:8]})" for it in flag.reporters] + ["an admin"] * flag.by_admin
    reasons = dict.fromkeys(_printable(it) for it in flag.reasons if it)
    return f"{'; '.join(reasons) or 'no reason given'} (says {' and '.join(who)})"


def document(node: Node, digest: Digest) -> dict[str, Any] | None:
    """What is reported about a model; None for nothing. `flagged` is whether no node runs it."""
    flag = node.keeper.statements.flag(digest)
    if flag is None:
        return None
    return {
        "flagged": flag.holds,
        "reporters": list(flag.reporters),
        "by_admin": flag.by_admin,
        "reasons": list(flag.reasons),
        "text": told(node, flag),
    }


def _taken_back(node: Node, statement: Statement) -> Statement | None:
    """The report that a revocation takes back."""
    subject = node.keeper.statements.get(statement.body.get("statement", b""))
    return subject if statement.kind == "revoke" and subject is not None and subject.kind == "flag" else None


def _printable(text: str) -> str:
    """Others' words, and a worker's last ones, on a terminal of ours."""
    return "".join(it if it.isprintable() else " " for it in text)


def _name(manifest: Manifest) -> str:
    return f"{manifest.name}:{manifest.version}"

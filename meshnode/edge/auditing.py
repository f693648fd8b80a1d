"""What goes into the audit record, and how: tasks, models, statements, and what this node's user asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from meshnode.audit.book import Book
from meshnode.errors import MeshError
from meshnode.execution.job import LoadedModel
from meshnode.tasks.outcomes import Ended, Served
from meshnode.trust.statements import Statement
from meshnode.wire.messages import Digest, NodeId

VERBS = frozenset(
    {
        "accept",
        "admin.add",
        "admin.export",
        "admin.forget",
        "admin.import",
        "admin.lock",
        "admin.remove",
        "admin.rotate",
        "admin.unlock",
        "blueprint.apply",
        "blueprint.remove",
        "blueprint.rollback",
        "drain",
        "invite",
        "join",
        "leave",
        "model.add",
        "model.clear",
        "model.flag",
        "model.load",
        "model.pin",
        "model.pull",
        "model.remove",
        "model.unload",
        "model.unpin",
        "pause",
        "policy.set",
        "publisher.add",
        "publisher.remove",
        "renew",
        "resume",
        "revoke",
        "rotate",
        "stop",
        "zone",
    }
)
"""Those that change something."""
SECRET = frozenset({"token", "text", "signature", "passphrase"})
"""Arguments that are not written down: who has the record must not be able to join with it."""
TOLD = ("name", "version", "revision", "node", "roles", "zones", "expires_at", "reason", "removed", "note")
"""What is told of a statement beside its kind, id and issuer."""


def served(book: Book, it: Served) -> None:
    """A task that ran here, or did not."""
    book.note(
        "task",
        task=it.task,
        submitter=it.submitter,
        model=it.model,
        zone=it.zone,
        outcome=it.outcome,
        bytes_in=it.input_bytes,
        bytes_out=it.output_bytes,
        ms=round(it.seconds * 1000, 3),
        run_ms=round(it.run_s * 1000, 3),
    )


def ended(book: Book, it: Ended) -> None:
    """A task that was submitted here, and who did it."""
    book.note(
        "submitted",
        task=it.task,
        model=it.model,
        zone=it.zone,
        node=it.node,
        outcome=it.outcome,
        attempts=it.attempts,
        bytes_in=it.input_bytes,
        ms=round(it.seconds * 1000, 3),
    )


def loads(
    book: Book, loaded: Callable[[], Iterable[LoadedModel]], then: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """What to call when the workers' models may be others: those that came and went are written down; `then` follows.

    They go with a worker that dies, too. `loaded` is what is there now.
    """
    before: set[tuple[Digest, str]] = set()

    def changed() -> None:
        nonlocal before
        now = {(it.digest, it.provider) for it in loaded()}
        for kind, which in (("unloaded", before - now), ("loaded", now - before)):
            for digest, provider in sorted(which):
                book.note(kind, model=digest, provider=provider)
        before = now
        then()

    return changed


def learnt(book: Book, statements: Iterable[Statement], id_of: Callable[[Statement], NodeId]) -> None:
    """Statements that hold from now on: joins, grants, revocations, models, blueprints, policy."""
    for it in statements:
        told = {key: it.body[key] for key in TOLD if key in it.body and _plain(it.body[key])}
        if isinstance(subject := it.body.get("statement"), bytes):
            told["statement"] = subject.hex()
        book.note(it.kind, id=it.id.hex(), issuer=id_of(it), **told)


def asked(book: Book, verb: str, args: Mapping[str, Any], outcome: str) -> None:
    """What a program of this node's user asked for."""
    if verb in VERBS:
        told = {key: value for key, value in args.items() if key not in SECRET and _plain(value)}
        book.note("asked", verb=verb, outcome=outcome, **({"args": told} if told else {}))


@contextmanager
def noted(book: Book, verb: str, args: Mapping[str, Any]) -> Iterator[None]:
    """What a program asked for by another door than the local one, and what became of it."""
    outcome = "cancelled"
    try:
        yield
        outcome = "ok"
    except MeshError as error:
        outcome = error.code
        raise
    finally:
        asked(book, verb, args, outcome)


def _plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str | int | float | bool)

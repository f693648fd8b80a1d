"""What goes into the audit record when models come and go."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.audit import book
from meshnode.audit.book import Book
from meshnode.edge import auditing
from meshnode.edge.auditing import loads
from meshnode.edge.local import VERBS
from meshnode.execution.job import LoadedModel
from meshnode.telling import Audit
from meshnode.trust.identity import public_der
from meshnode.wire.messages import Digest

LOOKS = {
    "status",
    "models",
    "model.show",
    "model.moved",
    "members",
    "invites",
    "ps",
    "ping",
    "speaks",
    "doctor",
    "events",
}
LOOKS |= {"version", "why", "work", "dashboard", "blueprint.list", "blueprint.show", "policy.show", "policy.check"}
LOOKS |= {"admin.list", "publisher.list", "note"}
"""Verbs of the local door that change nothing of the mesh, its models or this node: they are not written down."""
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_models_that_came_and_went_are_written_down_once(tmp_path: Path) -> None:
    """Each with the provider; a look that finds nothing new writes nothing, and what follows is always told."""
    record, there, told = Book(tmp_path, Audit(), public_der(KEY), KEY.sign), list[LoadedModel](), []
    record.start()
    look = loads(record, lambda: there, lambda: told.append(1))
    a, b = (LoadedModel(Digest(name * 64), 1, 0.0, 0, None, "CPUExecutionProvider") for name in "ab")
    for now in ([], [b, a], [a], [a], []):
        there[:] = now
        look()
    record.stop()
    lines = [json.loads(line) for line in book.lines(tmp_path)]
    assert [("loaded", "a"), ("loaded", "b"), ("unloaded", "b"), ("unloaded", "a")] == [
        (it["event"], it["model"][0]) for it in lines if it["event"] != "seal"
    ]
    assert {"CPUExecutionProvider"} == {it["provider"] for it in lines if it["event"] != "seal"}
    assert 5 == len(told)


def test_every_verb_is_written_down_or_only_looks() -> None:
    """Whoever adds one says which; the record has none that there is not."""
    assert set() == auditing.VERBS & LOOKS
    assert set() == VERBS.keys() - (auditing.VERBS | LOOKS), (
        "add it to auditing.VERBS if it changes something, else to LOOKS"
    )
    assert set() == (auditing.VERBS | LOOKS) - VERBS.keys()

"""What may leave the disk, as the mesh is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from meshnode.edge.carrying import may_go
from meshnode.wire.messages import Digest

MINE, THEIRS, LOADED, PINNED, UNKNOWN = (Digest(letter * 64) for letter in "abcde")


def node(*elsewhere: Digest, usable: bool = True, bound: Digest | None = None) -> Any:
    """A node that has all five models; another one has some of them, and lies in no zone, to which one may be bound."""
    advert = SimpleNamespace(models=[SimpleNamespace(digest=digest) for digest in elsewhere])
    return SimpleNamespace(
        keeper=SimpleNamespace(id="me", statements=SimpleNamespace(grant=lambda _: None)),
        execution=SimpleNamespace(loaded=lambda: [SimpleNamespace(digest=LOADED)]),
        fleet=SimpleNamespace(duties=SimpleNamespace(pinned=lambda: frozenset({PINNED}))),
        store=SimpleNamespace(digests=lambda: [MINE, THEIRS, LOADED, PINNED, UNKNOWN]),
        catalog=SimpleNamespace(
            knows=lambda digest: digest != UNKNOWN, bound=lambda digest: ("eu",) if digest == bound else ()
        ),
        membership=SimpleNamespace(
            view=lambda: [
                SimpleNamespace(id="me", usable=True, advert=advert),
                SimpleNamespace(id="other", usable=usable, advert=advert),
            ]
        ),
    )


def test_a_copy_may_go_when_another_node_has_one_and_nobody_needs_it_here() -> None:
    """Not the last one, not one in memory, not one that a blueprint wants here; what the mesh forgot always may."""
    assert {THEIRS, UNKNOWN} == may_go(node(THEIRS, LOADED, PINNED))


def test_a_copy_on_a_node_that_is_away_is_no_copy() -> None:
    """Who is down cannot give it back; one's own advert is no other copy."""
    assert {UNKNOWN} == may_go(node(THEIRS, LOADED, PINNED, usable=False))


def test_a_copy_outside_of_its_zone_is_no_copy() -> None:
    """Whoever says that it has what it may not have would not be asked for it."""
    assert {UNKNOWN} == may_go(node(THEIRS, LOADED, PINNED, bound=THEIRS))

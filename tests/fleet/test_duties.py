"""The duties of a node: taken soon, given up late, and declined when they cannot be done."""

from __future__ import annotations

from dataclasses import replace

from meshnode.fleet.blueprint import Blueprint, Want
from meshnode.fleet.duties import (
    CONFIRM_S,
    DECLINE_AFTER,
    DECLINED_S,
    RELEASE_S,
    RETRY_S,
    STEADY_S,
    Done,
    Duties,
    Effect,
    Failed,
    Look,
    Provide,
    Release,
)
from meshnode.fleet.placement import Site, seats
from meshnode.wire.messages import Digest, NodeId

DIGEST = Digest("a" * 64)
WANT = Want(model="digits", version=1, digest=DIGEST, replicas=1)
PLAN = Blueprint("stores", 1, (WANT,))
NODES = [Site(NodeId(name)) for name in ("a", "b", "c")]
FIRST = seats(WANT, NODES)[0]
LINE = seats(Want(model="digits", version=1, digest=DIGEST, replicas=0), NODES)


def look(it: Duties, now: float, sites: list[Site], plan: Blueprint | None = PLAN) -> list[Effect]:
    return it.handle(now, Look(() if plan is None else (plan,), tuple(sites)))


def having(sites: list[Site], *nodes: NodeId, loaded: bool = True) -> list[Site]:
    return [replace(site, holds={DIGEST: loaded}) if site.id in nodes else site for site in sites]


def without(*nodes: NodeId) -> list[Site]:
    return [replace(site, alive=site.id not in nodes) for site in NODES]


def test_the_first_in_line_provides_and_nobody_else() -> None:
    """Once it was so for a moment; and only once."""
    for site in NODES:
        it = Duties(site.id)
        assert [] == look(it, 0.0, NODES)
        due = [Provide(DIGEST, loaded=True)] if site.id == FIRST else []
        assert due == look(it, CONFIRM_S, NODES)
        assert [] == look(it, CONFIRM_S + 1, NODES)


def test_when_the_first_dies_the_next_takes_over_and_gives_up_late() -> None:
    """The one that came back has had it for a while before it is given up elsewhere."""
    it = Duties(LINE[1])
    dead = without(FIRST)
    look(it, 0.0, dead)
    assert [Provide(DIGEST, loaded=True)] == look(it, CONFIRM_S, dead)
    it.handle(1.0, Done(DIGEST))
    assert [] == look(it, 2.0, having(dead, LINE[1]))
    assert frozenset({DIGEST}) == it.pinned()

    back = having(NODES, LINE[1])  # the first is alive again, and has nothing yet
    for now in (3.0, 3.0 + 2 * RELEASE_S):
        assert [] == look(it, now, back)
    both = having(NODES, LINE[1], FIRST)
    began = 4.0 + 2 * RELEASE_S
    assert [] == look(it, began, both)
    assert it.next_deadline() is not None
    assert [] == look(it, began + RELEASE_S - 5.0, both)
    assert [Release(DIGEST)] == look(it, began + RELEASE_S, both)
    assert frozenset() == it.pinned()


def test_a_node_that_comes_and_goes_moves_nothing_more() -> None:
    """The second in line fetches once, however often the first dies."""
    it = Duties(LINE[1])
    effects: list[Effect] = []
    now = 0.0
    for _ in range(20):
        for sites in (without(FIRST), NODES):
            for _ in range(5):
                now += 1.0
                here = having(sites, LINE[1], FIRST) if it.known.get(DIGEST) and effects else sites
                new = look(it, now, here)
                effects += new
                for effect in new:
                    it.handle(now, Done(effect.digest))
    assert [Provide(DIGEST, loaded=True)] == effects


def test_what_fails_is_tried_again_and_then_declined() -> None:
    """Others hear that it is declined, and the next in line has it; after a while it is tried once more."""
    it = Duties(FIRST)
    look(it, 0.0, NODES)
    now = CONFIRM_S
    for attempt in range(DECLINE_AFTER):
        assert [Provide(DIGEST, loaded=True)] == look(it, now, NODES)
        it.handle(now, Failed(DIGEST, "the disk is full"))
        assert "the disk is full" == it.known[DIGEST].reason
        assert [] == look(it, now + 0.1, NODES)
        now = it.known[DIGEST].again_at
        assert attempt == DECLINE_AFTER - 1 or not it.declined
    assert {DIGEST} == set(it.declined)
    declining = [replace(site, declined=frozenset({DIGEST})) if site.id == FIRST else site for site in NODES]
    assert LINE[1] == seats(WANT, declining)[0]
    assert [Release(DIGEST)] == look(it, now, declining)
    assert {} == it.known
    later = now + DECLINED_S
    look(it, later, declining)
    assert {} == it.declined
    look(it, later, NODES)
    assert [Provide(DIGEST, loaded=True)] == look(it, later + CONFIRM_S, NODES)


def test_what_is_lost_is_had_again_and_what_is_lost_often_is_declined() -> None:
    """A model that is unloaded for others is not fought for."""
    it = Duties(FIRST)
    look(it, 0.0, NODES)
    look(it, CONFIRM_S, NODES)
    it.handle(1.0, Done(DIGEST))
    now = 1.0 + STEADY_S
    for _ in range(DECLINE_AFTER - 1):
        assert [] == look(it, now, having(NODES, FIRST, loaded=False))
        now = it.known[DIGEST].again_at
        assert [Provide(DIGEST, loaded=True)] == look(it, now, having(NODES, FIRST, loaded=False))
        it.handle(now, Done(DIGEST))
    assert {} == it.declined
    look(it, now, having(NODES, FIRST, loaded=False))
    assert {DIGEST} == set(it.declined)


def test_a_blueprint_that_is_gone_lets_go_at_once() -> None:
    """But not in the middle of a fetch, which has to end first."""
    it = Duties(FIRST)
    look(it, 0.0, NODES)
    look(it, CONFIRM_S, NODES)
    assert [] == look(it, 1.0, NODES, plan=None)
    it.handle(2.0, Done(DIGEST))
    assert [Release(DIGEST)] == look(it, 2.0, having(NODES, FIRST), plan=None)


def test_a_wish_for_memory_is_met_where_the_file_is_already() -> None:
    """Retries begin with the pause that is named."""
    it = Duties(FIRST)
    look(it, 0.0, NODES, Blueprint("stores", 1, (on_disk(WANT),)))
    assert [Provide(DIGEST, loaded=False)] == look(it, 1.0, NODES, Blueprint("stores", 1, (on_disk(WANT),)))
    it.handle(1.0, Done(DIGEST))
    here = having(NODES, FIRST, loaded=False)
    assert [] == look(it, 2.0, here, Blueprint("stores", 1, (on_disk(WANT),)))
    look(it, 3.0, here)
    assert [Provide(DIGEST, loaded=True)] == look(it, 3.0 + CONFIRM_S, here)
    it.handle(4.0, Failed(DIGEST, "no memory"))
    assert 4.0 + RETRY_S == it.known[DIGEST].again_at


def on_disk(want: Want) -> Want:
    return Want(model=want.model, version=want.version, digest=want.digest, replicas=want.replicas, loaded=False)

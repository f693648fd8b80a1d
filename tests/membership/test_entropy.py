"""Anti-entropy: whatever two tables hold, one exchange makes them hold the same, for few bytes when they do already."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import ProtocolError
from meshnode.membership import entropy
from meshnode.membership.entropy import Told
from meshnode.membership.roster import Roster
from meshnode.membership.updates import AnyUpdate
from meshnode.sim.node import id_text, verify
from meshnode.wire.messages import NodeId
from tests.membership.around import alive, dead, left, node

NAMES = [f"n{i}" for i in range(40)]


def age(node: NodeId) -> float:
    return 3.0


def table(news: list[AnyUpdate]) -> Roster:
    it = Roster(verify, id_text)
    learn(it, [alive("accuser"), *news])
    return it


def learn(it: Roster, news: list[AnyUpdate]) -> None:
    for update in news:
        row = it.newer(update)
        if row is not None:
            it.put(row)


def updates_of(draws: list[tuple[str, str, int, int]]) -> list[AnyUpdate]:
    made: list[AnyUpdate] = []
    for kind, name, gen, inc in draws:
        made.append(alive(name, gen, inc))
        if kind == "left":
            made.append(left(name, gen, inc))
        if kind == "dead":
            made.append(dead(name, "accuser", gen, inc))
    return made


DRAWS = st.lists(
    st.tuples(st.sampled_from(["alive", "left", "dead"]), st.sampled_from(NAMES), st.integers(1, 3), st.integers(0, 2)),
    max_size=60,
)


def exchange(a: Roster, b: Roster) -> tuple[list[Told], list[Told]]:
    """What each side is told, with everything encoded and decoded on the way."""
    rows = entropy.decode_rows(entropy.encode(entropy.rows(a, entropy.digest(b))))
    to_a = entropy.decode_news(entropy.encode(entropy.answer(b, rows, age)))
    to_b = entropy.decode_news(entropy.encode(entropy.wanted(a, to_a.wanted, age)))
    return list(to_a.told), list(to_b.told)


@given(DRAWS, DRAWS)
def test_one_exchange_makes_any_two_tables_the_same(
    ours: list[tuple[str, str, int, int]], theirs: list[tuple[str, str, int, int]]
) -> None:
    """The same root, the same rows, whatever each held before; and then there is nothing left to tell."""
    a, b = table(updates_of(ours)), table(updates_of(theirs))
    to_a, to_b = exchange(a, b)
    learn(a, [told.update for told in to_a])
    learn(b, [told.update for told in to_b])
    assert a.root == b.root
    assert {(r.id, r.version, r.state) for r in a} == {(r.id, r.version, r.state) for r in b}
    assert ([], []) == exchange(a, b)


@given(DRAWS)
def test_the_hash_follows_from_the_rows_and_not_from_their_history(draws: list[tuple[str, str, int, int]]) -> None:
    """A table that was filled from another in any order has the same root."""
    a = table(updates_of(draws))
    b = Roster(verify, id_text)
    for row in sorted(a, key=lambda row: row.id, reverse=True):
        b.put(row)
    assert (a.root, a.buckets, a.living) == (b.root, b.buckets, b.living)
    for row in list(b):
        b.forget(row.id)
    assert (0, [0] * 256, 0) == (b.root, b.buckets, b.living)


def test_only_what_the_other_lacks_is_told() -> None:
    """One row among a thousand that differs costs a digest and the rows of its bucket, not a thousand rows."""
    everyone = [alive(f"m{i}") for i in range(1000)]
    a, b = table(everyone), table([*everyone, alive("new")])
    rows = entropy.rows(a, entropy.digest(b))
    assert len(entropy.encode(rows)) < 2048
    assert [node("new")] == [a.subject(told.update) for told in entropy.answer(b, rows, age).told]


def test_an_old_tombstone_is_kept_and_not_handed_on() -> None:
    """It is no part of what is compared, so it dies out; and nobody who holds it is given an older word."""
    a, b = table(updates_of([("dead", "n1", 1, 0)])), table([])
    a.age(node("n1"))
    assert a.root == b.root
    assert ([], []) == exchange(a, b)
    learn(b, [alive("n1", 1, 0)])
    to_a, _ = exchange(a, b)
    learn(a, [told.update for told in to_a])
    row = a.get(node("n1"))
    assert row is not None
    assert "dead" == row.state, "the same version does not come back to life"


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but ProtocolError leaves the decoders."""
    for decode in (entropy.decode_rows, entropy.decode_news):
        with suppress(ProtocolError):
            decode(data)
    with suppress(ProtocolError):
        entropy.rows(table([]), data)

"""Which news about a node wins: whatever the order in which they come, the same row stands at the end."""

from __future__ import annotations

import hashlib
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.membership import updates
from meshnode.membership.roster import Roster, raw_id
from meshnode.membership.updates import AnyUpdate
from meshnode.sim.node import id_text, sign_with, verify

SUBJECT, ACCUSER = hashlib.sha256(b"subject").digest(), hashlib.sha256(b"accuser").digest()


def make(kind: str, gen: int, inc: int) -> AnyUpdate:
    if kind == "alive":
        return updates.alive(sign_with(SUBJECT), SUBJECT, gen, inc, 0)
    if kind == "left":
        return updates.left(sign_with(SUBJECT), SUBJECT, gen, inc, "stop")
    accuse = updates.suspect if kind == "suspect" else updates.dead
    return accuse(sign_with(ACCUSER), raw_id(SUBJECT), gen, inc, raw_id(ACCUSER))


def roster() -> Roster:
    it = Roster(verify, id_text)
    row = it.newer(updates.alive(sign_with(ACCUSER), ACCUSER, 1, 0, 0))
    assert row is not None
    it.put(row)
    return it


def learn(it: Roster, news: list[AnyUpdate]) -> None:
    for update in news:
        row = it.newer(update)
        if row is not None:
            it.put(row)


news = st.builds(
    make, st.sampled_from(["alive", "alive", "suspect", "dead", "left"]), st.integers(1, 2), st.integers(0, 2)
)


@given(st.lists(news, min_size=1, max_size=8))
def test_a_version_never_goes_back(heard: list[AnyUpdate]) -> None:
    """Whatever is heard, (gen, inc) only grows, and hearing it all again changes nothing."""
    it = roster()
    node = id_text(raw_id(SUBJECT))
    last = (0, 0)
    for update in heard:
        learn(it, [update])
        row = it.get(node)
        if row is not None:
            assert row.version >= last
            last = row.version
    before = it.get(node)
    if before is not None and before.state in ("dead", "left"):
        learn(it, [update for update in heard if (update.gen, update.inc) <= before.version])
        assert before == it.get(node)


def test_order_does_not_matter_for_one_version() -> None:
    """Alive, suspect, dead and left of one version end as left, however they arrive, once the subject is known."""
    words = [make(kind, 1, 0) for kind in ("suspect", "dead", "left")]
    for order in permutations(words):
        it = roster()
        learn(it, [make("alive", 1, 0), *order])
        row = it.get(id_text(raw_id(SUBJECT)))
        assert row is not None
        assert "left" == row.state


def test_only_the_subject_raises_its_version() -> None:
    """A forged word, an accusation of a version that was never signed, and an unknown accuser change nothing."""
    it = roster()
    learn(it, [make("alive", 1, 0)])
    forged = updates.alive(sign_with(ACCUSER), SUBJECT, 9, 9, 0)
    stranger = hashlib.sha256(b"stranger").digest()
    unknown = updates.dead(sign_with(stranger), raw_id(SUBJECT), 1, 0, raw_id(stranger))
    in_anothers_name = updates.dead(sign_with(stranger), raw_id(SUBJECT), 1, 0, raw_id(ACCUSER))

    for update in (forged, make("dead", 2**32 - 1, 5), unknown, in_anothers_name):
        assert it.newer(update) is None


def test_a_refutation_brings_it_back() -> None:
    """The next incarnation wins over a death, and stale news does not undo it."""
    it = roster()
    learn(it, [make("alive", 1, 0), make("dead", 1, 0), make("alive", 1, 1), make("dead", 1, 0)])
    row = it.get(id_text(raw_id(SUBJECT)))
    assert row is not None
    assert ("alive", (1, 1)) == (row.state, row.version)

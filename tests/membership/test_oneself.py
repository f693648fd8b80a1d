"""What a node answers to what is said about it: refutation, its own past, and a copy of its home that runs too."""

from __future__ import annotations

from meshnode.membership.oneself import Oneself
from meshnode.sim.node import sign_with
from tests.membership.around import alive, dead, key, left, suspect


def start(gen: int, born: int) -> Oneself:
    return Oneself(key("me"), gen, born, sign_with(key("me")))


def test_accusations_of_this_start_are_refuted_and_older_ones_are_not_worth_it() -> None:
    """The next incarnation for the present start; for an older one the present word is enough."""
    me = start(5, 100)
    assert "refute" == me.heard(suspect("me", "a", 5, 0))
    assert (5, 1) == me.version
    assert "repeat" == me.heard(dead("me", "a", 4, 9))
    assert "nothing" == me.heard(me.word)


def test_a_restored_backup_jumps_above_its_past_once() -> None:
    """A higher start counter of before the backup is outdone, and that is the end of it."""
    me = start(3, 500)
    assert "jump" == me.heard(alive("me", 7, 2, born=400))
    assert (8, 0) == me.version
    assert "repeat" == me.heard(alive("me", 7, 2, born=400))
    assert 0 == me.twin


def test_two_copies_that_run_find_each_other_out_and_one_yields() -> None:
    """Whatever the start counters are: both come to know, the elder keeps the id, and they stop."""
    for elder_gen, younger_gen in ((5, 6), (6, 5), (5, 5)):
        elder, younger = start(elder_gen, 100), start(younger_gen, 200)
        for _ in range(10):
            if younger.yielded:
                break
            for me, other in ((elder, younger), (younger, elder)):
                if not me.yielded:
                    other.heard(me.word)
        assert younger.yielded
        assert not elder.yielded
        assert (200, 100) == (elder.twin, younger.twin)
        before = elder.version
        younger.heard(elder.word)
        elder.heard(younger.word)
        assert before == elder.version, "they do not go on outdoing each other"


def test_the_younger_returns_when_the_elder_has_left() -> None:
    """A yielded start takes the id again once its holder said goodbye."""
    me = start(5, 200)
    me.twin, me.yielded = 100, True
    assert "nothing" == me.heard(alive("me", 9, 0, born=100, twin=200))
    assert "jump" == me.heard(left("me", 9, 0))
    assert not me.yielded
    assert (10, 0) == me.version


def test_a_node_that_says_goodbye_takes_nothing_back() -> None:
    """Neither an accusation nor its own goodbye, coming back, makes it alive again."""
    me = start(5, 100)
    goodbye = me.leave("stop")
    for said in (goodbye, suspect("me", "a", 5, 0), alive("me", 9, 0, born=50)):
        assert "nothing" == me.heard(said)
    assert (5, 0) == me.version

"""Models that keep killing the worker are left alone for a while."""

from __future__ import annotations

import pytest

from meshnode.errors import ModelRefused
from meshnode.execution.quarantine import REST_S, WINDOW_S, Quarantine
from meshnode.wire.messages import Digest

BAD, GOOD = Digest("b" * 64), Digest("0" * 64)


def test_three_different_inputs_and_it_rests() -> None:
    """The third death refuses the model, with how long and how it died; others run on."""
    it = Quarantine()
    assert [False, False, True] == [it.crashed(10.0 * i, BAD, bytes([i]), "signal 8 (SIGFPE)") for i in range(3)]
    it.check(21.0, GOOD)
    with pytest.raises(ModelRefused, match=r"another 599 s: .*SIGFPE") as caught:
        it.check(21.0, BAD)
    assert REST_S - 1 == caught.value.retry_after_s
    assert caught.value.hint


def test_one_input_tried_again_condemns_nobody() -> None:
    """The same input counts once."""
    it = Quarantine()
    assert not any(it.crashed(float(i), BAD, b"same", "x") for i in range(10))
    it.check(10.0, BAD)


def test_old_deaths_do_not_count() -> None:
    """Only those of the last ten minutes."""
    it = Quarantine()
    assert not any(it.crashed(i * WINDOW_S / 2, BAD, bytes([i]), "x") for i in range(9))


def test_the_rest_ends_and_all_is_forgotten() -> None:
    """Afterwards it takes three deaths again."""
    it = Quarantine()
    for i in range(3):
        it.crashed(0.0, BAD, bytes([i]), "x")
    it.check(REST_S, BAD)
    assert 0.0 == it.rests_s(REST_S, BAD)
    assert not it.crashed(REST_S, BAD, b"new", "x")


def test_what_does_not_load_rests_at_once_and_may_be_pardoned() -> None:
    """One death is enough where only the model can be to blame; who clears it lets it run again."""
    it = Quarantine()
    it.condemn(0.0, BAD, "it ended the process that loaded it: signal 8 (SIGFPE)")
    with pytest.raises(ModelRefused, match="ended the process"):
        it.check(1.0, BAD)
    it.pardon(BAD)
    it.check(1.0, BAD)
    assert 0.0 == it.rests_s(1.0, BAD)

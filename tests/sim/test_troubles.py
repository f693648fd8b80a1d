"""Networks that lie for long, in the simulator: nobody stays dead who can be reached."""

from __future__ import annotations

import pytest

from meshnode.config import LAN
from meshnode.membership.rules import SWIM
from meshnode.membership.suspicion import shortest_s
from meshnode.sim import troubles

NODES = 20
SUSPICION_S = shortest_s(LAN.membership, NODES)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_each_of_many_splits_all_are_alive_again(seed: int) -> None:
    """Both sides took each other for dead, and neither does so for longer than a suspicion lasts once they can talk."""
    found, slowest = troubles.splits(NODES, seed, times=4)
    assert found.deaths > 0
    assert found.longest_s < SUSPICION_S
    assert slowest < SUSPICION_S


@pytest.mark.parametrize("seed", [1, 2])
def test_pairs_that_hear_nothing_one_way_kill_nobody(seed: int) -> None:
    """A fifth of all directed pairs is deaf: there are suspicions, and through others everyone refutes."""
    found = troubles.one_way(NODES, seed, seconds=120.0)
    assert found.suspicions > 0
    assert 0 == found.deaths


def test_a_link_that_flaps_kills_nobody_and_would_under_plain_swim() -> None:
    """Up and down every 0.3 to 3 s: suspected again and again, dead for nobody; the papers' SWIM says otherwise."""
    found = troubles.flapping(NODES, 1, seconds=120.0)
    assert found.suspicions > 0
    assert 0 == found.deaths
    assert 0 < troubles.flapping(NODES, 1, seconds=120.0, rules=SWIM).deaths

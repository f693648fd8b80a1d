"""Networks that lie for long, in the simulator: nobody stays dead who can be reached."""

from __future__ import annotations

import statistics

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


@pytest.mark.parametrize(("down_s", "up_s"), [(1.0, 1.0), (2.0, 5.0)])
def test_who_comes_and_goes_costs_little_and_harms_nobody_else(down_s: float, up_s: float) -> None:
    """Each turn is some kilobytes for each node, however fast they come: no damping is needed."""
    found, per_s, _ = troubles.returns(NODES, 1, down_s=down_s, up_s=up_s, seconds=60.0)
    assert (0, 0) == (found.deaths, found.suspicions), "of the others"
    assert per_s < 4000


@pytest.mark.parametrize("nodes", [20, 100])
def test_who_lost_its_peers_file_is_found_by_the_others(nodes: int) -> None:
    """It is dead for all, knows nobody and hears of nobody; a verdict never forbids a dial. One of the others tries
    about every 30 s, whatever their number."""
    took_s = [troubles.found_by_others(nodes, seed) for seed in range(8)]
    assert statistics.mean(took_s) < 75.0

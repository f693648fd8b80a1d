"""Members who lie about everybody, in the simulator: the honest go on believing each other."""

from __future__ import annotations

import pytest

from meshnode.config import LAN
from meshnode.membership.rules import OURS
from meshnode.membership.suspicion import shortest_s
from meshnode.sim import experiments, hostile


@pytest.mark.parametrize(("liars", "seed"), [(1, 1), (1, 2), (3, 1)])
def test_liars_kill_nobody_and_would_without_the_rule(liars: int, seed: int) -> None:
    """Each version of everybody is accused at once, as suspect and as dead, five times a second: nobody is dead for
    anyone for a moment. When the deaths that others declare are believed, the same lies kill."""
    found = hostile.flood(12, liars, seed, seconds=15.0)
    assert found.lies > 5_000
    assert found.suspicions > 0
    assert 0 == found.deaths
    assert found.alive > 0.95
    assert found.refutations < 5.0
    assert hostile.flood(12, liars, seed, seconds=15.0, rules=experiments.without("own_verdict")).deaths > 0


def test_one_liar_does_not_make_the_others_doubt_themselves() -> None:
    """A node that doubts itself probes up to eight times more slowly: one member's word is one opinion."""
    assert hostile.flood(12, 1, 1, seconds=15.0).health <= 2
    assert 7 == hostile.flood(12, 1, 1, seconds=15.0, rules=experiments.without("paced")).health


def test_a_real_crash_is_still_found_among_the_lies() -> None:
    """Within the longest that a suspicion could last in a mesh without lies, and a probe round."""
    longest_s = shortest_s(LAN.membership, 12) * LAN.membership.suspicion_max_mult + 12
    assert hostile.crash_in_a_flood(12, 1, 1, rules=OURS) < longest_s

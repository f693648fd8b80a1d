"""A batch token in a split mesh: each half lets one machine in by the last use, and after the heal all agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meshnode.trust import invites
from meshnode.trust.invites import BatchToken
from tests.mesh.rig import Agent, wait_for
from tests.rig.net import net, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")


def test_both_halves_let_one_in_by_the_last_use_and_agree_who_was_second(tmp_path: Path) -> None:
    """The token names no address: both find a member of their half by multicast. One half has no admin."""
    with net(tmp_path, [[0]] * 4) as it:
        founder, member = it.mesh([0, 1])
        said = invites.parse(founder.command("invite", "--uses", "1").stdout.strip(), now=0)
        assert isinstance(said, BatchToken)
        assert "10.77.0" in str(said.hints), "it names members"
        token = invites.mint_batch(replace(said, hints=()))
        wait_for(lambda: member.json("invite", "--list"), within_s=30, why="the member knows the token")
        it.cut([0, 2], [1, 3])
        left, right = it.up(2, token), it.up(3, token)
        assert (None, None) == (left.ready["quarantine"], right.ready["quarantine"])

        it.heal()
        agents = (founder, member, left, right)
        doubts = [wait_for(lambda agent=agent: _waiting(agent), within_s=60, why="one waits") for agent in agents]  # type: ignore[misc]
        assert doubts[:1] * 4 == doubts
        (second,) = doubts[0]
        assert second in (left.id, right.id)


def _waiting(agent: Agent) -> list[str] | None:
    """Who is in quarantine, once the agent knows all four."""
    rows = agent.json("members")
    return [row["id"] for row in rows if row["quarantine"]] if len(rows) == 4 else None

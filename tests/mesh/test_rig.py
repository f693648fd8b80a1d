"""Real agents on hosts of their own, behind a switch that loses, cuts and delays: discovery and membership.

Figures are printed (`pytest -s`); what is asserted is that it happens at all, in generous time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.mesh.rig import Agent, wait_for
from tests.rig.net import Net, all_alive, net, unavailable, until_all_alive
from tests.rig.wires import ANY

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")
HOSTS = 8


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Net, list[Agent]]]:
    """Eight hosts on one subnet that know each other from before, and have forgotten where the others are."""
    with net(tmp_path_factory.mktemp("town"), [[0]] * HOSTS) as it:
        for agent in it.mesh(range(HOSTS)):
            agent.terminate()
            (agent.home / "peers").unlink(missing_ok=True)
        it.rig.agents.clear()
        agents = [it.up(host) for host in range(HOSTS)]
        began = time.monotonic()
        until_all_alive(agents, 60, "all eight find each other by multicast alone")
        print(f"\n{HOSTS} agents: full mutual view {time.monotonic() - began:.1f} s after the last was ready")
        yield it, agents


@pytest.fixture(autouse=True)
def whole(town: tuple[Net, list[Agent]]) -> Iterator[None]:
    """Each test begins and ends with whole wires and everyone alive."""
    yield
    town[0].heal()
    until_all_alive(town[1], 120, "everyone is there again")


def states_of(agents: list[Agent], other: Agent) -> set[str]:
    return {agent.states()[other.id] for agent in agents if agent is not other}


def test_all_found_each_other_by_multicast(town: tuple[Net, list[Agent]]) -> None:
    """With no seed, no token and no memory; somebody says how."""
    assert all_alive(town[1])
    found = {node["found_by"] for agent in town[1] for node in agent.status()["nodes"] if not node["self"]}
    assert "mdns" in found


def test_heavy_loss_kills_nobody(town: tuple[Net, list[Agent]]) -> None:
    """30 % of all frames lost in every direction, with delay, duplicates and disorder, for 15 s."""
    it, agents = town
    it.set(ANY, ANY, loss=0.3, delay=0.005, jitter=0.005, duplicate=0.05, reorder=0.05)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        assert "dead" not in {state for agent in agents[:3] for state in agent.states().values()}


def test_a_one_way_cut_kills_nobody(town: tuple[Net, list[Agent]]) -> None:
    """Nothing passes from one host to another, for 15 s; everything else does, and both stay alive for all."""
    it, agents = town
    it.set(1, 2, cut=True)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        assert "dead" not in {agent.states()[other.id] for agent in agents for other in agents[1:3]}


def test_a_split_heals(town: tuple[Net, list[Agent]]) -> None:
    """Four and four hold each other for dead; when the wire is whole there is one view again."""
    it, agents = town
    it.cut(range(4), range(4, HOSTS))
    wait_for(lambda: {"dead"} == states_of(agents[:4], agents[6]), within_s=90, why="the far half is dead")
    wait_for(lambda: {"dead"} == states_of(agents[4:], agents[1]), within_s=90, why="and from the other side")
    it.heal()
    began = time.monotonic()
    until_all_alive(agents, 120, "one view again")
    print(f"\n4|4 split healed: one view {time.monotonic() - began:.1f} s after the wire")


def test_a_frozen_agent_is_missed_and_comes_back_by_itself(town: tuple[Net, list[Agent]]) -> None:
    """SIGSTOP until it is dead for the others; after SIGCONT it is alive again, and took nobody for dead."""
    _, agents = town
    frozen = agents[5]
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        others = [agent for agent in agents if agent is not frozen]
        wait_for(lambda: {"dead"} == states_of(others, frozen), within_s=60, why="it is dead for the others")
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    wait_for(lambda: {"alive"} == states_of(others, frozen), within_s=60, why="it is alive for the others")
    print(f"\nfrozen agent: alive for all {time.monotonic() - began:.1f} s after it went on")
    assert "dead" not in set(frozen.states().values())


def test_a_killed_agent_is_dead_for_all_and_returns(town: tuple[Net, list[Agent]]) -> None:
    """SIGKILL; then it is started again, without a token."""
    it, agents = town
    agents[7].kill()
    began = time.monotonic()
    wait_for(lambda: {"dead"} == states_of(agents[:7], agents[7]), within_s=60, why="it is dead for all")
    print(f"\nkill -9: dead for all after {time.monotonic() - began:.1f} s")
    agents[7] = it.up(7)
    began = time.monotonic()
    wait_for(lambda: {"alive"} == states_of(agents[:7], agents[7]), within_s=60, why="it is back")
    print(f"restarted: alive for all {time.monotonic() - began:.1f} s after it was ready")

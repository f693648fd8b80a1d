"""Real agents, real faults of the network: the doctor names each, with its fix."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mesh.rig import COMMAND, Agent, wait_for
from tests.rig.net import Net, net, unavailable, until_all_alive
from tests.rig.wires import ANY

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")
WHOLE_S = 10.0
"""What a person is made to wait, and the start of the command."""


def rows_of(agent: Agent, *words: str) -> dict[str, dict[str, Any]]:
    """The findings by check; never a fault without a fix, and in time."""
    began = time.monotonic()
    rows = json.loads(agent.command("--json", "doctor", *words, check=None).stdout)
    assert time.monotonic() - began < WHOLE_S + 3
    assert [] == [row for row in rows if row["ok"] is False and not row["fix"]]
    return {row["check"]: row for row in rows}


def at_once(*asked: tuple[Any, ...]) -> list[dict[str, dict[str, Any]]]:
    """Several findings at a time."""
    with ThreadPoolExecutor() as threads:
        return [*threads.map(lambda one: rows_of(*one), asked)]


def faults(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What is wrong: check to detail."""
    return {check: row["detail"] for check, row in rows.items() if row["ok"] is False}


def path(agent: Agent, name: str) -> str:
    """Which way an agent reaches another."""
    return next(str(node["path"]) for node in agent.status()["nodes"] if node["name"] == name)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Net, list[Agent]]]:
    """Three neighbours."""
    with net(tmp_path_factory.mktemp("town"), [[0]] * 3) as it:
        agents = it.mesh(range(3))
        until_all_alive(agents, 60, "all three see each other")
        yield it, agents


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test on the town ends with whole wires."""
    yield
    if "town" in request.fixturenames:
        it, agents = request.getfixturevalue("town")
        it.heal()
        until_all_alive(agents, 60, "everyone is there again")


def test_nothing_is_wrong(town: tuple[Net, list[Agent]]) -> None:
    """All steps work, both ways, and nothing is made up."""
    _, (first, _, _) = town

    def well() -> bool:
        return not faults(rows_of(first)) and not faults(rows_of(first, "--peer", "h1"))

    wait_for(well, within_s=30, why="a whole mesh has no fault")
    rows = rows_of(first)
    assert {True} == {rows[check]["ok"] for check in ("clock", "multicast", "inbound", "peer h1", "peer h2")}
    rows = rows_of(first, "--peer", "h1")
    assert {True} == {row["ok"] for row in rows.values()}
    assert {"found", "tcp 10.77.0.2", "link", "udp", "mtu", "back", "clock", "multicast"} <= rows.keys()


def test_multicast_one_way(town: tuple[Net, list[Agent]]) -> None:
    """Both ends of the direction that is blocked name it."""
    it, (first, second, _) = town
    it.set(0, ANY, no_multicast=True)
    wait_for(lambda: "multicast" in faults(rows_of(first)), within_s=30, why="the sender finds it")
    row = rows_of(first)["multicast"]
    assert "blocked one way: what this machine sends does not arrive at" in row["detail"]
    assert "UDP port 5353 out here" in row["fix"]
    assert "--seed" in row["fix"]
    row = rows_of(second, "--peer", "h0")["multicast"]
    assert (False, True) == (row["ok"], "blocked one way" in row["detail"])
    assert "in here and out at h0" in row["fix"]


def test_datagrams_blocked(town: tuple[Net, list[Agent]]) -> None:
    """TCP passes and UDP does not: the port, the machine and the direction are named."""
    it, (first, _, _) = town
    it.set(0, 1, no_udp=True)
    wait_for(lambda: "udp" in faults(rows_of(first, "--peer", "h1")), within_s=30, why="it is found")
    row = rows_of(first, "--peer", "h1")["udp"]
    assert "TCP passes, UDP does not: ours do not arrive at h1" == row["detail"]
    assert "allow UDP port 7433 in at h1" in row["fix"]
    it.heal()
    it.set(1, 0, no_udp=True)

    def other_way() -> bool:
        return "its answers do not come back" in faults(rows_of(first, "--peer", "h1")).get("udp", "")

    wait_for(other_way, within_s=30, why="the other direction is told apart")


def test_a_port_that_a_firewall_drops(town: tuple[Net, list[Agent]]) -> None:
    """Links stand, for this machine dialled them; that nobody could dial it is found from both ends."""
    it, (first, second, _) = town
    it.set(ANY, 0, no_dial=True)
    whole, there, here = at_once((first,), (second, "--peer", "h0"), (first, "--peer", "h2"))
    assert (False, True) == (whole["inbound"]["ok"], "nobody can dial this node" in whole["inbound"]["detail"])
    assert "in this machine's firewall" in whole["inbound"]["fix"]
    assert "a firewall drops it" in there["tcp 10.77.0.1"]["detail"]
    assert "sudo ufw allow 7433" in there["tcp 10.77.0.1"]["fix"]
    assert "h2 cannot dial this node" in faults(here)["back"]
    assert "in this machine's firewall, let TCP and UDP port 7433 in" in here["back"]["fix"]


def test_full_size_packets_vanish(town: tuple[Net, list[Agent]]) -> None:
    """An MTU black hole, in either direction: the size that passes is measured and stands in the fix."""
    it, (first, second, _) = town
    it.set(0, 1, mtu=1280)
    whole, here, there = at_once((first,), (first, "--peer", "h1"), (second, "--peer", "h0"))
    row = here["mtu"]
    assert "MTU black hole: small packets from this machine" in row["detail"]
    assert "packets of 1280 bytes pass" in row["detail"]
    assert "sudo ip link set dev eth0 mtu 1280" in row["fix"]
    row = there["mtu"]
    assert "MTU black hole: small packets from h0" in row["detail"]
    assert "on h0: `sudo ip link set" in row["fix"]
    assert {"mtu"} == faults(there).keys()
    assert "MTU black hole" in whole["peer h1"]["detail"]


def test_an_agent_that_does_not_run(town: tuple[Net, list[Agent]]) -> None:
    """The machine refuses: the port is closed, and the command that opens it is named."""
    it, agents = town
    agents[2].kill()
    wait_for(lambda: "dead" == agents[0].states()[agents[2].id], within_s=60, why="it is dead")
    rows = rows_of(agents[0], "--peer", "h2")
    assert "10.77.0.3 port 7433 is closed" in rows["tcp 10.77.0.3"]["detail"]
    assert "`meshnode up` on h2" in rows["tcp 10.77.0.3"]["fix"]
    assert "peer h2" in faults(rows_of(agents[0]))
    agents[2] = it.up(2)


def test_other_families_isolation_wrong_clocks_and_full_disks(tmp_path: Path) -> None:
    """h0 has only IPv4 and h1 only IPv6; the clock of h3 is an hour late, and its home on a disk that fills up. An
    access point keeps h0 and h3 apart; both reach h2. In the end h0 reaches nobody."""
    late = [sys.executable, str(Path(__file__).parent / "skewed.py"), "-3600"]
    home = tmp_path / "h3"
    home.mkdir()
    with net(tmp_path, [[0]] * 4) as it:
        it.ip(0, "-6", "addr", "flush", "dev", "eth0")
        it.ip(1, "-4", "addr", "flush", "dev", "eth0")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(home)], check=True)
        try:
            dual = {"listen": "[::]:7433", "mdns": True}
            hub = it.rig.start("h2", command=it.inside(2, *COMMAND), **dual)
            four = it.up(0, hub.command("invite").stdout.strip())
            six = it.rig.start("h1", hub.command("invite").stdout.strip(), command=it.inside(1, *COMMAND), **dual)
            token = hub.command("invite").stdout.strip()
            slow = it.rig.start("h3", token, command=it.inside(3, *late), **dual)
            until_all_alive([hub, four, six, slow], 60, "all four see each other")
            it.cut([0], [3])

            whole, one = at_once((four,), (four, "--peer", "h1"))
            assert "h3: on the same network (eth0) and alive for others" in whole["isolation"]["detail"]
            row = one["found"]
            assert "it has IPv6 only (fd77::2 port 7433), and this machine has IPv4 only" in row["detail"]
            assert "give this machine an IPv6 address, or h1 an IPv4 one" in row["fix"]

            with (home / "fill").open("wb") as fill, suppress(OSError):
                while True:
                    fill.write(bytes(1 << 20))
                    fill.flush()
            from_slow, from_hub, one = at_once((slow,), (hub,), (hub, "--peer", "h3"))
            row = from_slow["clock"]
            assert re.search(r"(3 of 3|2 of 2) peers differ", row["detail"]), row
            assert "set the clock of this machine: `sudo timedatectl set-ntp true`" in row["fix"]
            assert "set the clock of h3" in from_hub["clock"]["fix"]
            assert (False, True) == (one["clock"]["ok"], "behind this one's" in one["clock"]["detail"])
            row = from_slow["disk"]
            assert "nothing can be written: No space left on device" in row["detail"]
            assert f"make room at {home}" in row["fix"]

            wait_for(
                lambda: "relay via h2" == path(four, "h3"), within_s=60, why="they talk through the one in between"
            )
            whole, one = at_once((four,), (four, "--peer", "h3"))
            assert "client isolation" in whole["isolation"]["detail"]
            assert "relay via h2" in whole["isolation"]["detail"]
            assert "switch off client isolation in the access point" in whole["isolation"]["fix"]
            assert {"isolation", "tcp 10.77.0.4", "back"} <= faults(one).keys()
            assert "relay via h2" in one["link"]["detail"]

            it.cut([0], [1, 2])
            wait_for(lambda: four.status()["isolated"], within_s=60, why="it knows that it hears nobody")
            assert "nobody in the mesh is heard any more" in four.command("status").stdout
            assert "`ip addr`" in rows_of(four)["network"]["fix"]
        finally:
            it.stop()
            subprocess.run(["umount", "-l", str(home)], check=True)

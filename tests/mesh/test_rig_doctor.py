"""Real agents, real faults of the network: the doctor names each, with its fix."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import meshnode
from tests.mesh.rig import COMMAND, Agent, rig, wait_for
from tests.rig.net import Net, net, unavailable, until_all_alive
from tests.rig.wires import ANY

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "it can run here")
WHOLE_S = 10.0
"""What a person is made to wait, and the start of the command."""


Rows = dict[str, dict[str, Any]]


def rows_of(agent: Agent, peer: str = "") -> Rows:
    """The findings by check; never a fault without a fix, and in time."""
    began = time.monotonic()
    with meshnode.Client(home=agent.home) as client:
        rows = client.ask("doctor", **({"peer": peer} if peer else {}))
    assert time.monotonic() - began < WHOLE_S + 3
    assert [] == [row for row in rows if row["ok"] is False and not row["fix"]]
    return {row["check"]: row for row in rows}


def at_once(*asked: tuple[Any, ...]) -> list[Rows]:
    """Several findings at a time."""
    with ThreadPoolExecutor() as threads:
        return [*threads.map(lambda one: rows_of(*one), asked)]


def faults(rows: Rows) -> dict[str, str]:
    """What is wrong: check to detail."""
    return {check: row["detail"] for check, row in rows.items() if row["ok"] is False}


def path(agent: Agent, name: str) -> str:
    """Which way an agent reaches another."""
    return next(str(node["path"]) for node in agent.status()["nodes"] if node["name"] == name)


@pytest.fixture(scope="module", autouse=True)
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Findings]]:
    """The troubles of the other network grow while the tests on the town run."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(troubles, tmp_path_factory.mktemp("troubles"))


@pytest.fixture(scope="module")
def findings(growing: Future[Findings]) -> Findings:
    """What was found there in the end."""
    return growing.result()


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
        return not faults(rows_of(first)) and not faults(rows_of(first, "h1"))

    wait_for(well, within_s=30, why="a whole mesh has no fault")
    rows = rows_of(first)
    assert {True} == {rows[check]["ok"] for check in ("clock", "multicast", "inbound", "peer h1", "peer h2")}
    rows = rows_of(first, "h1")
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
    row = rows_of(second, "h0")["multicast"]
    assert (False, True) == (row["ok"], "blocked one way" in row["detail"])
    assert "in here and out at h0" in row["fix"]


def test_datagrams_blocked(town: tuple[Net, list[Agent]]) -> None:
    """TCP passes and UDP does not: the port, the machine and the direction are named."""
    it, (first, _, _) = town
    it.set(0, 1, no_udp=True)
    wait_for(lambda: "udp" in faults(rows_of(first, "h1")), within_s=30, why="it is found")
    row = rows_of(first, "h1")["udp"]
    assert "TCP passes, UDP does not: ours do not arrive at h1" == row["detail"]
    assert "allow UDP port 7433 in at h1" in row["fix"]
    it.heal()
    it.set(1, 0, no_udp=True)

    def other_way() -> bool:
        return "its answers do not come back" in faults(rows_of(first, "h1")).get("udp", "")

    wait_for(other_way, within_s=30, why="the other direction is told apart")


def test_a_port_that_a_firewall_drops(town: tuple[Net, list[Agent]]) -> None:
    """Links stand, for this machine dialled them; that nobody could dial it is found from both ends."""
    it, (first, second, _) = town
    it.set(ANY, 0, no_dial=True)
    whole, there, here = at_once((first,), (second, "h0"), (first, "h2"))
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
    whole, here, there = at_once((first,), (first, "h1"), (second, "h0"))
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
    rows = rows_of(agents[0], "h2")
    assert "10.77.0.3 port 7433 is closed" in rows["tcp 10.77.0.3"]["detail"]
    assert "`meshnode up` on h2" in rows["tcp 10.77.0.3"]["fix"]
    assert "peer h2" in faults(rows_of(agents[0]))
    agents[2] = it.up(2)


@dataclass
class Findings:
    """What the agents of another network found out, while its troubles grew."""

    families: Rows = field(default_factory=dict)
    apart: Rows = field(default_factory=dict)
    late: list[Rows] = field(default_factory=list)
    relayed: list[Rows] = field(default_factory=list)
    alone: Rows = field(default_factory=dict)
    status: str = ""


def troubles(folder: Path) -> Findings:
    """h0 has only IPv4 and h1 only IPv6; the clock of h3 is an hour late. An access point keeps h0 and h3 apart; both
    reach h2. Then h1 reaches nobody any more."""
    late = [sys.executable, str(Path(__file__).parent / "skewed.py"), "-3600"]
    found = Findings()
    with net(folder, [[0]] * 4) as it, ThreadPoolExecutor() as threads:
        it.ip(0, "-6", "addr", "flush", "dev", "eth0")
        it.ip(1, "-4", "addr", "flush", "dev", "eth0")
        hub = it.rig.start("h2", command=it.inside(2, *COMMAND), listen="[::]:7433", mdns=True)
        with meshnode.Client(home=hub.home) as client:
            tokens = [client.ask("invite")["token"] for _ in range(3)]

        def dual(host: int, command: list[str], token: str) -> Agent:
            return it.rig.start(f"h{host}", token, command=it.inside(host, *command), listen="[::]:7433", mdns=True)

        starts = threads.submit(dual, 1, COMMAND, tokens[0]), threads.submit(dual, 3, late, tokens[1])
        four = it.up(0, tokens[2])
        six, slow = (start.result() for start in starts)
        until_all_alive([hub, four, six, slow], 60, "all four see each other")

        it.cut([0], [3])

        def apart() -> bool:
            found.apart = rows_of(four)
            return "isolation" in faults(found.apart)

        found.families, *found.late = at_once((four, "h1"), (slow,), (hub,), (hub, "h3"))
        wait_for(apart, within_s=60, why="it is found")
        it.cut([1], [0, 2, 3])
        wait_for(lambda: "relay via h2" == path(four, "h3"), within_s=60, why="they talk through the one in between")

        def relayed() -> bool:
            found.relayed = at_once((four,), (four, "h3"))
            return "back" in faults(found.relayed[1])  # the other is asked through the relay, which may be late

        wait_for(relayed, within_s=60, why="neither can dial the other")
        wait_for(lambda: six.status()["isolated"], within_s=60, why="it knows that it hears nobody")
        found.status = six.command("status").stdout
        found.alone = rows_of(six)
    return found


def test_only_ipv4_meets_only_ipv6(findings: Findings) -> None:
    """Neither can dial the other; both are told which family is missing where."""
    row = findings.families["found"]
    assert "it has IPv6 only (fd77::2 port 7433), and this machine has IPv4 only" in row["detail"]
    assert "give this machine an IPv6 address, or h1 an IPv4 one" in row["fix"]


def test_a_clock_that_is_an_hour_late(findings: Findings) -> None:
    """The machine itself, the others, and who looks at it alone: all name the one that is wrong."""
    from_slow, from_hub, one = findings.late
    row = from_slow["clock"]
    assert re.search(r"(3 of 3|2 of 2) peers differ", row["detail"]), row
    assert "set the clock of this machine: `sudo timedatectl set-ntp true`" in row["fix"]
    assert "set the clock of h3" in from_hub["clock"]["fix"]
    assert (False, True) == (one["clock"]["ok"], "behind this one's" in one["clock"]["detail"])


def test_an_access_point_that_isolates(findings: Findings) -> None:
    """Two neighbours that both live, and between whom nothing passes: before and after a member relays."""
    assert "h3: on the same network (eth0) and alive for others" in findings.apart["isolation"]["detail"]
    whole, one = findings.relayed
    assert "client isolation" in whole["isolation"]["detail"]
    assert "relay via h2" in whole["isolation"]["detail"]
    assert "switch off client isolation in the access point" in whole["isolation"]["fix"]
    assert {"isolation", "tcp 10.77.0.4", "back"} <= faults(one).keys()
    assert "relay via h2" in one["link"]["detail"]


def test_a_machine_that_hears_nobody(findings: Findings) -> None:
    """It is told that it is the one that is cut off, by the status too."""
    assert "nobody in the mesh is heard any more" in findings.status
    assert "`ip addr`" in findings.alone["network"]["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Nothing can be written: the error, and where to make room. Asked by the command, as a person does."""
    home = tmp_path / "h0"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(home)], check=True)
    try:
        with rig(tmp_path) as it:
            agent = it.start("h0")
            with (home / "fill").open("wb") as fill, suppress(OSError):
                while True:
                    fill.write(bytes(1 << 20))
                    fill.flush()
            rows = {row["check"]: row for row in json.loads(agent.command("--json", "doctor", check=None).stdout)}
            assert "nothing can be written: No space left on device" in rows["disk"]["detail"]
            assert f"make room at {home}" in rows["disk"]["fix"]
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)

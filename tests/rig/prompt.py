"""`scripts/rig`: the rig for people."""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mesh.rig import COMMAND, Agent
from tests.rig.net import Net, net, unavailable
from tests.rig.wires import ANY


def main() -> None:
    """Parse, build, ask until the end."""
    parser = argparse.ArgumentParser("rig", description="Real agents on virtual hosts behind a switch.")
    parser.add_argument("--hosts", type=int, default=4, help="on one subnet")
    parser.add_argument("--subnets", help="instead: for each host the digits of its subnets, as in 0,0,01,1")
    parser.add_argument("--seed", type=int, default=1, help="of what the wires do")
    parser.add_argument("--loss", type=float, default=0.0, help="share of all frames, once the mesh stands")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, each way")
    parser.add_argument("--rootless", action="store_true", help="as an ordinary user can; without root it is always so")
    args = parser.parse_args()
    if reason := unavailable():
        sys.exit(f"no rig here: {reason}")
    hosts = [[int(digit) for digit in word] for word in args.subnets.split(",")] if args.subnets else [[0]] * args.hosts
    without_root = args.rootless or None
    with (
        tempfile.TemporaryDirectory(prefix="meshnode-rig") as folder,
        net(Path(folder), hosts, seed=args.seed, rootless=without_root) as it,
    ):
        agents = dict(enumerate(it.mesh(range(len(hosts)))))
        it.set(ANY, ANY, loss=args.loss, delay=args.delay)
        obey(it, agents, "status")
        while True:
            try:
                words = shlex.split(input("rig> "))
            except (EOFError, KeyboardInterrupt):
                return
            if words[:1] in (["quit"], ["exit"]):
                return
            try:
                obey(it, agents, *words)
            except (ValueError, KeyError, AssertionError, IndexError, TypeError) as error:
                print(f"that cannot be done: {error}")


def obey(it: Net, agents: dict[int, Agent], *words: str) -> None:
    """One command of the prompt."""
    match words:
        case []:
            pass
        case ["status", *rest]:
            host = int(rest[0]) if rest else min(agents)
            print(agents[host].command("status", check=None).stdout)
        case ["cut", a, b]:
            it.cut([int(a)], [int(b)])
        case ["oneway", a, b]:
            it.set(int(a), int(b), cut=True)
        case [("loss" | "delay") as key, value, *pair]:
            a, b = map(int, pair) if pair else (ANY, ANY)
            it.set(a, b, **{key: float(value)})
        case ["set", a, b, *changes]:
            it.set(int(a), int(b), **{key: float(value) for key, _, value in (c.partition("=") for c in changes)})
        case ["heal"]:
            it.heal()
        case ["kill", host]:
            agents[int(host)].kill()
        case [("stop" | "cont") as verb, host]:
            agents[int(host)].process.send_signal(signal.SIGSTOP if verb == "stop" else signal.SIGCONT)
        case ["up", host]:
            agents[int(host)] = it.up(int(host))
        case ["run", host, *command]:
            home = ["--home", str(agents[int(host)].home)]
            subprocess.run(it.inside(int(host), *COMMAND, *home, *command), check=False)
        case _:
            print(f"no command {words[0]!r}; see the top of scripts/rig")

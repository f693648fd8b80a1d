"""P25: a mesh of the previous release is updated node by node under load, works while it is of both, and goes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from concurrent.futures import Future
from functools import partial
from typing import Any

from meshnode.version import __version__
from tests.mesh.history import Task
from tests.mesh.load import task_of, wanted_of
from tests.mesh.rig import COMMAND, MODELS, wait_for
from tests.mixed import previous
from tests.rig.net import Net, net
from tests.rig.promises.figures import Figure, at_least, history, told, true
from tests.rig.promises.town import HOSTS, NEWCOMER, SETTLE_S, SUBMITTERS, Stage, Town, wait

FEW = (0, 1, SUBMITTERS[0])
"""Agents of the short form: a founder, a worker and a submitter."""
ROUNDS, RATE = 2_000, 25.0
EXITS_S = 60.0
OWN_S = 90.0
"""Of a task whose own agent starts again meanwhile, as in P1."""


def lacks() -> str:
    """Why this cannot be tried here."""
    return previous.unavailable()


def keep(stage: Stage, full: bool) -> list[Figure]:
    """All of the old release; each in turn ends as a manager asks it to and starts as the new one; some back again."""
    hosts = list(range(HOSTS)) if full else list(FEW)
    with net(stage.fresh(), [[0]] * (NEWCOMER + 1), seed=stage.seed) as it:
        for host in range(NEWCOMER + 1):
            it.rig.programs = {**it.rig.programs, f"h{host}": previous.command()}
        agents = it.mesh(hosts, roles={host: "submitter" for host in SUBMITTERS if host in hosts})
        town = Town(it, dict(zip(hosts, agents, strict=True)), stage.seed)
        try:
            town.until_alive(why="the mesh stands")
            town.spread()
            return _Upgrade(it, town, full).run()
        finally:
            town.close()


class _Upgrade:
    def __init__(self, it: Net, town: Town, full: bool) -> None:
        self._net, self._town, self._full = it, town, full
        self._extra, self._kinds = list[Task](), Counter[str]()
        self._submitters = [host for host in SUBMITTERS if host in town.agents]
        self._slowest_s = 0.0

    def run(self) -> list[Figure]:
        """The whole way."""
        town, order = self._town, [1, 0, self._submitters[0]]
        rest = [host for host in town.agents if host not in order]
        town.rng.shuffle(rest)
        order += rest
        back = order if self._full else order[:1]
        before = self._check()
        with town.load(ROUNDS, RATE, self._submitters, OWN_S) as loads:
            for number, host in enumerate(order, 1):
                self._to(host, new=True)
                if number in ((1, 2, len(order) // 2) if self._full else (1,)):
                    self._work_across()
            whole = self._check()
            for host in back:
                self._to(host, new=False)
            self._work_across()
            wait(1.0)
        ways_of = f"from {previous.VERSION} to {__version__} one by one under load"
        did = f"{len(town.agents)} agents {ways_of}, {len(back)} of them back"
        same = len({repr(self._believed(host)) for host in town.agents}) == 1
        ways = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
        return [
            told(did, "slowest until all were alive for all again", f"{self._slowest_s:.1f} s"),
            true(did, "`upgrade-check` of the new software said before that all would understand it", *before),
            true(did, "...and afterwards that all are of it and lack nothing", *whole),
            at_least(did, f"tasks across versions ({ways})", len(self._extra), 1),
            true(did, "all believe the same of members and models at the end", same),
            *history(did, [*(task for load in loads for task in load.history), *self._extra]),
        ]

    def _to(self, host: int, *, new: bool) -> None:
        name = f"h{host}"
        programs = {**self._net.rig.programs, name: COMMAND if new else previous.command()}
        assert 0 == self._town.agents[host].terminate(EXITS_S)
        self._net.rig.programs = programs
        self._town.restart(host)
        began = time.monotonic()
        self._town.until_alive(why=f"{name} is back as {'the new' if new else 'the old'} one")
        self._slowest_s = max(self._slowest_s, time.monotonic() - began)

    def _is_new(self, host: int) -> bool:
        return self._net.rig.program(f"h{host}") is COMMAND

    def _check(self) -> tuple[bool, str]:
        """Whether `upgrade-check` of this software, beside the founder's agent, tells what is so."""
        town = self._town
        words = [*COMMAND, "--json", "--home", str(town.agents[0].home), "upgrade-check"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        rows = json.loads(done.stdout).get("nodes", [])
        said = {row["id"]: (row["understands"], row["software"], tuple(row["lacks"])) for row in rows}
        lacking = ("keys",)
        so = {
            agent.id: (
                (True, f"meshnode/{__version__}", ())
                if self._is_new(host)
                else (True, f"meshnode/{previous.VERSION}", lacking)
            )
            for host, agent in town.agents.items()
        }
        return done.returncode == 0 and said == so, f"exit {done.returncode}: {done.stdout}{done.stderr}"

    def _believed(self, host: int) -> object:
        client = self._town.client(host)
        members = sorted((row["id"], row["granted_at"], bool(row["revoked"])) for row in client.ask("members"))
        return members, sorted((model["name"], model["digest"]) for model in client.ask("models"))

    # --- while the mesh is of both ---

    def _work_across(self) -> None:
        """Tasks from each version to each, a new model that the other one fetches, and who joins and is revoked."""
        town = self._town
        runners = [0, *town.workers]
        fresh = self._own_model()
        for asked in [*self._submitters, *runners[:2]]:
            for node in runners:
                self._ask(asked, node, "slow", ROUNDS)
        others = [host for host in runners if self._is_new(host) is not self._is_new(0)]
        for node in others[: None if self._full else 1]:
            wait_for(partial(self._knows, self._submitters[0], fresh), within_s=SETTLE_S, why=f"{fresh} is known")
            self._ask(self._submitters[0], node, fresh)
            self._kinds[f"models fetched by {self._version(node)} from {self._version(0)}"] += 1
        if self._full:
            self._join(new=not self._is_new(0))

    def _own_model(self) -> str:
        """The echo model with bytes of its own, which are on nobody's disk but the founder's."""
        name = f"echo-{time.time_ns()}"
        note = name.encode()
        path = self._net.rig.folder / f"{name}.onnx"
        path.write_bytes((MODELS / "echo" / "model.onnx").read_bytes() + bytes([6 << 3 | 2, len(note)]) + note)
        self._town.client(0).add_model(path, name=name)
        return name

    def _knows(self, host: int, name: str) -> bool:
        return name in {model["name"] for model in self._town.client(host).models()}

    def _version(self, host: int) -> str:
        return __version__ if self._is_new(host) else previous.VERSION

    def _ask(self, asked: int, node: int, model: str, rounds: int = 0) -> None:
        number = len(self._extra)
        task = Task(number, time.monotonic())
        self._extra.append(task)
        town = self._town
        future: Future[Any] = town.client(asked).submit(
            model, task_of(number, rounds)[1], node=town.agents[node].id, timeout=60
        )
        task.follow(future, partial(wanted_of, number, rounds))
        future.exception(90)
        self._kinds[f"tasks from {self._version(asked)} to {self._version(node)}"] += 1

    def _join(self, *, new: bool) -> None:
        """A machine with the other software than the founder's comes, works, and is thrown out."""
        town, founder = self._town, self._town.client(0)
        self._net.rig.programs = {
            **self._net.rig.programs,
            f"h{NEWCOMER}": COMMAND if new else previous.command(),
        }
        agent = town.agents[NEWCOMER] = town.net.up(NEWCOMER, founder.ask("invite")["token"])
        town.until_alive(why="the newcomer is alive for all")
        self._ask(self._submitters[0], NEWCOMER, "echo")
        self._kinds[f"joins of {self._version(NEWCOMER)} by {self._version(0)}"] += 1
        founder.ask("revoke", node=agent.id, reason="tried")
        others = [host for host in town.agents if host != NEWCOMER]
        wait_for(lambda: all(self._out(host, agent.id) for host in others), within_s=SETTLE_S, why="it is out for all")
        town.dismiss(NEWCOMER)
        shutil.rmtree(agent.home)

    def _out(self, host: int, node: str) -> bool:
        return any(row["id"] == node and row["revoked"] for row in self._town.client(host).ask("members"))

"""The published figures of the failure detector, a table each: `scripts/simulate --figures [NAME ...]`.

All of them stand in scripts/bench/README.md. A seed gives the same numbers on every machine.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from meshnode.membership.rules import OURS
from meshnode.sim import ending, experiments, hostile, troubles
from meshnode.sim.experiments import RULES

SETTINGS = {**RULES, **{f"without {name}": experiments.without(name) for name in experiments.OWN_RULES}}
GRID_SEEDS = (1, 2, 3)
UNSEEN_SEED = 100
"""From here on are the seeds that no rule was tuned with."""
NODE_HOURS = 10_000
HOSTILE_RULES = ("own_verdict", "paced", "first_hand")


def parallel(work: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
    """The results in order, from as many processes as there are processors; who is interrupted ends them first."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawn, initializer=ending.told) as pool:
        results = [pool.submit(ending.tidily, work, job) for job in jobs]
        try:
            for result in results:
                yield result.result()
        except GeneratorExit:
            pool.shutdown(cancel_futures=True)
            raise
        except SystemExit:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _all(console: Console, what: str, work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    """All results, with a bar while they come."""
    return list(track(parallel(work, jobs), what, len(jobs), console=console, transient=True))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _crash(console: Console) -> None:
    table = _table("a crash: median / worst, simulated s", "nodes", "rules", "suspected", "first verdict", "all know")
    for nodes, seeds in ((10, 100), (100, 40), (1000, 8)):
        for name, rules in RULES.items():
            jobs = [(nodes, seed, rules) for seed in range(seeds)]
            found = _all(console, f"{nodes} {name}", _one_crash, jobs)
            cells = []
            for key in ("suspected", "dead", "agreed"):
                values = [getattr(one, key) for one in found]
                cells.append(f"{statistics.median(values):.2f} / {max(values):.2f}")
            table.add_row(f"{nodes} ({seeds} seeds)", name, *cells)
    console.print(table)


def _one_crash(job: tuple[int, int, Any]) -> experiments.Crash:
    nodes, seed, rules = job
    return experiments.crash(nodes, seed, rules=rules)


def _large(console: Console) -> None:
    found = experiments.crash(10_000, 1)
    console.print(f"10,000 nodes, one seed: suspected {found.suspected:.2f} s, all know {found.agreed:.2f} s")


def _spread(console: Console) -> None:
    table = _table("a change among 1,000: s until 99 % / all know, worst of 5 seeds", "loss", "99 %", "all")
    for loss in (0.0, 0.1):
        found = [experiments.spread(1000, seed, loss=loss) for seed in range(5)]
        table.add_row(f"{loss:.0%}", f"{max(a for a, _ in found):.2f}", f"{max(b for _, b in found):.2f}")
    console.print(table)


def _idle(console: Console) -> None:
    table = _table("idle, bytes a second a node", "nodes", "B/s")
    for nodes in (10, 100, 1000):
        table.add_row(str(nodes), f"{experiments.idle(nodes, 1):.0f}")
    console.print(table)


def _join(console: Console) -> None:
    for nodes in (100, 1000):
        view_s, known_s = experiments.join(nodes, 1)
        console.print(f"a newcomer to {nodes}: knows all after {view_s:.3f} s, is known by all after {known_s:.2f} s")
    woke = [experiments.wake(100, seed) for seed in range(10)]
    accused = sum(wrong for _, wrong in woke)
    console.print(
        f"a sleeper of 100 wakes: alive for all after {max(s for s, _ in woke):.2f} s at worst; accused {accused}"
    )


def _heal(console: Console) -> None:
    for nodes, seeds in ((30, 10), (100, 10), (1000, 2)):
        found = _all(console, f"{nodes}", _one_heal, [(nodes, seed) for seed in range(seeds)])
        console.print(
            f"{nodes} nodes split in halves for 60 s: one view again after {max(found):.2f} s (worst of {seeds})"
        )


def _one_heal(job: tuple[int, int]) -> float:
    return experiments.heal(*job)


def _troubles(console: Console) -> None:
    title = "networks that lie, 100 nodes, 5 seeds: sums, and the worst of the seconds"
    table = _table(title, "trouble", "rules", "deaths", "suspicions", "longest held dead though reachable", "one view")
    for name, rules in RULES.items():
        jobs = [(100, UNSEEN_SEED + number, rules) for number in range(5)]
        healing = _all(console, f"splits {name}", _one_splits, jobs)
        found = [wronged for wronged, _ in healing]
        table.add_row("8 splits each", name, *_wronged(found), f"{max(s for _, s in healing):.1f}")
        table.add_row("20 % of directed pairs deaf", name, *_wronged(_all(console, name, _one_one_way, jobs)), "")
        table.add_row("one link flaps", name, *_wronged(_all(console, name, _one_flapping, jobs)), "")
    console.print(table)


def _returns(console: Console) -> None:
    table = _table(
        "one node crashes and returns for 300 s, one seed", "nodes", "down / up, s", "B/s a node", "B a turn"
    )
    for nodes in (10, 100):
        for down_s, up_s in ((1.0, 1.0), (2.0, 5.0), (10.0, 10.0), (30.0, 30.0)):
            found, per_s, per_turn = troubles.returns(nodes, UNSEEN_SEED, down_s=down_s, up_s=up_s)
            table.add_row(str(nodes), f"{down_s:.0f} / {up_s:.0f}", f"{per_s:,.0f}", f"{per_turn:,.0f}")
            assert found.deaths == found.suspicions == 0, "nobody else is accused"
    console.print(table)
    for nodes in (20, 100):
        alone = [troubles.found_by_others(nodes, UNSEEN_SEED + number) for number in range(20)]
        console.print(
            f"a node of {nodes} restarts and knows nobody: alive for all after {statistics.median(alone):.1f} s "
            f"(worst of 20 seeds {max(alone):.1f})"
        )


def _zones(console: Console) -> None:
    table = _table(
        "gossip domains of so many", "nodes", "idle B/s a node", "B a crash and return", "a crash: all know, worst of 5"
    )
    for nodes in (100, 300, 1000):
        known_s = max(one.agreed for one in _all(console, f"{nodes}", _one_crash, [(nodes, n, OURS) for n in range(5)]))
        _, _, per_turn = troubles.returns(nodes, UNSEEN_SEED, down_s=30.0, up_s=30.0)
        idle = experiments.idle(nodes, 1)
        table.add_row(str(nodes), f"{idle:.0f}", f"{per_turn - 60 * idle:,.0f}", f"{known_s:.1f}")
    console.print(table)


def _wronged(found: Sequence[troubles.Found]) -> tuple[str, str, str]:
    deaths, suspicions = sum(one.deaths for one in found), sum(one.suspicions for one in found)
    return str(deaths), str(suspicions), f"{max(one.longest_s for one in found):.1f}"


def _one_splits(job: tuple[int, int, Any]) -> tuple[troubles.Found, float]:
    nodes, seed, rules = job
    return troubles.splits(nodes, seed, rules=rules)


def _one_one_way(job: tuple[int, int, Any]) -> troubles.Found:
    nodes, seed, rules = job
    return troubles.one_way(nodes, seed, rules=rules)


def _one_flapping(job: tuple[int, int, Any]) -> troubles.Found:
    nodes, seed, rules = job
    return troubles.flapping(nodes, seed, rules=rules)


def _hostile(console: Console) -> None:
    settings = {"ours": OURS, **{f"without {name}": experiments.without(name) for name in HOSTILE_RULES}}
    for nodes, liars, seeds in ((10, 1, 5), (30, 5, 2)):
        title = f"{liars} of {nodes} accuse all to all for 20 s, {seeds} seeds: what honest members hold of honest"
        table = _table(title, "rules", "deaths", "suspicions", "alive", "refuted/s", "health", "B/s a node")
        for name, rules in {**settings, **RULES}.items():
            jobs = [(nodes, liars, UNSEEN_SEED + number, rules) for number in range(seeds)]
            found = _all(console, f"{liars} of {nodes}, {name}", _one_flood, jobs)
            deaths, suspicions = sum(one.deaths for one in found), sum(one.suspicions for one in found)
            refutations, health = max(one.refutations for one in found), max(one.health for one in found)
            alive, nbytes = (statistics.mean(getattr(one, key) for one in found) for key in ("alive", "bytes_per_s"))
            row = (str(deaths), str(suspicions), f"{alive:.1%}", f"{refutations:.1f}", str(health), f"{nbytes:,.0f}")
            table.add_row(name, *row)
        console.print(table)
        floods = [(nodes, liars, UNSEEN_SEED + number) for number in range(4 * seeds)]
        crashes = _all(console, "crash", _one_crash_in_a_flood, floods)
        console.print(
            f"meanwhile a crash: dead for all honest members after {statistics.median(crashes):.2f} s "
            f"(worst of {4 * seeds} seeds {max(crashes):.2f})"
        )


def _one_flood(job: tuple[int, int, int, Any]) -> hostile.Believed:
    nodes, liars, seed, rules = job
    return hostile.flood(nodes, liars, seed, rules=rules, seconds=20.0)


def _one_crash_in_a_flood(job: tuple[int, int, int]) -> float:
    return hostile.crash_in_a_flood(*job)


def _loss(console: Console) -> None:
    table = _table(
        "nothing but loss, 100 nodes, 27.5 node-hours", "loss", "rules", "deaths", "suspicions", "B/s a node"
    )
    for loss in (0.05, 0.1, 0.3):
        for name, rules in RULES.items():
            found = _all(console, name, _one_lossy, [(100, seed, loss, rules, 330.0) for seed in range(3)])
            bytes_per_s = statistics.mean(one.bytes_per_s for one in found)
            deaths, suspicions = sum(one.dead for one in found), sum(one.suspected_by_well for one in found)
            table.add_row(f"{loss:.0%}", name, str(deaths), str(suspicions), f"{bytes_per_s:.0f}")
    console.print(table)


def _hours(console: Console) -> None:
    seconds = 3600.0
    for loss, nodes in ((0.1, 100), (0.3, 20)):
        jobs = [(nodes, UNSEEN_SEED + n, loss, OURS, seconds) for n in range(-(-NODE_HOURS // nodes))]
        found = _all(console, f"{loss:.0%}", _one_lossy, jobs)
        deaths, hours = sum(one.dead for one in found), len(jobs) * nodes * seconds / 3600
        console.print(f"{loss:.0%} loss, {nodes} nodes: {deaths} deaths in {hours:,.0f} node-hours")


def _one_lossy(job: tuple[int, int, float, Any, float]) -> experiments.Accused:
    nodes, seed, loss, rules, seconds = job
    return experiments.lossy(nodes, seed, loss, rules=rules, seconds=seconds)


def _restarts(console: Console) -> None:
    for nodes in (20, 200):
        ghosts, rows = experiments.restarts(nodes, 1, 10_000)
        console.print(f"10,000 restarts among {nodes} nodes: {ghosts} ghosts, {rows} rows at most")


def _grid(console: Console) -> None:
    title = f"Lifeguard's 48 cells, 128 nodes, no streams, {len(GRID_SEEDS)} seeds: verdicts about nodes that were well"
    table = _table(title, "rules", "deaths", "by those that were well", "suspicions by those", "B/s a node")
    for name, rules in RULES.items():
        jobs = [(cell, seed, rules, "io") for cell in experiments.GRID for seed in GRID_SEEDS]
        table.add_row(name, *_accused(_all(console, name, _one_cell, jobs)))
    console.print(table)


def _rules(console: Console) -> None:
    title = "one rule switched off, 12 cells and seeds: what each one buys"
    table = _table(title, "rules", "mode", "deaths", "by those that were well", "suspicions by those", "B/s a node")
    corner = [cell for cell in experiments.GRID if cell[0] in (8, 32) and cell[1] in (2.048, 16.384)]
    for name in ("ours", *(f"without {name}" for name in experiments.OWN_RULES)):
        for mode in ("io", "stall-timers"):
            jobs = [(cell, UNSEEN_SEED + number, SETTINGS[name], mode) for number, cell in enumerate(corner)]
            table.add_row(name, mode, *_accused(_all(console, f"{name} {mode}", _one_cell, jobs)))
    console.print(table)


def _one_cell(job: tuple[tuple[int, float, float], int, Any, str]) -> experiments.Accused:
    cell, seed, rules, mode = job
    return experiments.lifeguard_cell(cell, seed, rules=rules, streams=False, mode=mode)


def _accused(found: Sequence[experiments.Accused]) -> tuple[str, ...]:
    sums = [sum(getattr(one, key) for one in found) for key in ("dead", "dead_by_well", "suspected_by_well")]
    return (*map(str, sums), f"{statistics.mean(one.bytes_per_s for one in found):.0f}")


def _core(console: Console) -> None:
    for nodes in (10, 1000):
        console.print(
            f"the core decides a datagram among {nodes} nodes in {experiments.decision_us(nodes):.1f} us here"
        )


FIGURES: dict[str, Callable[[Console], None]] = {
    "crash": _crash,
    "spread": _spread,
    "idle": _idle,
    "join": _join,
    "heal": _heal,
    "troubles": _troubles,
    "hostile": _hostile,
    "zones": _zones,
    "returns": _returns,
    "loss": _loss,
    "hours": _hours,
    "restarts": _restarts,
    "core": _core,
    "grid": _grid,
    "rules": _rules,
    "large": _large,
}

"""`scripts/simulate`: the simulator for people."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from meshnode.sim import campaign, experiments
from meshnode.sim.experiments import RULES
from meshnode.sim.faults import KINDS
from meshnode.sim.plot import plot
from meshnode.sim.world import Faults

SHOWN = (*KINDS, "alive", "suspect", "dead", "left", "sent", "lost", "duplicated", "overtaken", "syncs", "isolations")
SETTINGS = {**RULES, **{f"without {name}": experiments.without(name) for name in experiments.OWN_RULES}}


def main() -> None:
    """Parse, run, exit: 0 when nothing was violated."""
    parser = argparse.ArgumentParser("simulate", description="The failure detector in a simulated network.")
    parser.add_argument("--nodes", type=int, default=0, help="how many (default 100; in a campaign 20)")
    parser.add_argument("--loss", type=float, default=0.0, metavar="SHARE", help="of all packets, 0..0.9")
    parser.add_argument("--seconds", type=float, default=120.0, help="simulated seconds")
    parser.add_argument("--seed", type=int, default=1, help="names the run")
    parser.add_argument("--rules", action="append", choices=list(SETTINGS), help="default: ours, lifeguard and swim")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="where the plot goes (default simulate.png)")
    parser.add_argument("--campaign", type=int, metavar="SEEDS", help="so many seeds with all faults, from --seed on")
    parser.add_argument("--show", action="store_true", help="one seed of the campaign, with its faults")
    parser.add_argument("--figures", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    args = parser.parse_args()
    if not 0 <= args.loss <= 0.9:
        parser.error("--loss is a share of 0 to 0.9")
    if args.nodes < 0 or args.nodes == 1 or args.nodes > 20_000:
        parser.error("--nodes is 2 to 20000")
    console = Console()
    try:
        if args.campaign is not None or args.show:
            sys.exit(_campaign(console, args))
        if args.figures is not None:
            unknown = [name for name in args.figures if name not in FIGURES]
            if unknown:
                parser.error(f"no figure {unknown[0]!r}: there are {', '.join(FIGURES)}")
            for name in args.figures or FIGURES:
                FIGURES[name](console)
        else:
            _crash(console, args)
    except KeyboardInterrupt:
        sys.exit(130)


# --- one crash, compared ---


def _crash(console: Console, args: argparse.Namespace) -> None:
    nodes = args.nodes or 100
    names = args.rules or list(RULES)
    table = Table(title=f"node crashes among {nodes}, {args.loss:.0%} loss, seed {args.seed} (simulated seconds)")
    for column in ("rules", "suspected", "first verdict", "all know", "idle B/s a node", "false verdicts", "took s"):
        table.add_column(column, justify="left" if column == "rules" else "right")
    curves = {}
    for name in names:
        began = time.perf_counter()
        rules = SETTINGS[name]
        found = experiments.crash(nodes, args.seed, rules=rules, faults=Faults(loss=args.loss))
        calm = experiments.lossy(nodes, args.seed, args.loss, rules=rules, seconds=args.seconds)
        curves[name] = found.known
        figures = (found.suspected, found.dead, found.agreed)
        row = [f"{figure:.2f}" for figure in figures] + [f"{calm.bytes_per_s:.0f}", str(calm.dead)]
        table.add_row(name, *row, f"{time.perf_counter() - began:.1f}")
    console.print(table)
    path = args.plot or Path("simulate.png")
    until = max((times[-1] for times in curves.values() if times), default=1.0) * 1.1
    plot(path, f"share of {nodes - 1} nodes that declared the crashed one dead", curves, of=nodes - 1, until=until)
    console.print(f"plot: {path}")


# --- the campaign ---


def _campaign(console: Console, args: argparse.Namespace) -> int:
    nodes = args.nodes or campaign.NODES
    if args.show:
        outcome = campaign.run(args.seed, nodes=nodes, seconds=args.seconds)
        console.print(str(outcome), highlight=False)
        return 1 if outcome.violations else 0
    began, counts, failed = time.perf_counter(), Counter[str](), []
    seeds = range(args.seed, args.seed + args.campaign)
    jobs = [(seed, nodes, args.seconds) for seed in seeds]
    for outcome in track(_parallel(_one_seed, jobs), "seeds", len(jobs), console=console):
        counts.update(outcome.counts)
        if outcome.violations:
            failed.append(outcome)
    for outcome in failed[:3]:
        console.print(str(campaign.smaller(outcome, nodes=nodes, seconds=args.seconds)), highlight=False)
    console.print(", ".join(f"{name} {counts[name]:,}" for name in SHOWN))
    missing = [name for name in SHOWN if not counts[name]]
    if missing and args.campaign >= 50:
        console.print(f"[red]nothing was tried of: {', '.join(missing)}")
    took = time.perf_counter() - began
    console.print(f"{len(seeds)} seeds x {nodes} nodes x {args.seconds:.0f} s: {len(failed)} failed, in {took:.0f} s")
    return 1 if failed or (missing and args.campaign >= 50) else 0


def _one_seed(job: tuple[int, int, float]) -> campaign.Outcome:
    seed, nodes, seconds = job
    return campaign.run(seed, nodes=nodes, seconds=seconds)


def _parallel(work: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
    """The results in order, from as many processes as there are processors."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, jobs)


# --- the published figures ---


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _figure_crash(console: Console) -> None:
    table = _table("a crash: median / worst, simulated s", "nodes", "rules", "suspected", "first verdict", "all know")
    for nodes, seeds in ((10, 100), (100, 40), (1000, 8)):
        for name, rules in RULES.items():
            found = [experiments.crash(nodes, seed, rules=rules) for seed in range(seeds)]
            cells = []
            for key in ("suspected", "dead", "agreed"):
                values = [getattr(one, key) for one in found]
                cells.append(f"{statistics.median(values):.2f} / {max(values):.2f}")
            table.add_row(f"{nodes} ({seeds} seeds)", name, *cells)
    console.print(table)


def _figure_large(console: Console) -> None:
    found = experiments.crash(10_000, 1)
    console.print(f"10,000 nodes, one seed: suspected {found.suspected:.2f} s, all know {found.agreed:.2f} s")


def _figure_spread(console: Console) -> None:
    table = _table("a change among 1,000: s until 99 % / all know, worst of 5 seeds", "loss", "99 %", "all")
    for loss in (0.0, 0.1):
        found = [experiments.spread(1000, seed, loss=loss) for seed in range(5)]
        table.add_row(f"{loss:.0%}", f"{max(a for a, _ in found):.2f}", f"{max(b for _, b in found):.2f}")
    console.print(table)


def _figure_idle(console: Console) -> None:
    table = _table("idle, bytes a second a node", "nodes", "B/s")
    for nodes in (10, 100, 1000):
        table.add_row(str(nodes), f"{experiments.idle(nodes, 1):.0f}")
    console.print(table)


def _figure_join(console: Console) -> None:
    for nodes in (100, 1000):
        view_s, known_s = experiments.join(nodes, 1)
        console.print(f"a newcomer to {nodes}: knows all after {view_s:.3f} s, is known by all after {known_s:.2f} s")
    woke = [experiments.wake(100, seed) for seed in range(10)]
    accused = sum(wrong for _, wrong in woke)
    console.print(
        f"a sleeper of 100 wakes: alive for all after {max(s for s, _ in woke):.2f} s at worst; accused {accused}"
    )


def _figure_heal(console: Console) -> None:
    for nodes, seeds in ((30, 10), (100, 10), (1000, 2)):
        worst = max(experiments.heal(nodes, seed) for seed in range(seeds))
        console.print(f"{nodes} nodes split in halves for 60 s: one view again after {worst:.2f} s (worst of {seeds})")


def _figure_loss(console: Console) -> None:
    table = _table(
        "nothing but loss, 100 nodes, 27.5 node-hours", "loss", "rules", "deaths", "suspicions", "B/s a node"
    )
    for loss in (0.05, 0.1, 0.3):
        for name, rules in RULES.items():
            found = [experiments.lossy(100, seed, loss, rules=rules) for seed in range(3)]
            bytes_per_s = statistics.mean(one.bytes_per_s for one in found)
            deaths, suspicions = sum(one.dead for one in found), sum(one.suspected_by_well for one in found)
            table.add_row(f"{loss:.0%}", name, str(deaths), str(suspicions), f"{bytes_per_s:.0f}")
    console.print(table)


def _figure_restarts(console: Console) -> None:
    ghosts, rows = experiments.restarts(20, 1, 10_000)
    console.print(f"10,000 restarts among 20 nodes: {ghosts} ghosts, {rows} rows at most")


def _figure_grid(console: Console) -> None:
    title = "Lifeguard's 48 cells, 128 nodes, no streams: verdicts about nodes that were well"
    table = _table(title, "rules", "deaths", "by those that were well", "suspicions by those", "B/s a node")
    for name, rules in RULES.items():
        jobs = [(cell, 1, rules, "io") for cell in experiments.GRID]
        found = list(track(_parallel(_one_cell, jobs), name, len(jobs), console=console, transient=True))
        cells = [sum(getattr(one, key) for one in found) for key in ("dead", "dead_by_well", "suspected_by_well")]
        table.add_row(name, *map(str, cells), f"{statistics.mean(one.bytes_per_s for one in found):.0f}")
    console.print(table)


def _figure_rules(console: Console) -> None:
    title = "one rule switched off, 12 cells and seeds: what each one buys"
    table = _table(title, "rules", "mode", "deaths", "by those that were well", "suspicions by those", "B/s a node")
    corner = [cell for cell in experiments.GRID if cell[0] in (8, 32) and cell[1] in (2.048, 16.384)]
    for name in ("ours", *(f"without {name}" for name in experiments.OWN_RULES)):
        for mode in ("io", "stall-timers"):
            jobs = [(cell, 100 + number, SETTINGS[name], mode) for number, cell in enumerate(corner)]
            found = list(track(_parallel(_one_cell, jobs), name, len(jobs), console=console, transient=True))
            cells = [sum(getattr(one, key) for one in found) for key in ("dead", "dead_by_well", "suspected_by_well")]
            table.add_row(name, mode, *map(str, cells), f"{statistics.mean(one.bytes_per_s for one in found):.0f}")
    console.print(table)


def _one_cell(job: tuple[tuple[int, float, float], int, Any, str]) -> experiments.Accused:
    cell, seed, rules, mode = job
    return experiments.lifeguard_cell(cell, seed, rules=rules, streams=False, mode=mode)


def _figure_core(console: Console) -> None:
    for nodes in (10, 1000):
        console.print(
            f"the core decides a datagram among {nodes} nodes in {experiments.decision_us(nodes):.1f} us here"
        )


FIGURES: dict[str, Callable[[Console], None]] = {
    "crash": _figure_crash,
    "spread": _figure_spread,
    "idle": _figure_idle,
    "join": _figure_join,
    "heal": _figure_heal,
    "loss": _figure_loss,
    "restarts": _figure_restarts,
    "core": _figure_core,
    "grid": _figure_grid,
    "rules": _figure_rules,
    "large": _figure_large,
}

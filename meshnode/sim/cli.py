"""`scripts/simulate`: the simulator for people."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from meshnode.sim import campaign, ending, experiments
from meshnode.sim.experiments import RULES
from meshnode.sim.faults import KINDS
from meshnode.sim.figures import FIGURES, SETTINGS, parallel
from meshnode.sim.plot import plot
from meshnode.sim.shells import cli as shells
from meshnode.sim.world import Faults

SHOWN = (*KINDS, "alive", "suspect", "dead", "left", "sent", "lost", "duplicated", "overtaken", "syncs", "isolations")


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
    parser.add_argument("--shells", action="store_true", help="the real asyncio code of agents on a virtual clock")
    parser.add_argument("--seeds", type=int, metavar="N", help="with --shells: so many, from --seed on (default 20)")
    parser.add_argument("--zones", action="store_true", help="with --shells: nodes lie in zones, and tasks are bound")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="with --shells: what happened; .mmd for a diagram")
    parser.add_argument("--figures", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    args = parser.parse_args()
    if not 0 <= args.loss <= 0.9:
        parser.error("--loss is a share of 0 to 0.9")
    if args.nodes < 0 or args.nodes == 1 or args.nodes > 20_000:
        parser.error("--nodes is 2 to 20000")
    if not args.shells and (args.seeds is not None or args.trace is not None or args.zones):
        parser.error("--seeds, --zones and --trace go with --shells")
    if args.shells and args.trace is not None and (args.seeds or 1) != 1:
        parser.error("--trace is of one seed: name it with --seed, and leave --seeds out")
    if args.shells and (args.nodes > shells.NODES_MAX or args.nodes == 2 or args.seconds < shells.SECONDS_MIN):
        parser.error(f"--shells wants 3 to {shells.NODES_MAX} nodes and {shells.SECONDS_MIN:.0f} seconds or more")
    console = Console()
    ending.told()
    if args.shells:
        sys.exit(shells.campaign(console, args))
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
    for outcome in track(parallel(_one_seed, jobs), "seeds", len(jobs), console=console):
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

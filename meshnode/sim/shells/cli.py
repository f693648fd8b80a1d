"""`scripts/simulate --shells`: many seeds for people, and one seed with all that happened in it."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from rich.console import Console
from rich.progress import track

from meshnode.sim.figures import parallel
from meshnode.sim.shells.doing import KINDS
from meshnode.sim.shells.run import NODES, Outcome, run, smaller
from meshnode.sim.shells.trace import write

ZONES = ("eu/berlin", "eu/paris", "us", "eu/berlin")
"""Of the nodes, in turn."""
SHOWN_ZONES = ("tasks bound", "bound tasks run", "no node in zone", "tasks relayed", "bound tasks relayed", "apart")
SEEDS, NODES_MAX, SECONDS_MIN = 20, 64, 40.0
SHOWN = (*KINDS, "late joins", "statements", "tasks answered", "tasks given up", "look-ups failed", "seen dead")
SHOWN_FAILURES = 3
TRIES_ALL_FROM = 50
"""So many seeds must have tried everything."""

Job = tuple[int, int, float, float, tuple[str, ...]]


def campaign(console: Console, args: argparse.Namespace) -> int:
    """Returns the exit status: 0 when nothing was violated."""
    nodes, zones = args.nodes or NODES, ZONES if args.zones else ()
    if args.trace is not None:
        outcome = run(args.seed, nodes=nodes, seconds=args.seconds, loss=args.loss, zones=zones, traced=True)
        write(outcome.trace, args.trace)
        console.print(str(outcome), highlight=False, soft_wrap=True)
        console.print(f"trace: {args.trace}, its whole is {outcome.digest}", highlight=False)
        return 1 if outcome.violations else 0
    began, failed, counts = time.perf_counter(), list[Outcome](), Counter[str]()
    node_s = cpu_s = 0.0
    seeds = args.seeds or SEEDS
    jobs: list[Job] = [(seed, nodes, args.seconds, args.loss, zones) for seed in range(args.seed, args.seed + seeds)]
    for outcome in track(parallel(_one_seed, jobs), "seeds", seeds, console=console):
        counts.update(outcome.counts)
        node_s, cpu_s = node_s + outcome.node_seconds, cpu_s + outcome.cpu_s
        if outcome.violations:
            failed.append(outcome)
            console.print(f"seed {outcome.seed}: {outcome.violations[0]}", highlight=False, soft_wrap=True)
    for outcome in failed[:SHOWN_FAILURES]:
        console.print(str(smaller(outcome, loss=args.loss, zones=zones)), highlight=False, soft_wrap=True)
        again = f"--seed {outcome.seed} --nodes {nodes} --seconds {args.seconds:g} --loss {args.loss:g}"
        again += " --zones" * args.zones
        console.print(f"again: scripts/simulate --shells {again} --trace trace.txt", highlight=False, soft_wrap=True)
    console.print(
        ", ".join(f"{name} {counts[name]:,}" for name in (*SHOWN, *(SHOWN_ZONES if zones else ()))), highlight=False
    )
    missing = [name for name in SHOWN if not counts[name]] if seeds >= TRIES_ALL_FROM else []
    if missing:
        console.print(f"[red]nothing was tried of: {', '.join(missing)}")
    took_s = time.perf_counter() - began
    console.print(
        f"{seeds} seeds x {nodes} nodes x {args.seconds:.0f} s and its end: {len(failed)} failed, in {took_s:.0f} s; "
        f"{node_s / cpu_s:.0f} node-seconds a CPU-second",
        highlight=False,
    )
    return 1 if failed or missing else 0


def _one_seed(job: Job) -> Outcome:
    seed, nodes, seconds, loss, zones = job
    return run(seed, nodes=nodes, seconds=seconds, loss=loss, zones=zones)

"""`scripts/bench/mesh`: run the experiments, print what was promised and what was seen."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meshnode
from tests.mesh.live.phases import PHASES, Stage
from tests.mesh.live.town import Town, town
from tests.rig.promises.figures import Figure, table

MEASURE_S = 8.0
NODES = 8


def main() -> int:
    """Parse, run, print; the exit code."""
    parser = argparse.ArgumentParser(
        "mesh", description="Routing and failover of eight unequal agents on this machine."
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES), help="all when left out")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the longest experiment; the others in proportion"
    )
    parser.add_argument("--seed", type=int, default=1, help="of arrivals and victims")
    parser.add_argument("--json", action="store_true", help="figures as JSON, at the end")
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure is not within its target")
    args = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("this needs Linux: processes are held by descriptors, and found in /proc")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # everything is taken down on the way out
    try:
        with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as folder, town(Path(folder), NODES) as it:
            report = asyncio.run(_all(it, args.phases, args.seed, args.seconds / 60.0, quiet=args.json))
    except KeyboardInterrupt:
        print("ended early; all agents are gone", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(report, indent=1))
    return 1 if args.check and not report["ok"] else 0


async def _all(it: Town, phases: Sequence[str], seed: int, scale: float, *, quiet: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"seed": seed, "rounds": it.rounds, "phases": {}}
    ok = True

    def show(name: str, figures: Sequence[Figure], seconds: float) -> None:
        load = os.getloadavg()[0]
        report["phases"][name] = {
            "seconds": seconds,
            "load_average": load,
            "figures": [dataclasses.asdict(figure) for figure in figures],
        }
        if not quiet:
            print(f"\n{table([(name, figure) for figure in figures])}\n{seconds:.0f} s, load {load:.1f}", flush=True)

    async with meshnode.AsyncClient(it.submitter.home) as client:
        stage = Stage(it, client, random.Random(seed), scale)
        began = time.monotonic()
        show("capacity", await stage.measure(MEASURE_S), time.monotonic() - began)
        for name in phases:
            await it.until_whole()
            began = time.monotonic()
            figures = await PHASES[name](stage)
            show(name, figures, time.monotonic() - began)
            ok &= all(figure.ok for figure in figures)
    report["ok"] = ok
    if not quiet:
        print("\nall within their targets" if ok else "\nNOT all within their targets")
    return report

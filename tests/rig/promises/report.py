"""`scripts/promises`: try promises, print what was seen, write it down, and make the page of what was written down."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from meshnode import collecting
from meshnode.sim import ending
from tests.rig.net import unavailable
from tests.rig.promises import PROMISES, samples
from tests.rig.promises import record as records
from tests.rig.promises.figures import Figure, table
from tests.rig.promises.town import Stage


def main() -> int:
    """Parse, try one after the other, print; the exit code."""
    parser = argparse.ArgumentParser("promises", description="Try the promises of the mesh with real agents.")
    parser.add_argument("names", nargs="*", metavar="PROMISE", help=f"of {', '.join(PROMISES)}; all when left out")
    parser.add_argument("--full", action="store_true", help="the full length, not that of the ordinary tests")
    parser.add_argument("--seed", type=int, default=1, help="of what the wires do, who is hit, what is turned over")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a JSON line for each figure")
    parser.add_argument("--minutes", type=float, help="how long the soak (P26) is to be; in full it is 120")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="append what the soak sees, a JSON line a minute")
    parser.add_argument(
        "--judge", type=Path, metavar="FILE", help="try nothing: judge the samples of a soak, also an ended one"
    )
    parser.add_argument("--note", default="", help="what else this machine was doing, for the JSON lines")
    parser.add_argument("--table", type=Path, metavar="FILE", help="try nothing: make docs/promises.md of such lines")
    parser.add_argument("--list", action="store_true", help="say what is promised, and end")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name.upper() not in PROMISES]:
        parser.error(f"no promise {unknown[0]!r}: there are {', '.join(PROMISES)}")
    if args.list:
        print("\n".join(f"{promise.name:6} {promise.says}" for promise in PROMISES.values()))
        return 0
    if args.table:
        records.PAGE.write_text(records.page(records.read(args.table), {it.name: it.says for it in PROMISES.values()}))
        print(f"written: {records.PAGE}")
        return 0
    if args.judge:
        return _judged(args)
    if reason := unavailable():
        sys.exit(f"no rig here: {reason}")
    ending.told()  # agents are taken down on the way out, also of one that nohup began
    kept = True
    with tempfile.TemporaryDirectory(prefix="meshnode-promises") as folder:
        stage = Stage(Path(folder), args.seed, args.minutes, args.samples)
        try:
            for name in [name.upper() for name in args.names] or PROMISES:
                if why := PROMISES[name].lacks():
                    print(f"\n{name}: not tried: {why}")
                    continue
                began, date = time.monotonic(), records.now()
                print(f"\n{name}: {PROMISES[name].says}", flush=True)
                figures = _try(stage, name, args.full)
                print(table([(name, figure) for figure in figures]))
                seconds = time.monotonic() - began
                print(f"{seconds:.0f} s, load {os.getloadavg()[1]:.1f}", flush=True)
                kept &= all(figure.ok for figure in figures)
                if args.json:
                    how = records.Trial(name, "full" if args.full else "short", args.seed, date, seconds, args.note)
                    records.append(args.json, how, figures)
        finally:
            stage.close()
    print("\nall kept" if kept else "\nNOT all kept")
    return 0 if kept else 1


def _judged(args: argparse.Namespace) -> int:
    """A soak by what it wrote down."""
    lines = records.read(args.judge)
    figures = samples.judged(lines)
    print(table([("P26", figure) for figure in figures]))
    if args.json:
        head, form = lines[0], "full" if args.full else "short"
        records.append(
            args.json, records.Trial("P26", form, head["seed"], head["date"], lines[-1]["at"], args.note), figures
        )
    return 0 if all(figure.ok for figure in figures) else 1


def _try(stage: Stage, name: str, full: bool) -> list[Figure]:
    collecting.settle()  # clients run in here: they are not to wait while what is left of others is looked through
    try:
        return PROMISES[name].keep(stage, full)
    except Exception as error:  # whatever broke it off, the others are tried
        traceback.print_exc()
        stage.renew()
        return [Figure("the experiment", "came to its end", "yes", repr(error).partition("\\n")[0], False)]

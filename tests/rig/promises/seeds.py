"""P30: many seeds of the simulator with all its faults break no invariant, and a seed is one run."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from itertools import islice
from multiprocessing import get_context

from meshnode.sim import campaign
from meshnode.sim.shells.run import run as run_shells
from tests.rig.promises.figures import Figure, at_least, none_of, told
from tests.rig.promises.town import Stage

NODES, SECONDS = 20, 600.0
LIMIT_S = 1200.0
"""A thousand take 12 to 16 minutes of a processor; all that there are take their part."""


def keep(stage: Stage, full: bool) -> list[Figure]:
    """The detector's cores, then the asyncio code of whole agents; some seeds a second time."""
    seeds, nodes, seconds = (1000, NODES, SECONDS) if full else (3, 10, 60.0)
    first, broken, counts = stage.seed * 100_000, list[str](), Counter[str]()
    ends, tried = time.monotonic() + LIMIT_S, 0
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        left = iter(range(first, first + seeds))
        run = partial(pool.submit, campaign.run, nodes=nodes, seconds=seconds)
        running = {run(seed): seed for seed in islice(left, os.cpu_count() or 1)}
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                seed, outcome = running.pop(done), done.result()
                tried += 1
                counts.update(outcome.counts)
                broken += [f"seed {seed}: {why}" for why in outcome.violations]
                if time.monotonic() < ends and (following := next(left, None)) is not None:
                    running[run(following)] = following
    did = f"seeds from {first}, {nodes} nodes, {seconds:g} simulated seconds with all faults"
    other = [seed for seed in range(first, first + (20 if full else 1)) if len(_traces(seed, nodes, seconds)) > 1]
    figures = [
        at_least(did, f"seeds tried, as far as {LIMIT_S / 60:g} minutes go", tried, seeds),
        none_of(did, "invariants broken", broken),
        at_least(did, "datagrams that were lost on the way", counts["lost"], 1),
        none_of(did, "seeds that gave another run the second time", other),
    ]
    return [*figures, *(_shells(first, 50, 8, 120.0) if full else _shells(first, 1, 4, 40.0))]


def _traces(seed: int, nodes: int, seconds: float) -> set[str]:
    return {campaign.run(seed, nodes=nodes, seconds=seconds, traced=True).trace for _ in range(2)}


def _shells(first: int, seeds: int, nodes: int, seconds: float) -> list[Figure]:
    broken, counts = list[str](), Counter[str]()
    for seed in range(first, first + seeds):
        outcome = run_shells(seed, nodes=nodes, seconds=seconds)
        counts.update(outcome.counts)
        broken += [f"seed {seed}: {why}" for why in outcome.violations]
    did = f"{seeds} seeds from {first} of the asyncio code, {nodes} agents, {seconds:g} simulated seconds"
    return [
        none_of(did, "tasks without one answer, agents that do not agree, leftovers", broken),
        told(did, "tasks answered, given up", f"{counts['tasks answered']}, {counts['tasks given up']}"),
    ]

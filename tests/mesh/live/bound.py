"""What could be had at best from the same tasks on the same nodes: perfect knowledge, and no time lost on the way."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence


def bound_s(arrivals: Sequence[float], services: Mapping[str, Sequence[float]], rng: random.Random) -> list[float]:
    """Seconds of each task when each goes where it is done first by the queues as they are and the nodes' mean times.

    What a run takes is then drawn from those that were measured on the node: that nobody knows beforehand. Greedy
    with perfect knowledge of the state; nothing that runs online was measured to do better on p99.
    """
    means = {node: statistics.fmean(times) for node, times in services.items()}
    free = dict.fromkeys(services, 0.0)
    took = []
    for at in sorted(arrivals):
        node = min(means, key=lambda it: max(free[it], at) + means[it])
        free[node] = max(free[node], at) + rng.choice(services[node])
        took.append(free[node] - at)
    return took

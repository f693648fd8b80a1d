"""Bars of a run, in the environment that has matplotlib: figures come in as JSON, pictures go into a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of what draws
from matplotlib.ticker import LogLocator, NullFormatter

SPEED = {
    "mlp_p50_ms": "tiny model, 1 in flight, p50 ms (less is better)",
    "mlp_rate": "tiny model, 16 in flight, answers/s (more is better)",
    "cnn_p50_ms": "602 KB picture, 1 in flight, p50 ms (less is better)",
    "two_rate": "602 KB picture, 16 in flight, two workers, answers/s (more is better)",
}
COST = {
    "mlp_server_ms": "server's processor time a request, tiny model, ms (less is better)",
    "cold_s": "start to first answer, s (less is better)",
    "idle_mb": "memory at rest, MB (less is better)",
    "idle_cpu": "processor at rest, % of a core (less is better)",
}


def draw(data: dict[str, dict[str, Any]], panels: dict[str, str], about: str, path: Path) -> None:
    """Four panels of bars on a logarithmic scale; whiskers are quartiles."""
    figure, grid = plt.subplots(2, 2, figsize=(15, 9.5), constrained_layout=True)
    for axes, (name, title) in zip(grid.flat, panels.items(), strict=True):
        rows = [(system, it) for system, it in data.items() if name in it and it[name][0] > 0][::-1]
        medians = [it[name][0] for _, it in rows]
        whiskers = [[it[name][0] - it[name][1] for _, it in rows], [it[name][2] - it[name][0] for _, it in rows]]
        colours = ["#1f6feb" if it["ours"] else "#9aa4af" for _, it in rows]
        axes.barh([system for system, _ in rows], medians, xerr=whiskers, color=colours, ecolor="#444", capsize=2)
        for at, median in enumerate(medians):
            axes.annotate(
                f" {median:.3g}" if median < 1000 else f" {median:,.0f}", (median, at), va="bottom", fontsize=8
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(medians) < 300 * min(medians) else (1,)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(about, fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    draw(given["rows"], SPEED, given["about"], Path(sys.argv[1]) / "comparison-speed.png")
    draw(given["rows"], COST, given["about"], Path(sys.argv[1]) / "comparison-cost.png")

"""`meshnode top`: the screen that one leaves open. Nodes, tasks a second, latency, and where the work goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from meshnode.cli import context, render

EVERY_S = 1.0
BAR = 10


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, after one interval.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = EVERY_S,
) -> None:
    """What the mesh is doing, anew every second until Ctrl-C: nodes, tasks a second, latency, where work goes."""
    console = context.console()
    with context.client() as client:

        def look() -> tuple[float, Any, Any]:
            return time.monotonic(), client.status(), client.ask("work")

        try:
            before = look()
            if once or context.current.json:
                while True:
                    time.sleep(every)
                    now = look()
                    frame = figures(before, now)
                    context.show(frame, lambda frame: screen(frame, console.width))
                    if once:
                        return
                    before = now
            with Live(Text("looking…"), console=console, auto_refresh=False, screen=console.is_terminal) as live:
                while True:
                    time.sleep(every)
                    now = look()
                    live.update(screen(context.printable(figures(before, now)), console.width), refresh=True)
                    before = now
        except KeyboardInterrupt:
            raise typer.Exit from None


def figures(before: tuple[float, Any, Any], now: tuple[float, Any, Any]) -> dict[str, Any]:
    """Two looks as rates: (monotonic seconds, status, work) each."""
    past_s = max(now[0] - before[0], 1e-9)
    done = {node["id"]: node["tasks_done"] for node in before[1]["nodes"]}
    status, work = now[1], now[2]
    nodes = []
    for node in status["nodes"]:
        counted, last = node["tasks_done"], done.get(node["id"])
        rate = max(0, counted - last) / past_s if counted is not None and last is not None else None
        nodes.append(
            {key: node[key] for key in ("id", "name", "self", "state", "paused", "in_flight", "backlog_s", "rtt_ms")}
            | {"per_s": rate, "load": node["cpu"]["load"] if node["cpu"] else None}
        )
    return {"mesh": status["mesh"], "per_s": sum(node["per_s"] or 0.0 for node in nodes), "nodes": nodes, "work": work}


def screen(frame: Mapping[str, Any], width: int = render.WIDTH) -> Text:
    """One look, for people: the busiest first."""
    mesh, work = frame["mesh"], frame["work"]
    counts = ", ".join(f"{n} {state}" for state, n in mesh["nodes"].items() if n)
    lines = [
        Text(f"{mesh['name']} ({mesh['id'][:8]}): {counts}; {frame['per_s']:.0f} tasks a second in all", "bold"),
        Text(_own(work)),
    ]
    most = max((node["per_s"] or 0.0 for node in frame["nodes"]), default=0.0)
    columns = ("node", "state", "load", "open", "wait", "rtt", "/s", "")
    rows: list[list[render.Cell]] = []
    for node in sorted(frame["nodes"], key=lambda node: -(node["per_s"] or 0.0)):
        rate = node["per_s"] or 0.0
        state = "paused" if node["paused"] and node["state"] == "alive" else node["state"]
        rows.append(
            [
                render.label(node["name"], node["id"]) + ("<" if node["self"] else ""),
                Text(state, render.COLOURS.get(state, "")),
                "-" if node["load"] is None else f"{node['load'] * 100:.0f}%",
                "-" if node["in_flight"] is None else str(node["in_flight"]),
                "-" if node["backlog_s"] is None else f"{node['backlog_s'] * 1000:.0f}",
                "-" if node["self"] or node["rtt_ms"] is None else render.milliseconds(node["rtt_ms"]),
                "-" if node["per_s"] is None else f"{rate:.0f}",
                "█" * round(BAR * rate / most) if most else "",
            ]
        )
    lines.append(render.table(columns, rows, right=columns[2:7], width=width))
    lines.append(Text("< this node · open: tasks there · wait, rtt: ms · /s: tasks done a second", style="dim"))
    return Text("\n").join(lines)


def _own(work: Mapping[str, Any]) -> str:
    """This agent's own tasks."""
    total = work["since_start"]
    if work["p50_s"] is None:
        went = "no task in the last ten seconds"
    else:
        latency = f"p50 {work['p50_s'] * 1000:.1f} ms, p99 {work['p99_s'] * 1000:.1f} ms"
        went = f"{work['per_s']:.0f} a second, {latency}, {work['failed_per_s']:.1f} failed a second"
    return f"from here: {went}\n{work['open']} open, {total['rerouted']} re-routed since the start"

"""`meshnode bench`: load for a model, and what the mesh made of it beside what its own nodes could do.

A closed loop keeps so many tasks in flight; an open one submits at a rate, whatever comes back. The bound is worked out
of what the runs really took on each node: all its slots busy all the time, without a wait, a hop or a copy.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from meshnode.cli import context, files, render
from meshnode.cli.models import ModelName
from meshnode.client import AsyncClient, Result
from meshnode.errors import AgentUnavailable, InvalidInput, MeshError
from meshnode.wire.tensors import DTYPES, Array

STEP_S = 0.2
ERRORS_SHOWN = 3
IN_FLIGHT_MAX = 4096
"""Of an open loop; what is due beyond it is counted as not submitted."""


@dataclass(slots=True)
class Load:
    """What was submitted, and what came of it."""

    took_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    off: list[float] = field(default_factory=list)
    """How far the expected completion was from what came, as a share of it."""
    nodes: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Of each node by id: seconds of the whole task, and of the run."""
    names: dict[str, str] = field(default_factory=dict)

    def came(self, result: Result, took_s: float) -> None:
        """A result."""
        self.took_s.append(took_s)
        self.names[result.node] = result.node_name
        self.nodes.setdefault(result.node, []).append((took_s, result.run_seconds))
        if result.quoted_seconds is not None:
            self.off.append(abs(result.quoted_seconds - result.seconds) / max(result.seconds, 1e-9))

    def failed(self, error: MeshError) -> None:
        """An error."""
        self.errors[error.code] += 1
        self.messages.setdefault(error.code, str(error))


def bench(
    model: ModelName,
    file: Annotated[str | None, typer.Argument(help="The input, as for `run`; zeros when there is none.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=86400, help="How long.")] = 10.0,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=1024, help="Tasks in flight.")] = 16,
    rate: Annotated[
        float, typer.Option(min=0, help="Tasks a second instead, whatever comes back; 0 for as many as come back.")
    ] = 0.0,
    timeout: Annotated[float, typer.Option(min=0.001, help="A task counts as good when it is back in so long.")] = 5.0,
) -> None:
    """Drive load through the mesh: latency, what was back in time, who did it, and how near that is to the bound."""
    with context.client() as client:
        document = client.ask("model.show", model=model)
        inputs = files.read_inputs(document, file, {}) if file is not None else _zeros(document)
        slots = {node["id"]: node["slots"] or 1 for node in client.status()["nodes"]}
    wanted = f"{document['name']}:{document['version']}"
    load, began = Load(), time.monotonic()
    try:
        asyncio.run(_drive(load, wanted, inputs, seconds=seconds, concurrency=concurrency, rate=rate, timeout=timeout))
    except KeyboardInterrupt:
        context.console(stderr=True).print("ended early; what came until then:")
    lasted_s = time.monotonic() - began
    if not load.took_s and not load.errors:
        raise typer.Exit(1)
    report = summary(load, slots, lasted_s=lasted_s, timeout_s=timeout) | {
        "model": wanted,
        "digest": document["digest"],
    }
    context.show(report, text)
    if not load.took_s:
        raise typer.Exit(1)


async def _drive(
    load: Load,
    model: str,
    inputs: Mapping[str, Array],
    *,
    seconds: float,
    concurrency: int,
    rate: float,
    timeout: float,  # noqa: ASYNC109 - the tasks' own
) -> None:
    """Until the time is over and everything is back."""
    ends = time.monotonic() + seconds

    async with AsyncClient(context.current.home) as client:

        async def one() -> None:
            began = time.monotonic()
            try:
                result = await client.infer(model, inputs, timeout=timeout)
            except AgentUnavailable:
                raise
            except MeshError as error:
                load.failed(error)
                if error.fault == "caller" and not load.took_s:
                    raise  # what is wrong with the first will be wrong with all
            else:
                load.came(result, time.monotonic() - began)

        async def again_and_again() -> None:
            while time.monotonic() < ends:
                await one()

        async with asyncio.TaskGroup() as group:
            group.create_task(_show_progress(load, ends, seconds))
            if not rate:
                for _ in range(concurrency):
                    group.create_task(again_and_again())
                return
            due, flying = time.monotonic(), set[asyncio.Task[None]]()
            while due < ends:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += 1 / rate
                if len(flying) >= IN_FLIGHT_MAX:
                    load.skipped += 1
                    continue
                task = group.create_task(one())
                flying.add(task)
                task.add_done_callback(flying.discard)


async def _show_progress(load: Load, ends: float, seconds: float) -> None:
    console = context.console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("load", total=seconds)
        while (left_s := ends - time.monotonic()) > 0:
            done = f"{len(load.took_s)} back, {sum(load.errors.values())} failed"
            progress.update(bar, completed=seconds - left_s, description=done)
            await asyncio.sleep(min(STEP_S, left_s))


def summary(load: Load, slots: Mapping[str, int], *, lasted_s: float, timeout_s: float) -> dict[str, Any]:
    """The figures of a load; seconds, and tasks a second. `slots`: runs at once of each node."""
    took = sorted(load.took_s)
    submitted = len(took) + sum(load.errors.values()) + load.skipped
    per_s = len(took) / lasted_s
    bound_s = sum(
        slots.get(node, 1) / max(statistics.median(run_s for _, run_s in tasks), 1e-9)
        for node, tasks in load.nodes.items()
    )
    return {
        "seconds": lasted_s,
        "submitted": submitted,
        "answered": len(took),
        "goodput": sum(it <= timeout_s for it in took) / submitted if submitted else 0.0,
        "per_s": per_s,
        "p50_s": _at(took, 0.5),
        "p99_s": _at(took, 0.99),
        "longest_s": took[-1] if took else None,
        "bound_per_s": bound_s,
        "efficiency": per_s / bound_s if bound_s else None,
        "prediction_error": statistics.median(load.off) if load.off else None,
        "errors": dict(load.errors),
        "messages": load.messages,
        "nodes": [
            {
                "node": node,
                "name": load.names[node],
                "share": len(tasks) / len(took),
                "slots": slots.get(node, 1),
                "p50_s": _at(sorted(it for it, _ in tasks), 0.5),
                "p99_s": _at(sorted(it for it, _ in tasks), 0.99),
                "run_s": statistics.median(run_s for _, run_s in tasks),
            }
            for node, tasks in sorted(load.nodes.items(), key=lambda item: -len(item[1]))
        ],
    }


def _at(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def text(report: Mapping[str, Any]) -> Text:
    """For people."""

    def ms(seconds: float | None) -> str:
        return "-" if seconds is None else f"{seconds * 1000:.2f}"

    lines = [
        Text(f"{report['model']}: {report['answered']} of {report['submitted']} tasks in {report['seconds']:.1f} s"),
        Text(f"{report['per_s']:.0f} a second; back in time {report['goodput'] * 100:.2f} %"),
        Text(f"p50 {ms(report['p50_s'])} ms, p99 {ms(report['p99_s'])}, longest {ms(report['longest_s'])}"),
    ]
    if report["efficiency"] is not None:
        of = f"{report['bound_per_s']:.0f} a second that the nodes' own runs would allow"
        lines.append(Text(f"{report['efficiency'] * 100:.0f} % of the {of}"))
    if report["prediction_error"] is not None:
        lines.append(Text(f"the expected completion was off by {report['prediction_error'] * 100:.0f} % (median)"))
    lines += [
        Text(f"{count} x {code}: {report['messages'][code]}", "red")
        for code, count in sorted(report["errors"].items(), key=lambda item: -item[1])[:ERRORS_SHOWN]
    ]
    columns = ("node", "share %", "slots", "p50 ms", "p99 ms", "run ms", "")
    rows = [
        [
            render.label(node["name"], node["node"]),
            f"{node['share'] * 100:.1f}",
            str(node["slots"]),
            ms(node["p50_s"]),
            ms(node["p99_s"]),
            ms(node["run_s"]),
            "",
        ]
        for node in report["nodes"]
    ]
    if rows:
        lines.append(render.table(columns, rows, right=columns[1:-1]))
    return Text("\n").join(lines)


def _zeros(document: Mapping[str, Any]) -> dict[str, Array]:
    """Zeros for every input; a dimension with a name counts as 1."""
    made: dict[str, Array] = {}
    for tensor in document["inputs"]:
        dtype = DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise InvalidInput(f"there are no zeros of type {tensor['dtype']}", hint="give a FILE with an input")
        shape = [dim if isinstance(dim, int) else 1 for dim in tensor["shape"]]
        made[tensor["name"]] = np.full(shape, "", object) if dtype.kind == "O" else np.zeros(shape, dtype)
    return made

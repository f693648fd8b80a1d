"""Commands that run models: `meshnode run` and `meshnode demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from meshnode.cli import context, files, render
from meshnode.cli.models import ModelName
from meshnode.client import Result

TOP = 5
SHOWN = 16


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(run)
    app.command()(demo)


def run(
    model: ModelName,
    file: Annotated[
        str | None, typer.Argument(help=".npy, .npz, .json, .png, .jpg, or - for standard input (models of one input).")
    ] = None,
    input: Annotated[list[str], typer.Option("--input", "-i", metavar="NAME=FILE", help="May be repeated.")] = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs: .npy, .npz or .json.")
    ] = None,
    node: Annotated[str | None, typer.Option(help="Run it on this node only.")] = None,
    zone: Annotated[str | None, typer.Option(help="Run it in this zone only.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds.")] = 30.0,
    priority: Annotated[str, typer.Option(help="low, normal or high.")] = "normal",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show where it would run, and why, without running.")
    ] = False,
) -> None:
    """Run one inference where it will be finished first.

    An image is opened with its orientation applied, converted to as many channels as the model's input has, resized
    with a bilinear filter to its height and width where these are fixed, and scaled from 0..255 to the range in the
    model's metadata `meshnode.image.range` (0,1 when it has none; uint8 inputs get 0..255). `meshnode.image.layout`
    is NCHW or NHWC.
    """
    if priority not in ("low", "normal", "high"):
        raise typer.BadParameter(f"priority is low, normal or high, not {priority!r}")
    options: dict[str, Any] = {"node": node, "zone": zone, "timeout": timeout, "priority": priority}
    with context.client() as client:
        document = client.ask("model.show", model=model)
        inputs = files.read_inputs(document, file, dict(_named(text) for text in input))
        if dry_run:
            context.show(client.plan(document["digest"], inputs, **options), render.plan)
            return
        result = client.infer(document["digest"], inputs, **options)
    if output is not None:
        files.write_outputs(output, result)
    if context.current.json:
        context.emit(_document(document, result, with_outputs=output is None))
    else:
        _print(document, result, with_outputs=output is None)


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r}: write NAME=FILE")
    return name, path


def _document(model: dict[str, Any], result: Result, *, with_outputs: bool) -> dict[str, Any]:
    return {
        "model": f"{model['name']}:{model['version']}",
        "digest": result.model,
        "node": result.node,
        "node_name": result.node_name,
        "provider": result.provider,
        "seconds": result.seconds,
        "queue_seconds": result.queue_seconds,
        "run_seconds": result.run_seconds,
        "attempts": [
            {"node": a.node, "name": a.name, "outcome": a.outcome, "seconds": a.seconds, "detail": a.detail}
            for a in result.attempts
        ],
        "outputs": {name: files.to_json(array) for name, array in result.items()} if with_outputs else None,
    }


def _print(model: dict[str, Any], result: Result, *, with_outputs: bool) -> None:
    console = context.console()
    if with_outputs:
        for name, array in result.items():
            console.print(_summary(name, array), soft_wrap=True)
    for attempt in result.attempts[:-1]:
        console.print(f"tried {attempt.name} ({attempt.node[:8]}): {attempt.outcome} after {attempt.seconds:.3f} s")
    console.print(
        f"{model['name']}:{model['version']} on {result.node_name} ({result.node[:8]}), "
        f"{result.provider.removesuffix('ExecutionProvider')}: {result.seconds * 1000:.1f} ms "
        f"(waited {result.queue_seconds * 1000:.1f}, ran {result.run_seconds * 1000:.2f})",
        soft_wrap=True,
    )


def _summary(name: str, array: Any) -> str:
    """An output for people: the top classes where it looks like probabilities, else its first values."""
    title = f"{name} {array.dtype}{list(array.shape)}"
    flat = array.reshape(-1)
    looks = (
        array.dtype.kind == "f" and 2 <= flat.size <= 100_000 and flat.min() >= 0 and abs(float(flat.sum()) - 1) < 1e-3
    )
    if looks:
        best = np.argsort(-flat)[:TOP]
        return f"{title}: " + ", ".join(f"{i} ({flat[i] * 100:.1f} %)" for i in best)
    values = ", ".join(str(v) for v in flat[:SHOWN].tolist())
    return f"{title}: {values}{', …' if flat.size > SHOWN else ''}"


def demo(
    nodes: Annotated[int, typer.Option(min=2, max=16, help="How many agents.")] = 4,
    tasks: Annotated[int, typer.Option(min=100, help="How many tasks, at least; samples are repeated.")] = 5000,
) -> None:
    """The whole thing on this machine: real agents, real digits, one agent killed in the middle."""
    from meshnode.cli.demo import Demo

    raise typer.Exit(Demo(nodes, tasks).run())

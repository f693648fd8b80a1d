"""Commands that run models, and tell where they ran: `meshnode run`, `why`, `bench`, `top`
and `demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from meshnode.cli import context, files, render
from meshnode.cli.bench import bench
from meshnode.cli.completion import node_names
from meshnode.cli.models import ModelNames
from meshnode.cli.top import top
from meshnode.client import Result
from meshnode.wire.tensors import Array, word_of

TOP = 5
SHOWN = 16
TIMEOUT_S = 30.0


class Urgency(StrEnum):
    """The priorities, as typer wants a choice."""

    low = "low"
    normal = "normal"
    high = "high"


class Shown(StrEnum):
    """What a demo shows."""

    tasks = "tasks"
    models = "models"


class Objective(StrEnum):
    """What waiting is weighed by."""

    tail = "tail"
    latency = "latency"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(run)
    app.command()(why)
    app.command()(bench)
    app.command()(top)
    app.command()(demo)


def run(
    model: ModelNames,
    file: Annotated[
        str | None, typer.Argument(help=".npy, .npz, .json, .png, .jpg, or - for standard input (models of one input).")
    ] = None,
    input: Annotated[list[str], typer.Option("--input", "-i", metavar="NAME=FILE", help="May be repeated.")] = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs: .npy, .npz or .json.")
    ] = None,
    node: Annotated[
        str | None, typer.Option(help="Run it on this node only (a name or an id).", autocompletion=node_names)
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Run it in this zone only.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds until it fails.")] = TIMEOUT_S,
    priority: Annotated[Urgency, typer.Option(help="Who goes first where tasks wait.")] = Urgency.normal,
    objective: Annotated[
        Objective, typer.Option(help="Where nodes are busy: the slowest tasks short, or the usual one.")
    ] = Objective.tail,
    exact: Annotated[bool, typer.Option("--exact", help="With ONNX Runtime's CPU provider only.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Never run it twice, whatever happens; it may end without an answer.")
    ] = False,
    hedge: Annotated[bool, typer.Option("--hedge", help="A second copy may run when the first is late.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Run it on two nodes and compare.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show where it would run, and why, without running.")
    ] = False,
) -> None:
    """Run one inference where it will be finished first.

    MODEL,MODEL,... is a pipeline: one task through several models, each fed by the one before, by equal names or where
    both have just one. Tensors between them go from node to node, and not at all where a node runs both.

    FILE: .npy and .npz as they are (.npz by input name); .json as nested lists, or as a map of them by input name, cast
    to the input's type unless that changes a value; .png and .jpg by the image rule.

    The image rule: the picture's orientation is applied; it is converted to as many channels as the model's input has
    (1 greyscale, 3 RGB, 4 RGBA) and resized with a bilinear filter to the input's height and width where these are
    fixed. A uint8 input gets 0..255; a float input gets that scaled linearly to `meshnode.image.range` of the model's
    metadata (0,1 when it has none). `meshnode.image.layout` (NCHW or NHWC) or the axis that is 1, 3 or 4 tells where
    the channels are; a batch axis of 1 is put in front.
    """
    options: dict[str, Any] = {"node": node, "zone": zone, "timeout": timeout, "priority": priority.value}
    options |= {"exact": exact, "objective": objective.value}
    named = dict(_named(text) for text in input)
    if output is not None:
        files.check_writable(output)
    models = [name.strip() for name in model.split(",")]
    if len(models) > 1 and (dry_run or hedge or verify):
        raise typer.BadParameter("--dry-run, --hedge and --verify are for one model, and here is a pipeline")
    with context.client() as client:
        documents = [client.ask("model.show", model=name) for name in models]
        document = documents[0]
        if file is None and not input and document["inputs"]:
            raise typer.BadParameter("no input: give a FILE, or -i NAME=FILE for each input")
        if output is not None:
            files.check_holds(output, len(documents[-1]["outputs"]))
        inputs = files.read_inputs(document, file, named)
        # By name: of files that have several, errors must speak of the one that was asked for.
        wanted, *others = (_exactly(name, it) for name, it in zip(models, documents, strict=True))
        if others:
            result = client.pipeline(wanted, *others).infer(inputs, **options, idempotent=not once)
        elif dry_run:
            plan = client.plan(wanted, inputs, **options)
            context.show(plan, lambda plan: render.plan(plan, context.console().width))
            return
        else:
            more: dict[str, Any] = {"idempotent": not once, "hedge": hedge, "verify": float(verify)}
            result = client.infer(wanted, inputs, **options, **more)
    if output is not None:
        files.write_outputs(output, result)
    if context.current.json:
        context.emit(_document(documents[-1], result, with_outputs=output is None) | _stages(documents, result))
    else:
        _print(documents, result, output)
        if verify:
            typer.echo(context.printable(_compared(result)))


def why(
    task: Annotated[str, typer.Argument(help="A task's id, or the beginning of one.")] = "",
    last: Annotated[bool, typer.Option("--last", help="The newest task of this agent.")] = False,
) -> None:
    """Why a task ran where it ran: who was asked, what each promised, and why the others were not asked."""
    if last == bool(task):
        raise typer.BadParameter("give a task's id, or --last")
    with context.client() as client:
        document = client.ask("why", task=task)
    context.show(document, lambda it: render.why(it, context.console().width))


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
        "precision": result.precision or None,
        "batch": result.batch,
        "quoted_seconds": result.quoted_seconds,
        "seconds": result.seconds,
        "queue_seconds": result.queue_seconds,
        "run_seconds": result.run_seconds,
        "attempts": [
            {"node": a.node, "name": a.name, "outcome": a.outcome, "seconds": a.seconds, "detail": a.detail}
            for a in result.attempts
        ],
        "outputs": {name: files.to_json(array) for name, array in result.items()} if with_outputs else None,
        "tensors": {name: {"dtype": word_of(a.dtype), "shape": list(a.shape)} for name, a in result.items()},
    }


def _exactly(given: str, document: dict[str, Any]) -> str:
    return given if given == document["digest"] else f"{document['name']}:{document['version']}"


def _stages(models: list[dict[str, Any]], result: Result) -> dict[str, Any]:
    """Of a pipeline, what there is to tell of each of its stages."""
    rows = [
        {
            "model": f"{model['name']}:{model['version']}",
            "digest": stage.model,
            "node": stage.node,
            "node_name": stage.node_name,
            "provider": stage.provider,
            "seconds": stage.seconds,
            "queue_seconds": stage.queue_seconds,
            "run_seconds": stage.run_seconds,
            "input_bytes": stage.input_bytes,
        }
        for model, stage in zip(models, result.stages, strict=False)
    ]
    return {"stages": rows} if rows else {}


def _print(models: list[dict[str, Any]], result: Result, output: Path | None) -> None:
    model = models[-1]
    if output is None:
        for name, array in result.items():
            typer.echo(context.printable(summary(name, array)))
    else:
        typer.echo(f"wrote {', '.join(result)} to {output}")
    for attempt in (it for it in result.attempts if it.outcome != "ok"):
        line = f"tried {attempt.name} ({attempt.node[:8]}): {attempt.outcome} after {attempt.seconds:.3f} s"
        typer.echo(context.printable(line))
    for model_of, stage in zip(models, result.stages, strict=False):
        line = f"{model_of['name']}:{model_of['version']} on {stage.node_name} ({stage.node[:8]}): "
        line += f"{stage.seconds * 1000:.1f} ms (waited {stage.queue_seconds * 1000:.1f}, "
        typer.echo(context.printable(f"{line}ran {stage.run_seconds * 1000:.2f}, {render.size(stage.input_bytes)} in)"))
    if result.stages:
        typer.echo(f"{len(result.stages)} stages: {result.seconds * 1000:.1f} ms")
        return
    how = " ".join(word for word in (result.provider.removesuffix("ExecutionProvider"), result.precision) if word)
    times = f"waited {result.queue_seconds * 1000:.1f}, ran {result.run_seconds * 1000:.2f}"
    if result.batch > 1:
        times += f" in a batch of {result.batch}"
    if result.quoted_seconds is not None:
        times += f", expected {result.quoted_seconds * 1000:.1f}"
    where = f"{model['name']}:{model['version']} on {result.node_name} ({result.node[:8]})"
    typer.echo(context.printable(f"{where}, {how}: {result.seconds * 1000:.1f} ms ({times})"))


def _compared(result: Result) -> str:
    others = [it for it in result.attempts if it.outcome == "ok" and it.node != result.node]
    if not others:
        return "not compared: no second node could run it"
    return f"compared with {' and '.join(f'{it.name} ({it.node[:8]})' for it in others)}"


def summary(name: str, array: Array) -> str:
    """An output for people: the top classes where it looks like probabilities, else its first values."""
    title = f"{name} {array.dtype if array.dtype != object else 'string'}{list(array.shape)}"
    flat = array.reshape(-1)
    if _is_probabilities(flat):
        best = np.argsort(-flat)[:TOP]
        return f"{title}: " + ", ".join(f"{i} ({flat[i] * 100:.1f} %)" for i in best)
    values = ", ".join(_value(value) for value in flat[:SHOWN])
    return f"{title}: {values}{f', … {flat.size - SHOWN} more' if flat.size > SHOWN else ''}"


def _is_probabilities(flat: Array) -> bool:
    if flat.dtype.kind != "f" or not 2 <= flat.size <= 100_000:
        return False
    return bool(np.isfinite(flat).all() and flat.min() >= 0 and abs(float(flat.sum(dtype=np.float64)) - 1) < 1e-3)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return (
        f"{float(value):.6g}" if getattr(value, "dtype", None) is not None and value.dtype.kind == "f" else str(value)
    )


def demo(
    what: Annotated[
        Shown, typer.Argument(help="Tasks that survive a death, or a model that goes to all.")
    ] = Shown.tasks,
    nodes: Annotated[int, typer.Option(min=2, max=16, help="How many agents that work; one more only submits.")] = 4,
    tasks: Annotated[int, typer.Option(min=100, help="How many tasks, at least; samples are repeated.")] = 5000,
    mb: Annotated[int, typer.Option("--mb", min=8, max=10_000, help="Of models: megabytes of the model.")] = 60,
) -> None:
    """The whole thing on this machine: real agents, real digits, one agent killed in the middle.

    `demo models` moves one model from one agent to all the others at once, and kills one that receives on the way.
    """
    from meshnode.cli.demo import Demo
    from meshnode.cli.demomodels import ModelsDemo

    if what is Shown.models:
        raise typer.Exit(ModelsDemo(max(3, nodes), mb * 1_000_000).run())
    raise typer.Exit(Demo(nodes, tasks).run())

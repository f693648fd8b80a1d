"""Jobs and models for tests of execution."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper

from meshnode.config import Execution as Settings
from meshnode.execution.devices import Devices, Gpu
from meshnode.execution.job import Done, Job, ModelFile
from meshnode.execution.supervisor import Execution
from meshnode.wire import tensors
from meshnode.wire.messages import Digest, TaskId

MODELS = Path(__file__).resolve().parents[2] / "models"
value_info = helper.make_tensor_value_info
INT_MIN = -(2**31)
KILLS = np.full((1, 4), -1, np.int32)
"""An input that kills the worker which runs `fragile` on it."""
FAILS = np.zeros((1, 4), np.int32)
"""An input that `fragile` ends with an error on."""


def save(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], initializer: Any = ()) -> ModelFile:
    """A model of these nodes, in a file."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializer))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{secrets.token_hex(4)}.onnx"
    onnx.save(model, path)
    return ModelFile(Digest(secrets.token_hex(32)), path)


def new(folder: Path, settings: Settings, *, cores: int = 1, gpus: Sequence[Gpu] = (), **more: Any) -> Execution:
    """What runs models of the folder and the bundled ones, not started yet."""
    machine = Devices(cores=cores, memory_total=psutil.virtual_memory().total, gpus=list(gpus))
    given: dict[str, Any] = {"folder": folder / "w", "models": (folder, MODELS), "changed": lambda: None}
    return Execution(settings, machine, **(given | more))


@asynccontextmanager
async def ready(execution: Execution) -> AsyncIterator[Execution]:
    """Started, with a worker that is ready; stopped at the end of the block."""
    await execution.start()
    try:
        async with asyncio.timeout(60):
            await execution.ready()
        yield execution
    finally:
        await execution.stop()


def bundled(name: str) -> ModelFile:
    """One of models/."""
    path = MODELS / name / "model.onnx"
    return ModelFile(Digest(hashlib.sha256(path.read_bytes()).hexdigest()), path)


def endless(folder: Path) -> ModelFile:
    """Loops until it is stopped."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Mul", ["v", "v"], ["vo"])],
        "body",
        [
            value_info("i", TensorProto.INT64, []),
            value_info("c", TensorProto.BOOL, []),
            value_info("v", TensorProto.FLOAT, []),
        ],
        [value_info("co", TensorProto.BOOL, []), value_info("vo", TensorProto.FLOAT, [])],
    )
    return save(
        folder,
        [helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)],
        [value_info("x", TensorProto.FLOAT, [])],
        [value_info("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("go", TensorProto.BOOL, [], [True])],
    )


def fragile(folder: Path) -> ModelFile:
    """The smallest int32 modulo each element: -1 divides it into a number that does not exist, and the processor ends
    the process (SIGFPE, on x86); 0 is an error of the model; all else is fine, and rows do not touch each other."""
    return save(
        folder,
        [helper.make_node("Mod", ["least", "x"], ["y"])],
        [value_info("x", TensorProto.INT32, ["b", 4])],
        [value_info("y", TensorProto.INT32, ["b", 4])],
        [helper.make_tensor("least", TensorProto.INT32, [1], [INT_MIN])],
    )


def rows_times(folder: Path, nodes: list[Any], initializer: Any = (), shape: Any = ("b", 4)) -> ModelFile:
    """x to y, both float [b, 4] or `shape`."""
    info = value_info("x", TensorProto.FLOAT, list(shape)), value_info("y", TensorProto.FLOAT, list(shape))
    return save(folder, nodes, [info[0]], [info[1]], initializer)


def job(model: ModelFile, inputs: dict[str, Any], within_s: float = 30.0, **more: Any) -> Job:
    """A job that runs the model on these inputs."""
    specs, parts = tensors.encode(inputs)
    task = TaskId(secrets.token_hex(16))
    return Job(task, model, specs, memoryview(b"".join(parts)), (), time.monotonic() + within_s, **more)


async def done(it: Execution, model: ModelFile, inputs: dict[str, Any], within_s: float = 30.0, **more: Any) -> Done:
    """What running it brings."""
    return await it.run(job(model, inputs, within_s, **more))


async def run(it: Execution, model: ModelFile, inputs: dict[str, Any], within_s: float = 30.0) -> dict[str, Any]:
    """The arrays that running it brings."""
    answer = await done(it, model, inputs, within_s)
    return tensors.decode(answer.specs, answer.body)


async def proven(it: Execution, model: ModelFile, inputs: dict[str, Any]) -> str:
    """Run the model once, then have it proven as the first two waiting tasks would; why not, or ""."""
    await run(it, model, inputs)
    device = it._own[0]
    one = job(model, inputs)
    device.apply(await device.prover.judge(model, one.inputs))
    assert device.queue.pace(model.digest).proven is not None
    return await device.prover.why_not(model, one.inputs)


async def gathered(*work: Any) -> list[Any]:
    """All ends, errors included, within a minute."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*work, return_exceptions=True)


def killer(folder: Path) -> ModelFile:
    """Ends the process that loads it: what `fragile` divides is constant, and ONNX Runtime computes it at once."""
    return save(
        folder,
        [
            helper.make_node("Mod", ["least", "minus"], ["k"]),
            helper.make_node("Cast", ["k"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "f"], ["y"]),
        ],
        [value_info("x", TensorProto.FLOAT, [1])],
        [value_info("y", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor("least", TensorProto.INT32, [1], [INT_MIN]),
            helper.make_tensor("minus", TensorProto.INT32, [1], [-1]),
        ],
    )


def bomb(folder: Path, levels: int = 26) -> ModelFile:
    """Loads for minutes: functions of which each calls the next one twice. The scanner refuses it; where the tests load
    it, it stands for what no scanner sees."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]
    functions = []
    for i in range(levels):
        last = i == levels - 1
        calls = [(helper.make_node(f"f{i + 1}", [a], [b], domain="l")) for a, b in (("x", "m"), ("m", "y"))]
        nodes = [helper.make_node("Identity", ["x"], ["y"])] if last else calls
        functions.append(helper.make_function("l", f"f{i}", ["x"], ["y"], nodes, opsets))
    info = value_info("x", TensorProto.FLOAT, [1]), value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="l")], "g", [info[0]], [info[1]])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    path = folder / f"{secrets.token_hex(4)}.onnx"
    onnx.save(model, path)
    return ModelFile(Digest(secrets.token_hex(32)), path)

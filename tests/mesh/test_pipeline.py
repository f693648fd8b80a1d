"""A model cut into parts, over real processes: what the whole brings, from nodes that each hold a part of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

import meshnode
from tests.mesh.rig import MODELS, Agent, Rig, wait_for
from tests.splitting.making import build, constant, info, inputs, save, transformer

WIDTH = 384


def memory(agent: Agent) -> dict[str, int]:
    """What its worker holds, by model, as `meshnode ps` says."""
    with meshnode.Client(home=agent.home) as client:
        return {row["name"]: row["memory_bytes"] for row in client.ask("ps")}


def test_a_model_runs_over_three_nodes_that_each_hold_a_third(mesh_rig: Rig) -> None:
    """42 MB cut in three by the command, one part a node: the outputs of the whole, the tensors between them never
    through the submitter unless it runs a part, and on each node less memory than the whole takes."""
    agents = mesh_rig.mesh(3)
    path = save(transformer(6, WIDTH), mesh_rig.folder / "whole.onnx")
    folder = mesh_rig.folder / "parts"
    parts = agents[0].json("model", "split", str(path), "--parts", "3", "-o", str(folder))
    assert 3 == len(parts)
    given = inputs(width=WIDTH)
    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)[0]

    with meshnode.Client(home=agents[0].home) as client:
        for part in parts:
            client.add_model(part["path"])
        wait_for(lambda: all(len(agent.status()["models"]) == 3 for agent in agents), within_s=20, why="all are known")
        stages = [meshnode.Stage(f"whole-{n}", node=agent.id) for n, agent in enumerate(agents, 1)]
        result = client.pipeline(*stages).infer(given, timeout=60)
        assert [agent.id for agent in agents] == [stage.node for stage in result.stages]
        np.testing.assert_allclose(expected, result["y"], rtol=1e-4, atol=1e-5)

        held = [memory(agent) for agent in agents]
        client.add_model(path)
        client.infer("whole", given, node=agents[0].id, timeout=60)
        whole = memory(agents[0])["whole"]
        assert whole > 30_000_000  # of 42: some of it comes out of memory that the worker had already
        for n, rows in enumerate(held, 1):
            assert rows[f"whole-{n}"] < whole * 0.6, (n, rows, whole)
        assert all(sum(rows.values()) < whole for rows in held[1:]), (held, whole)


def test_the_command_runs_a_pipeline(mesh_rig: Rig) -> None:
    """`meshnode run one,two FILE`: the outputs of the last, and a line for each stage; --json has them too."""
    agent = mesh_rig.start("alone")
    path = save(transformer(1, 32), mesh_rig.folder / "small.onnx")
    parts = agent.json("model", "split", str(path), "--at", "embedded", "--name", "little", "-o", str(mesh_rig.folder))
    for part in parts:
        agent.command("model", "add", part["path"])
    given = inputs(width=32)
    np.savez(mesh_rig.folder / "in.npz", **given)
    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)[0]
    output = mesh_rig.folder / "out.npy"
    said = agent.command("run", "little-1,little-2", str(mesh_rig.folder / "in.npz"), "-o", str(output)).stdout
    assert ["little-1:1 on alone", "little-2:1 on alone", "2 stages"] == [
        line.partition(" (")[0].partition(":" if line.startswith("2") else "\0")[0] for line in said.splitlines()[1:]
    ]
    np.testing.assert_allclose(expected, np.load(output), rtol=1e-4, atol=1e-5)
    told = json.loads(agent.command("--json", "run", "little-1,little-2", str(mesh_rig.folder / "in.npz")).stdout)
    assert ["little-1:1", "little-2:1"] == [stage["model"] for stage in told["stages"]]
    assert 2 == agent.command("run", "little-1,little-2", "--dry-run", check=None).returncode


def test_no_pipeline_is_lost_when_a_node_is_killed(mesh_rig: Rig) -> None:
    """kill -9 of a node with tensors between two stages, and with second stages of others: every pipeline is answered,
    and right; the submitter runs nothing itself."""
    agents = mesh_rig.mesh(3)
    submitter = mesh_rig.start("submitter", agents[0].command("invite", "--role", "submitter").stdout.strip())
    for name, path in feeding_slow(mesh_rig.folder).items():
        with meshnode.Client(home=agents[0].home) as client:
            client.add_model(path, name=name)
    wait_for(lambda: len(submitter.status()["models"]) == 2, within_s=20, why="it knows the models")

    def busy() -> Agent | None:
        doing = {node["id"]: node["in_flight"] or 0 for node in submitter.status()["nodes"]}
        return next((agent for agent in agents[1:] if doing.get(agent.id, 0) >= 2), None)

    x = np.arange(64, dtype=np.float32).reshape(1, 64) / 64
    with meshnode.Client(home=submitter.home) as client:
        pipeline = client.pipeline("feeder", "slow")
        expected = pipeline.infer({"x": x}, timeout=60)["y"]
        tasks = [pipeline.submit({"x": x}, timeout=60) for _ in range(40)]
        wait_for(busy, within_s=30, why="a node is busy").kill()
        results = [task.result(60) for task in tasks]

    assert all(np.array_equal(expected, result["y"]) for result in results)
    assert all([0, 1] == sorted({attempt.stage for attempt in result.attempts}) for result in results)
    again = [attempt for result in results for attempt in result.attempts if attempt.outcome == "peer_lost"]
    assert again, "the killed node had work, and it was done elsewhere"
    assert submitter.id not in {stage.node for result in results for stage in result.stages}


def feeding_slow(folder: Path) -> dict[str, Path]:
    """feeder: hands x on and says how many rounds; slow: takes about a tenth of a second for these."""
    wide = info("x", TensorProto.FLOAT, [1, 64])
    node = helper.make_node("Identity", ["many"], ["rounds"])
    outputs = [wide, info("rounds", TensorProto.INT64, [])]
    feeder = build([node], [wide], outputs, [constant("many", np.int64(60_000))])
    return {"feeder": save(feeder, folder / "feeder.onnx"), "slow": MODELS / "slow" / "model.onnx"}

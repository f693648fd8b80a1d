"""Blueprints on real processes: in place, made good after a death, taken back, and honest about what cannot be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import meshnode
from meshnode.errors import MeshError
from tests.mesh.rig import MODELS, Agent, Rig, wait_for

DIGITS = MODELS / "digits" / "model.onnx"
IMAGE = {"image": np.zeros((1, 1, 8, 8), np.float32)}


def blueprint(folder: Path, **more: object) -> str:
    words = {"model": "digits", "replicas": 1, **more}
    path = folder / "stores.toml"
    lines = [
        f"{key} = {value if isinstance(value, str) and value[0] in '{[' else json.dumps(value)}"
        for key, value in words.items()
    ]
    path.write_text("\n".join(['name = "stores"', "[[models]]", *lines]))
    return str(path)


def state(agent: Agent) -> dict[str, Any]:
    with meshnode.Client(home=agent.home) as client:
        return dict(client.ask("blueprint.show", name="stores"))


def holders(agent: Agent) -> list[str]:
    (model,) = state(agent)["models"]
    return sorted(seat["name"] for seat in model["seats"] if seat["there"])


def like_digits(path: Path, *, works: bool) -> Path:
    """Another model with the same input and output: it answers with ones, or fails on every image."""
    model = onnx.load(DIGITS)
    if works:
        model.producer_version = "next"
        onnx.save(model, path)
        return path
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["table", "shape"], ["probabilities"], axis=0),  # 8 is no row of two
    ]
    table = helper.make_tensor("table", TensorProto.FLOAT, [2, 10], [1.0] * 20)
    graph = helper.make_graph(nodes, "bad", [image], [output], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@contextmanager
def asked(agent: Agent) -> Iterator[dict[str, int]]:
    """Tasks of `digits` without pause; how many were answered by which model, and how many failed."""
    counts: dict[str, int] = {"failed": 0}
    over = threading.Event()

    def work() -> None:
        with meshnode.Client(home=agent.home) as client:
            while not over.wait(0.005):
                try:
                    model = client.infer("digits", IMAGE, timeout=10).model
                except MeshError:
                    counts["failed"] += 1
                else:
                    counts[model] = counts.get(model, 0) + 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def test_a_blueprint_is_put_in_place_and_made_good_after_a_death(mesh_rig: Rig, tmp_path: Path) -> None:
    """Exit code 0 only once it is; who dies is replaced in seconds; what cannot be is told with its reasons."""
    agents = mesh_rig.mesh(3)
    agents[0].command("model", "add", str(DIGITS), "--name", "digits")
    plan = agents[0].command("apply", blueprint(tmp_path), "--dry-run")
    assert "gets it" in plan.stdout or "has it" in plan.stdout
    assert [] == json.loads(agents[0].command("--json", "blueprint", "list").stdout)

    agents[0].command("apply", blueprint(tmp_path, replicas=2), "--timeout", "30s")
    first = holders(agents[0])
    assert 2 == len(first)
    assert first == holders(agents[1]), "every node sees the same"

    victim = next(agent for agent in agents[1:] if agent.home.name in first)
    victim.kill()
    left = sorted(agent.home.name for agent in agents if agent is not victim)
    wait_for(lambda: left == holders(agents[0]), within_s=30, why="the next in line has it")

    short = agents[0].command("apply", blueprint(tmp_path, replicas=3), "--timeout", "1s", check=1)
    assert "1 more than there are nodes for it" in short.stdout
    assert "not alive" in short.stdout
    agents[0].command("blueprint", "rollback", "stores", "--timeout", "30s")
    assert 2 == state(agents[0])["models"][0]["replicas"]
    agents[0].command("blueprint", "remove", "stores")
    assert "no blueprint 'stores'" in agents[0].command("blueprint", "show", "stores", check=1).stderr


@pytest.mark.parametrize("works", [True, False])
def test_a_new_version_is_tried_first(mesh_rig: Rig, tmp_path: Path, works: bool) -> None:
    """A share of the tasks; one that does well goes to all, one that fails is taken back, and the exit code says so."""
    agents = mesh_rig.mesh(2)
    agents[0].command("model", "add", str(DIGITS), "--name", "digits")
    text = blueprint(tmp_path, replicas=2, canary='{ share = 0.4, for = "2s", errors = 0.01, slower = 100 }')
    agents[0].command("apply", text, "--timeout", "30s")
    added = agents[0].command(
        "--json", "model", "add", str(like_digits(tmp_path / "next.onnx", works=works)), "--name", "digits"
    )
    new = json.loads(added.stdout)["digest"]
    with asked(agents[0]) as counts:
        wait_for(lambda: len(counts) == 2, within_s=20, why="tasks are answered")
        assert new not in counts, "the blueprint says which version a name means"
        done = agents[0].command("apply", text, "--timeout", "60s", check=0 if works else 1)
    if works:
        assert 0 == counts["failed"]
        assert counts[new] > 0
        assert 2 == state(agents[1])["models"][0]["version"]
    else:
        assert "back to version 1" in done.stdout
        assert counts["failed"] > 0
        assert 1 == state(agents[1])["models"][0]["version"]
        assert sum(counts.values()) > counts["failed"]


def test_who_is_no_admin_signs_no_blueprint(mesh_rig: Rig, tmp_path: Path) -> None:
    """Refused by policy, with who may; nonsense is refused with its place."""
    agents = mesh_rig.mesh(2)
    agents[0].command("model", "add", str(DIGITS), "--name", "digits")
    wait_for(lambda: agents[1].status()["models"], within_s=10, why="the model is known")
    refused = agents[1].command("apply", blueprint(tmp_path), check=4)
    assert "admin" in refused.stderr
    wrong = agents[0].command("apply", blueprint(tmp_path, replica=3), check=1)
    assert "replica" in wrong.stderr
    unknown = agents[0].command("apply", blueprint(tmp_path, model="nothing"), check=1)
    assert "nothing" in unknown.stderr

"""Hostile model files at real agents, through the command line: refused with a reason, and the agent goes on."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

import meshnode
from tests.catalog.making import outside, weights
from tests.catalog.wire import model as model_of
from tests.catalog.zoo import constant_of_shape, doubling, identities, nested
from tests.execution.making import endless, killer, value_info
from tests.mesh.rig import MODELS, Agent, Rig

SECRET = b"what only the owner may read. "
PROBE_S = 1.0
CONFIG = f"[execution]\nprobe_timeout_s = {PROBE_S}\nconcurrency = 1\n"


@pytest.fixture
def agent(mesh_rig: Rig) -> Agent:
    """One agent that tries a model for a second at most."""
    home = mesh_rig.folder / "a"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(CONFIG)
    return mesh_rig.start("a")


def refusal(agent: Agent, path: Path) -> str:
    """What `model add` says; it must not take it."""
    done = agent.command("--json", "model", "add", str(path), check=None)
    assert done.returncode != 0
    error = json.loads(done.stdout)
    return f"{error['code']}: {error['message']}"


def still_works(agent: Agent) -> None:
    """It answers, nothing of the models stayed, and it never took much memory."""
    agent.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    with meshnode.Client(home=agent.home) as client:
        assert 1 == client.infer("echo", {"x": np.ones((1, 1), np.float32)}, timeout=30)["y"].size
    assert ["echo"] == [it["name"] for it in agent.json("model", "list")]
    assert 1 == len(list((agent.home / "models").iterdir()))
    assert psutil.Process(agent.process.pid).memory_info().rss < 1 << 30


def gigabytes(folder: Path) -> Path:
    """Makes 64 GB of a number that stands in its input: no file shows it."""
    node = helper.make_node("Expand", ["x", "s"], ["y"])
    reshaped = helper.make_node("Add", ["n", "k"], ["s"])
    graph = helper.make_graph(
        [reshaped, node],
        "g",
        [value_info("x", TensorProto.FLOAT, [1]), value_info("n", TensorProto.INT64, [1])],
        [value_info("y", TensorProto.FLOAT, ["big"])],
        [helper.make_tensor("k", TensorProto.INT64, [1], [1 << 34])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "gigabytes.onnx")
    return folder / "gigabytes.onnx"


def test_what_the_scanner_refuses_never_reaches_a_worker(agent: Agent, tmp_path: Path) -> None:
    """Bombs and huge allocations are told at once: the worker process is the same afterwards."""
    before = psutil.Process(agent.process.pid).children()
    for data, says in (
        (doubling(), "model_refused.*nodes when its functions"),
        (identities(200_000), "model_refused.*more than 100000 nodes"),
        (model_of(nested(40)), "model_refused.*deep"),
        (constant_of_shape(1 << 34, 4), "out_of_memory.*at least 1786"),
        (b"\x00\x00\x00\x00ORTM" + bytes(100), r"model_refused.*\.ort"),
    ):
        (tmp_path / "m.onnx").write_bytes(data)
        assert_says(says, refusal(agent, tmp_path / "m.onnx"))
    assert before == psutil.Process(agent.process.pid).children()
    still_works(agent)


def test_external_data_cannot_be_a_file_of_the_machine(agent: Agent, tmp_path: Path) -> None:
    """Other folders, links of both kinds, the process's own memory, bytes past the end: none is read or copied."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET * 2000)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "short.bin").write_bytes(weights(10).tobytes())
    os.link(secret, folder / "hard.bin")
    (folder / "soft.bin").symlink_to(secret)
    for data, says in (
        (outside("../secret"), "right beside"),
        (outside(str(secret)), "right beside"),
        (outside("*/_ORT_MEM_ADDR_/*", offset="140000000000000", length="32000"), "right beside"),
        (outside("hard.bin"), "hard link"),
        (outside("soft.bin"), "is a link"),
        (outside("gone.bin"), "missing"),
        (outside("short.bin"), "up to byte 32000, and the file has 40"),
        (outside("short.bin", offset="9223372036854775807"), "up to byte 922337203685480"),
        (outside("short.bin", count=10, length="41"), "declares 40 bytes"),
    ):
        (folder / "m.onnx").write_bytes(data)
        assert_says(f"model_refused.*{says}", refusal(agent, folder / "m.onnx"))
    for path in agent.home.rglob("*"):
        assert path.is_socket() or not path.is_file() or SECRET not in path.read_bytes()
    still_works(agent)


def test_what_no_scanner_sees_ends_at_its_limits(agent: Agent, tmp_path: Path) -> None:
    """An endless loop, a model that kills its worker and one that wants 64 GB while it runs: the probe finds the first
    two, the third fails by itself, and the agent and later models do not notice."""
    began = time.monotonic()
    assert_says("model_refused.*did not end within 1 s", refusal(agent, endless(tmp_path).path))
    assert time.monotonic() - began < PROBE_S + 20
    assert_says("model_refused.*kills the worker.*SIGFPE", refusal(agent, killer(tmp_path).path))
    done = agent.command("--json", "model", "add", str(gigabytes(tmp_path)), "--name", "big", check=None)
    if done.returncode == 0:  # zeros may fail: that a model loads is what has to be known
        with meshnode.Client(home=agent.home) as client, pytest.raises(meshnode.MeshError):
            client.infer("big", {"x": np.ones(1, np.float32), "n": np.zeros(1, np.int64)}, timeout=30)
        agent.command("model", "remove", "big")
    still_works(agent)


def test_a_verdict_is_shown(agent: Agent) -> None:
    """Who looks at a model sees what was found in it."""
    agent.command("model", "add", str(MODELS / "digits" / "model.onnx"), "--name", "digits")
    assert_says(
        r"scan +12 nodes; ai\.onnx 17; at least 134.* of memory; rules 1",
        agent.command("model", "show", "digits").stdout,
    )
    assert 12 == agent.json("model", "show", "digits")["scan"]["nodes"]


def assert_says(pattern: str, text: str) -> None:
    assert re.search(pattern, text, re.DOTALL), f"{pattern!r} is not in {text!r}"

"""`meshnode run` against a small agent: files in, outputs out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from meshnode.cli.running import summary
from tests.cli.conftest import Command
from tests.client.door import DIGEST, NODE, Door


def test_a_file_is_run_and_said_where(door: Door, meshnode: Command, tmp_path: Path) -> None:
    """The outputs, the node and the times."""
    np.save(tmp_path / "x.npy", np.array([1.5, 2.0], np.float32))

    code, out, _ = meshnode("run", "double", tmp_path / "x.npy")

    assert 0 == code
    assert "y float32[2]: 3, 4" == out.splitlines()[0]
    assert "double:1 on door (bbbbbbbb), CPU" in out.splitlines()[1]


def test_json_has_everything(door: Door, meshnode: Command, tmp_path: Path) -> None:
    """Outputs as lists with their types, the node, each attempt."""
    (tmp_path / "x.json").write_text("[1, 2.5]")

    code, out, _ = meshnode("--json", "run", "double", "-i", f"x={tmp_path / 'x.json'}")

    document = json.loads(out)
    assert 0 == code
    assert {"y": [2.0, 5.0]} == document["outputs"]
    assert {"y": {"dtype": "float", "shape": [2]}} == document["tensors"]
    assert (NODE, DIGEST, ["ok"]) == (
        document["node"],
        document["digest"],
        [attempt["outcome"] for attempt in document["attempts"]],
    )


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".json"])
def test_outputs_are_written(door: Door, meshnode: Command, tmp_path: Path, suffix: str) -> None:
    """-o writes what came, by the file's ending."""
    np.savez(tmp_path / "x.npz", x=np.array([3.0], np.float32))
    path = tmp_path / f"out{suffix}"

    assert 0 == meshnode("run", "double", tmp_path / "x.npz", "-o", path)[0]

    if suffix == ".json":
        assert {"y": [6.0]} == json.loads(path.read_text())
    else:
        loaded = np.load(path)
        assert [6.0] == (loaded["y"] if suffix == ".npz" else loaded).tolist()


def test_an_output_that_cannot_be_written_costs_no_run(door: Door, meshnode: Command, tmp_path: Path) -> None:
    """A wrong ending or folder is found before anything is run."""
    np.save(tmp_path / "x.npy", np.ones(1, np.float32))
    for path in (tmp_path / "out.png", tmp_path / "no" / "out.npy"):
        assert 1 == meshnode("run", "double", tmp_path / "x.npy", "-o", path)[0]
    assert [] == door.tasks


def test_an_unknown_model_is_exit_1_with_the_agents_hint(door: Door, meshnode: Command) -> None:
    """The agent's error is shown, with its hint."""
    code, out, err = meshnode("run", "tripel", "-")
    assert (1, "") == (code, out)
    assert "there is double" in err


def test_summaries() -> None:
    """Probabilities by their top classes; anything else by its first values."""
    assert "p float32[1, 3]: 2 (70.0 %), 0 (20.0 %), 1 (10.0 %)" == summary("p", np.array([[0.2, 0.1, 0.7]], "f4"))
    assert "v int64[2]: 1, -2" == summary("v", np.array([1, -2]))
    assert "v float32[2]: 0.1, nan" == summary("v", np.array([0.1, np.nan], "f4"))
    assert "s string[1]: 'a'" == summary("s", np.array(["a"], object))
    assert "e float32[0]: " == summary("e", np.empty(0, "f4"))
    assert summary("v", np.arange(20)).endswith("15, … 4 more")

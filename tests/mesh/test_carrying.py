"""Models between real agents; that kills do not stop one is promise P14."""

from __future__ import annotations

from meshnode.cli.showpiece import weights_model
from tests.mesh.rig import Rig, wait_for


def test_models_are_fetched_loaded_and_pinned_on_another_node(mesh_rig: Rig) -> None:
    """By the commands that a person uses: pull, load, unload, pin and unpin, with --on; and what is no way is said."""
    first, second = mesh_rig.mesh(2)
    path = weights_model(mesh_rig.folder / "big.onnx", 3_000_000)
    digest = first.json("model", "add", str(path), "--name", "big")["digest"]

    pulled = first.json("model", "pull", "big", "--on", "n1")
    assert (digest, second.id) == (pulled["digest"], pulled["node"])
    assert (second.home / "models" / digest / "model.onnx").read_bytes() == path.read_bytes()

    first.command("model", "load", "big", "--on", "n1")
    assert [digest] == [row["digest"] for row in second.json("ps")]
    first.command("model", "unload", "big", "--on", "n1")
    assert [] == second.json("ps")

    assert "pinned on n1" in first.command("model", "pin", "big", "--on", "n1").stdout
    assert ["pin-big"] == [it["name"] for it in second.json("blueprint", "list")]
    wait_for(lambda: first.json("blueprint", "show", "pin-big")["converged"], within_s=30, why="it is in its place")
    first.command("model", "unpin", "big")
    assert [] == first.json("blueprint", "list")

    refused = first.command("model", "pull", "nothing", check=None)
    assert 1 == refused.returncode
    assert "no model 'nothing' in this mesh" in refused.stderr


def test_a_file_that_rotted_is_fetched_again_with_one_message(mesh_rig: Rig) -> None:
    """Damaged while the agent was down: the first task moves it aside, fetches it anew and is answered."""
    first, second = mesh_rig.mesh(2)
    path = weights_model(mesh_rig.folder / "big.onnx", 3_000_000)
    digest = first.json("model", "add", str(path), "--name", "big")["digest"]
    second.command("model", "pull", "big")
    assert 0 == second.terminate()
    file = second.home / "models" / digest / "model.onnx"
    file.chmod(0o600)
    with file.open("r+b") as rotten:
        rotten.seek(1_000_000)
        rotten.write(b"\xff" * 64)
    second = mesh_rig.start("n1", listen=second.address)
    second.command("model", "load", "big", within_s=60)
    assert file.read_bytes() == path.read_bytes()
    assert 1 == second.log().count("is damaged")

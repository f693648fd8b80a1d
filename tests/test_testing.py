"""The throw-away mesh that other people's tests use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meshnode.testing import Mesh

ECHO = Path(__file__).parent.parent / "models" / "echo" / "model.onnx"


def test_a_mesh_comes_works_and_goes() -> None:
    """Three agents run a task on each, one is killed, and nothing is left at the end."""
    with Mesh(n=3) as mesh:
        folder = mesh.homes[0].parent
        with mesh.client() as client:
            client.add_model(ECHO, name="echo")
            x = np.ones((1, 2), np.float32)
            for node in mesh.ids:
                assert node == client.infer("echo", {"x": x}, node=node).node
            mesh.kill(2)
            assert [[1.0, 1.0]] == client.infer("echo", {"x": x})["y"].tolist()
    assert not folder.exists()

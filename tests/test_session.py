"""The drop-in for onnxruntime's class."""

from __future__ import annotations

from pathlib import Path

import meshnode
from meshnode.session import NodeArg
from tests.client.door import DIGEST, Door


def test_existing_code_runs_unchanged(tmp_path: Path) -> None:
    """`run`, `get_inputs` and `get_outputs` answer as onnxruntime's do."""
    with Door(tmp_path) as door:
        door.models.append(DIGEST)
        with meshnode.InferenceSession("double", providers=["CPUExecutionProvider"], home=tmp_path) as session:
            assert [NodeArg("x", "tensor(float)", ["n"])] == session.get_inputs()
            assert [NodeArg("y", "tensor(float)", ["n"])] == session.get_outputs()
            (y,) = session.run(None, {"x": [1.0, 2.0]})
            assert [2.0, 4.0] == y.tolist()
            (y,) = session.run(["y"], {session.get_inputs()[0].name: [3.0]})
            assert [6.0] == y.tolist()

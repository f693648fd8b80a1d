"""What people's clients send: a model that takes every datatype of the Open Inference Protocol, and arrays for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from meshnode.edge.http.server import TOKEN
from meshnode.edge.node import Node
from tests.edge.living import ask
from tests.waiting import until

EVERY: dict[str, tuple[int, Any]] = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BF16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "BYTES": (TensorProto.STRING, np.object_),
}
MODELS = Path(__file__).parent.parent.parent / "models"


TEXTS = ["BYTES", "FP32"]
NUMBERS = [name for name in EVERY if name != "BYTES"]
"""ONNX Runtime takes no texts together with bfloat16 by its Python interface, so there are two models."""


def identities(folder: Path, datatypes: list[str]) -> Path:
    """A model that gives each of its inputs back, one of each datatype: `in_fp32` as `out_fp32`."""
    shape = ["rows", "columns"]
    info = helper.make_tensor_value_info
    names = [name.lower() for name in datatypes]
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names],
        "g",
        [info(f"in_{name.lower()}", EVERY[name][0], shape) for name in datatypes],
        [info(f"out_{name.lower()}", EVERY[name][0], shape) for name in datatypes],
    )
    path = folder / f"{len(datatypes)}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def sample(datatype: str) -> Any:
    """Two rows of three: the largest and the smallest, and what is between."""
    dtype = np.dtype(EVERY[datatype][1])
    if datatype == "BYTES":
        return np.array([["", "a", "日本語"], ["\N{PILE OF POO}", "x" * 1000, "\0"]], object)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if dtype.kind in "iu":
        it = np.iinfo(dtype)
        return np.array([[it.min, it.max, 0], [1, 2, 3]], dtype)
    it = ml_dtypes.finfo(dtype)
    return np.array([[float(it.min), float(it.max), 0], [0.1, -1.5, 3]]).astype(dtype)


def same(given: Any, got: Any) -> bool:
    """Bit for bit; texts come as bytes, out of JSON as texts."""
    if given.dtype.kind == "O":
        came = [[it.encode() if isinstance(it, str) else it for it in row] for row in got.tolist()]
        return bool([[it.encode() for it in row] for row in given.tolist()] == came)
    return bool(given.dtype == got.dtype and given.shape == got.shape and given.tobytes() == got.tobytes())


def bearer(node: Node) -> dict[str, str]:
    """The header that a program of this node's user sends."""
    return {"Authorization": f"Bearer {(node.home / TOKEN).read_text().strip()}"}


async def add(node: Node, path: Path, name: str, *others: Node) -> None:
    """Make a model known to these nodes, whose workers are up."""

    def ready(other: Node) -> bool:
        own = other.membership.view()[0].advert
        known = any(manifest.name == name for manifest in other.catalog.manifests())
        return known and own is not None and bool(own.providers)

    await ask(node.home, "model.add", {"path": str(path), "name": name})
    for other in others:
        await until(partial(ready, other), "it is known, and can be run")

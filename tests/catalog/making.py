"""Models for the tests of the catalog: small ONNX files, and settings with pieces that fit them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from meshnode.catalog.manifest import Manifest
from meshnode.catalog.store import Stored
from meshnode.config import LAN, Catalog
from meshnode.wire.messages import NodeId

PIECE = 4096
SETTINGS: Catalog = replace(LAN.catalog, piece_bytes=PIECE, disk_reserve_bytes=0, piece_timeout_s=5.0)
A, B, C, D, E, F = (NodeId(letter * 52) for letter in "abcdef")


def weights(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def model_of(initializer: onnx.TensorProto, count: int) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [count])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [initializer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plain(path: Path, count: int = 8000, seed: int = 1) -> Path:
    """A model in one file, 4 bytes a weight."""
    path.write_bytes(model_of(numpy_helper.from_array(weights(count, seed), "w"), count).SerializeToString())
    return path


def outside(location: str, count: int = 8000, **entries: str) -> bytes:
    """A model whose weights lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[count], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return bytes(model_of(tensor, count).SerializeToString())


def with_data(folder: Path, name: str = "weights.bin", count: int = 8000) -> Path:
    """A model with an external data file beside it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(weights(count).tobytes())
    (folder / "big.onnx").write_bytes(outside(name, count, offset="0", length=str(4 * count)))
    return folder / "big.onnx"


def manifest_of(stored: Stored, name: str = "m", piece_bytes: int = PIECE) -> Manifest:
    return Manifest(name, 1, stored.files, (), (), piece_bytes, publisher=A)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

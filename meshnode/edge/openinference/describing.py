"""Models and the server as the protocol describes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshnode.catalog.manifest import Manifest, Tensor
from meshnode.edge.openinference.tensors import datatype_of
from meshnode.version import __version__

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)


def server() -> dict[str, Any]:
    """Who answers."""
    return {"name": "meshnode", "version": __version__, "extensions": list(EXTENSIONS)}


def metadata(manifest: Manifest, versions: Iterable[int]) -> dict[str, Any]:
    """A model, with all versions of its name."""
    return {
        "name": manifest.name,
        "versions": [str(it) for it in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(it) for it in manifest.inputs],
        "outputs": [_tensor(it) for it in manifest.outputs],
    }


def _tensor(it: Tensor) -> dict[str, Any]:
    return {"name": it.name, "datatype": datatype_of(it.dtype), "shape": _dims(it)}


def _dims(it: Tensor) -> list[int]:
    """-1 where any size will do."""
    return [dim if isinstance(dim, int) and dim >= 0 else -1 for dim in it.shape]


def config(manifest: Manifest) -> dict[str, Any]:
    """What Triton calls a model's configuration, as far as it is true here: dims are all of them, batch included."""
    return {
        "name": manifest.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "input": [_configured(it) for it in manifest.inputs],
        "output": [_configured(it) for it in manifest.outputs],
    }


def _configured(it: Tensor) -> dict[str, Any]:
    datatype = datatype_of(it.dtype)
    word = "STRING" if datatype == "BYTES" else datatype
    return {"name": it.name, "data_type": f"TYPE_{word}", "dims": _dims(it)}

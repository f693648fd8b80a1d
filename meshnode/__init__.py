"""meshnode: a peer-to-peer compute mesh for ONNX inference. This module is the public Python API, nothing else.

with meshnode.Client() as mesh:
    result = mesh.infer("digits", {"image": x})
    result["probabilities"], result.node, result.seconds
"""

from importlib import import_module
from typing import Any

from meshnode.blocking import Client
from meshnode.client import AsyncClient, Result, Stage
from meshnode.errors import (
    AgentUnavailable,
    Attempt,
    DeadlineExceeded,
    InvalidInput,
    MeshError,
    ModelNotFound,
    ModelRefused,
    NoCapacity,
    NoNodeInZone,
    OutcomeUnknown,
    PermissionDenied,
    PoisonTask,
    ProtocolError,
)
from meshnode.session import InferenceSession
from meshnode.version import __version__

__all__ = [
    "AgentUnavailable",
    "AsyncClient",
    "Attempt",
    "Client",
    "DeadlineExceeded",
    "InferenceSession",
    "InvalidInput",
    "MeshError",
    "ModelNotFound",
    "ModelRefused",
    "NoCapacity",
    "NoNodeInZone",
    "OutcomeUnknown",
    "PermissionDenied",
    "PoisonTask",
    "ProtocolError",
    "Result",
    "Stage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """`meshnode.testing` without an import of its own; it is not needed by most and not loaded before."""
    if name == "testing":
        return import_module("meshnode.testing")
    raise AttributeError(f"module 'meshnode' has no attribute {name!r}")

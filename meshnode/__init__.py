"""meshnode: a peer-to-peer compute mesh for ONNX inference. This module is the public Python API, nothing else.

with meshnode.Client() as mesh:
    result = mesh.infer("digits", {"image": x})
    result["probabilities"], result.node, result.seconds
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshnode.version import __version__

if TYPE_CHECKING:
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


_ELSEWHERE = {
    "AsyncClient": "client",
    "Client": "blocking",
    "InferenceSession": "session",
    "Result": "client",
    "Stage": "client",
}
"""Where a name is, if not among the errors."""


def __getattr__(name: str) -> Any:
    """Each name is loaded when it is asked for: a command that needs no client must not wait for numpy."""
    if name == "testing":
        return import_module("meshnode.testing")
    if name not in __all__:
        raise AttributeError(f"module 'meshnode' has no attribute {name!r}")
    value = getattr(import_module(f"meshnode.{_ELSEWHERE.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "testing"]

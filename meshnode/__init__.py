"""meshnode: a peer-to-peer compute mesh for ONNX inference. This module is the public Python API, nothing else.

with meshnode.Client() as mesh:
    result = mesh.infer("digits", {"image": x})
    result["probabilities"], result.node, result.seconds
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshnode.version import __version__

if TYPE_CHECKING:
    from meshnode import testing as testing
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

ELSEWHERE = {
    "Client": "meshnode.blocking",
    "AsyncClient": "meshnode.client",
    "Result": "meshnode.client",
    "Stage": "meshnode.client",
    "InferenceSession": "meshnode.session",
}
"""Where the names above are that are not errors."""


def __getattr__(name: str) -> Any:
    """Loads what is asked for: every command and every worker imports this package, and few of them need numpy."""
    if name == "testing":
        return import_module("meshnode.testing")
    if name not in __all__:
        raise AttributeError(f"module 'meshnode' has no attribute {name!r}")
    value = getattr(import_module(ELSEWHERE.get(name, "meshnode.errors")), name)
    globals()[name] = value  # the next time nobody asks here
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return [*globals(), *__all__, "testing"]

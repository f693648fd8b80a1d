"""The protocol's messages as classes, of `openinference.pb`, which `scripts/proto` makes.

They are in a pool of their own: a program that has `tritonclient` too has its classes of the same names in the common
one. Importing this needs the extra `grpc`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
_files = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("openinference.pb").read_bytes())
_pool = descriptor_pool.DescriptorPool()
for _file in _files.file:
    _pool.Add(_file)
_classes: dict[str, Any] = message_factory.GetMessageClassesForFiles([it.name for it in _files.file], _pool)
METHODS: dict[str, Any] = {it.name: it for it in _pool.FindServiceByName(SERVICE).methods}


def of(name: str) -> Any:
    """The class of a message."""
    return _classes[f"inference.{name}"]


def asked(method: str) -> Any:
    """The class of a call's request."""
    return of(METHODS[method].input_type.name)


def answered(method: str) -> Any:
    """The class of a call's answer."""
    return of(METHODS[method].output_type.name)

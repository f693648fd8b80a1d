"""What a scan found out, and what it is held against: versions that ONNX Runtime knows, files that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata

import msgspec

from meshnode.errors import ModelRefused

SCANNER = 1
"""Counts up when the scanner refuses more than before: what was judged by an older one is judged again."""
RUNTIME = (1, 31)
"""The ONNX Runtime that `SUPPORTED` belongs to: tried with it, one version after the other."""
HEADROOM = 1.3
"""Of what a model declares, for what ONNX Runtime needs beside it."""
NUMBER_MAX = 2**63


@dataclass(frozen=True, slots=True)
class Supported:
    """The newest versions that are taken."""

    ir_version: int
    opsets: Mapping[str, int]


SUPPORTED = Supported(13, {"": 26, "ai.onnx.ml": 5, "com.microsoft": 1})
ANY = Supported(NUMBER_MAX, {})


class Verdict(msgspec.Struct, frozen=True):
    """Figures of a model that may be loaded.

    `nodes` are those in the file, `expanded` what they are when each call of a function is replaced by its body.
    `external` maps a location to the end of the bytes that are read of it. `activation_bytes` is a lower bound.
    """

    scanner: int
    ir_version: int
    opsets: dict[str, int]
    domains: tuple[str, ...]
    nodes: int
    expanded: int
    functions: int
    depth: int
    initializer_bytes: int
    activation_bytes: int
    external: dict[str, int]

    @property
    def memory_bytes(self) -> int:
        """What loading and running it is believed to take, at least."""
        return int(HEADROOM * (self.initializer_bytes + self.activation_bytes))

    def check_files(self, sizes: Mapping[str, int]) -> None:
        """Raises ModelRefused when a file that the model reads is missing or too short."""
        for location, end in self.external.items():
            name = location
            while name.startswith("./"):
                name = name[2:]
            if name not in sizes:
                raise ModelRefused(f"the model reads {location[:160]!r}, which is not among its files")
            if end > sizes[name]:
                raise ModelRefused(f"the model reads {name} up to byte {end}, and the file has {sizes[name]}")


@cache
def known_here() -> Supported:
    """What the ONNX Runtime of this installation takes: of one that is newer than ours only it knows."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            parts = metadata.version(name).split(".")[:2]
        except metadata.PackageNotFoundError:
            continue
        if all(part.isdigit() for part in parts):
            return SUPPORTED if tuple(map(int, parts)) <= RUNTIME else ANY
    return SUPPORTED

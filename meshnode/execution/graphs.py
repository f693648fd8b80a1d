"""Models as ONNX Runtime optimised them, where that makes the next load quicker. Worker only.

Many nodes are what makes optimising slow; a model of few nodes and large weights loads as quickly without, since an
entry has to be read and hashed. So a model is offered whose load took long for its size.

A worker cannot write files: what it offers is a memory file, which the agent puts on its shelf, under the name of the
model that it asked this worker to load.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from meshnode.execution import shelf
from meshnode.execution.arena import memory_file

WORTH_S = 0.02
WORTH_BYTES_S = 150e6
"""A load is long that takes more processor time than this and its bytes at this rate. Measured: 7,500 small nodes take
600 ms, and 130 from an entry; 60 convolutions with 35 MB of weights 40 ms, and 65."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """The shelf as a worker sees it.

    Args:
        tell: the agent is told of a model whose kept graph is used now (None), or offered one in a memory file.
    """

    folder: Path
    provider: str
    tell: Callable[[str, int | None], None]

    def find(self, digest: str) -> bytes | None:
        """The entry, whole; None when there is none, or it is damaged."""
        for path in shelf.entries(self.folder, shelf.key(digest, ort.__version__, self.provider)):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
                return content
        return None

    def draft(self) -> int | None:
        """A memory file that ONNX Runtime can write to by `path_of`; None where files cannot be opened for that."""
        fd = None
        try:
            fd = memory_file(0)
            os.close(os.open(path_of(fd), os.O_WRONLY))
        except OSError:
            if fd is not None:
                os.close(fd)
            return None
        return fd


def path_of(fd: int) -> str:
    """The name by which a process opens its own descriptor."""
    return f"/dev/fd/{fd}"

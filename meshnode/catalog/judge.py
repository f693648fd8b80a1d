"""The verdict on a model's folder, and where it is kept: beside the model, so that a start does not scan it again.

A verdict counts for the scanner that gave it. It is about files whose hashes are known, so it needs none of its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import msgspec

from meshnode.catalog.manifest import File
from meshnode.catalog.scan import scan
from meshnode.catalog.verdict import SCANNER, Verdict
from meshnode.errors import HomeError, ModelRefused
from meshnode.trust.files import read_checked, write_checked
from meshnode.wire.terms import UNREADABLE

VERDICT = ".verdict"


def scan_file(path: Path, name: str) -> Verdict:
    """Of an .onnx file of ours, called `name` in messages. Raises ModelRefused, OSError."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ModelRefused(f"{name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return scan(data)
            except ModelRefused as error:
                raise ModelRefused(f"{name}: {error}", hint=error.hint) from error.__cause__


def judge(folder: Path, files: Iterable[File]) -> Verdict:
    """Of a whole model whose files lie in `folder`, the .onnx first. Raises ModelRefused, OSError."""
    first, *others = files
    verdict = scan_file(folder / first.path, first.path)
    verdict.check_files({file.path: file.size for file in others})
    return verdict


def keep(folder: Path, verdict: Verdict) -> None:
    """Write it beside the model. Raises HomeError."""
    write_checked(folder / VERDICT, msgspec.msgpack.encode(verdict))


def kept(folder: Path) -> Verdict | None:
    """The verdict that lies beside a model; None when there is none of this scanner."""
    try:
        payload = read_checked(folder / VERDICT)
        verdict = None if payload is None else msgspec.msgpack.decode(payload, type=Verdict)
    except (HomeError, *UNREADABLE):
        return None
    return verdict if verdict is not None and verdict.scanner == SCANNER else None

"""A store to test with, and a disk that can be filled."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshnode.catalog.store import Store
from tests.catalog.making import SETTINGS

DISK_BYTES = 1 << 20
LIMIT_BYTES = 8192


@dataclass
class SmallDisk:
    """A folder on a disk of its own; `fill` makes writing to it fail from then on."""

    path: Path
    mounted: bool

    def fill(self) -> None:
        if not self.mounted:  # no right to mount: no file may grow any more, which fails at the same place
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return
        with (self.path / "filler").open("ab", buffering=0) as filler:
            for size in (4096, 1):
                try:
                    while filler.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """1 MiB of tmpfs where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    mounted = False
    if mount is not None and umount is not None:
        command = [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "meshnode-test", str(folder)]
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield SmallDisk(folder, mounted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if mounted and umount is not None:
            subprocess.run([umount, str(folder)], check=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Open, empty, with small pieces."""
    made = Store(tmp_path / "models", SETTINGS)
    made.open()
    return made

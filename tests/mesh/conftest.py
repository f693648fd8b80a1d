"""The rig as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh.rig import Rig, rig


@pytest.fixture
def mesh_rig(tmp_path: Path) -> Iterator[Rig]:
    """Start agents with it; they end with the test."""
    with rig(tmp_path) as it:
        yield it

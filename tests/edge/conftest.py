"""Living agents as fixtures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshnode.edge.node import Node
from tests.edge.living import founder, joiner, workers


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """An agent in a mesh of one; nothing of it is left afterwards."""
    async with founder(tmp_path / "ann") as agent:
        yield agent.node
    assert [] == workers()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """The founder of a mesh, and a member with the usual roles; both see each other."""
    async with founder(tmp_path / "ann") as ann, joiner(tmp_path / "bob", ann.node) as bob:
        yield ann.node, bob.node
    assert [] == workers()

"""The mesh around this node, as a fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.tasks.around import Around


@pytest.fixture
async def around() -> AsyncIterator[Around]:
    """This node alone; peers are added by the test, and their links end with it."""
    it = Around()
    try:
        yield it
    finally:
        await it.close()

"""The broker as a fixture; tests that need it are skipped, with the reason, where it is not installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.edge.mqtt.mosquitto import COMMAND, MISSING, Mosquitto
from tests.edge.mqtt.mosquitto import broker as started


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A mosquitto with nothing in it."""
    if COMMAND is None:
        pytest.skip(MISSING)
    async with started(tmp_path / "broker") as it:
        yield it

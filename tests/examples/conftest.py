"""The examples as their commands import them, and a real broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.mqtt.mosquitto import COMMAND, MISSING, Mosquitto

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "camera"))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """mqtt://host:port of a mosquitto of its own."""
    if COMMAND is None:
        pytest.skip(MISSING)
    it = Mosquitto(tmp_path / "broker")
    asyncio.run(it.start())
    yield it.url
    it.stop()

"""Strangers' pictures and archives: opened in a process of their own, and what becomes of one that misbehaves."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from meshnode.config import Sandbox
from meshnode.edge.mqtt import decoding
from meshnode.edge.mqtt.decoding import Decoding
from meshnode.errors import InvalidInput

SEVEN = (Path(__file__).resolve().parents[3] / "models" / "digits" / "7.png").read_bytes()
INPUT = {"name": "image", "dtype": "float", "shape": ["batch", 1, 8, 8]}


@pytest.fixture
async def opener(tmp_path: Path) -> AsyncIterator[Decoding]:
    it = Decoding(tmp_path / "decoder", Sandbox.AUTO)
    yield it
    await it.stop()


async def test_a_picture_becomes_a_tensor(opener: Decoding) -> None:
    """By the image rule; the process stays for the next one."""
    arrays = await opener.open("png", SEVEN, [INPUT], {"meshnode.image.range": "0,16"})
    assert ((1, 1, 8, 8), np.float32) == (arrays["image"].shape, arrays["image"].dtype)
    assert 16 >= arrays["image"].max() > 1
    first = opener._process
    await opener.open("png", SEVEN, [INPUT], {})
    assert first is opener._process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_dies_or_hangs_costs_one_file(
    opener: Decoding, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """That one is refused; the next has a new process."""
    monkeypatch.setattr(decoding, "OPEN_S", 0.5)
    await opener.open("png", SEVEN, [INPUT], {})
    assert opener._process is not None
    os.kill(opener._process.pid, how)
    with pytest.raises(InvalidInput):
        await opener.open("png", SEVEN, [INPUT], {})
    assert opener._process is None
    assert await opener.open("png", SEVEN, [INPUT], {})


async def test_who_gives_up_leaves_no_half_answer(opener: Decoding) -> None:
    """A file whose task was cancelled does not answer for the next one."""
    file = io.BytesIO()
    np.savez(file, x=np.arange(3))
    giving_up = asyncio.ensure_future(opener.open("png", SEVEN, [INPUT], {}))
    await asyncio.sleep(0)
    giving_up.cancel()
    await asyncio.gather(giving_up, return_exceptions=True)
    assert [0, 1, 2] == (await opener.open("npz", file.getvalue(), [], {}))["x"].tolist()


async def test_a_process_is_replaced_after_some_files(opener: Decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one file did to it does not last."""
    monkeypatch.setattr(decoding, "USES_MAX", 2)
    await opener.open("png", SEVEN, [INPUT], {})
    first = opener._process
    await opener.open("png", SEVEN, [INPUT], {})
    await opener.open("png", SEVEN, [INPUT], {})
    assert first is not opener._process is not None


async def test_the_setting_of_the_sandbox_holds_here_too(tmp_path: Path) -> None:
    """With "off" it opens all the same; with "require" where it is grade A, and says so where it is not."""
    for setting in (Sandbox.OFF, Sandbox.REQUIRE):
        it, refused = Decoding(tmp_path / setting, setting), ""
        try:
            await it.open("png", SEVEN, [INPUT], {})
        except InvalidInput as error:
            refused = str(error)
        finally:
            await it.stop()
        assert not refused or (setting is Sandbox.REQUIRE and "grade A" in refused)

"""Accelerators: tried where they are installed, believed after a run, and never pretended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meshnode.config import Execution as Settings
from meshnode.config import Sandbox
from meshnode.errors import ModelRefused, Refused
from meshnode.execution import accelerators
from meshnode.execution.devices import Devices, Gpu
from meshnode.execution.rules import CPU, Rules
from tests.execution.making import bundled, done, new
from tests.waiting import until

SETTINGS = Settings(concurrency=1, arena_bytes=8 * 1024 * 1024)
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU = [Gpu("a GPU that is only claimed", 10**9)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("settings", "nvidia", "expected"),
    [
        (SETTINGS, True, [CUDA, "CoreMLExecutionProvider"]),
        (SETTINGS, False, ["CoreMLExecutionProvider"]),
        (replace(SETTINGS, gpu=False), True, []),
        (replace(SETTINGS, providers=(TENSORRT, CPU)), True, [TENSORRT]),
        (replace(SETTINGS, providers=("DmlExecutionProvider",)), True, []),
    ],
)
def test_what_is_worth_a_try(settings: Settings, nvidia: bool, expected: list[str]) -> None:
    """What is installed and wanted; NVIDIA's only where a GPU of theirs is seen; TensorRT only by name."""
    available = (TENSORRT, CUDA, "CoreMLExecutionProvider", CPU)
    assert expected == accelerators.worth_a_try(available, settings, nvidia=nvidia)


async def test_an_accelerator_that_does_not_work_is_not_advertised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the list of ONNX Runtime, which falls back to the processor without a word: it is tried, given up with the
    reason, and the CPU is all that others hear of."""
    listed = accelerators.worth_a_try
    monkeypatch.setattr(
        accelerators, "worth_a_try", lambda available, *given, **more: listed((CUDA, *available), *given, **more)
    )
    it = new(tmp_path, SETTINGS, gpus=GPU)
    await it.start()
    try:
        async with asyncio.timeout(60):
            await it.ready()
        device = await until(lambda: next((d for d in it._own if d.provider == CUDA), None), "CUDA is tried")
        await until(lambda: device.queue.up or device.process.failure, "CUDA was tried")
        if device.queue.up:
            pytest.skip("CUDA works here: scripts/gpu-check has more to say")
        assert (CPU,) == it.providers
        tending = device.process._tending
        assert tending is not None
        await until(tending.done, "it was given up")
        assert 3 == device.process.deaths
        assert device.process.failure, "why"
        assert (CPU,) == it.providers
        image = {"image": np.ones((1, 1, 8, 8), np.float32)}
        assert CPU == (await done(it, bundled("digits"), image)).provider
        with pytest.raises(Refused, match=f"nothing on {CUDA}"):
            await done(it, bundled("digits"), image, provider=CUDA)
    finally:
        await it.stop()


async def test_a_model_that_an_accelerator_refuses_runs_on_the_processor(tmp_path: Path) -> None:
    """Once it was refused there, it is not asked again, but by name; until the model is forgotten."""
    it = new(tmp_path, SETTINGS)
    await it.start()
    try:
        await it.ready()
        await until(lambda: it._own[0].queue.up, "the CPU is up")
        it._rules = Rules((tmp_path,), Sandbox.AUTO)  # this worker may not read the models, and so takes none
        picky = it._device(CPU)
        picky.process.start()
        await until(lambda: picky.queue.up, "the other is up")
        if picky.process.confined is None or picky.process.confined.grade != "A":
            pytest.skip("nothing keeps this worker from reading models")
        picky.provider = "PickyExecutionProvider"
        it._own.insert(0, picky)  # of two that are idle it is the first
        digits, image = bundled("digits"), {"image": np.ones((1, 1, 8, 8), np.float32)}
        for _ in range(2):
            assert CPU == (await done(it, digits, image)).provider
        assert {digits.digest: {picky.provider}} == it._unfit
        with pytest.raises(ModelRefused):
            await done(it, digits, image, provider=picky.provider)
        it.unload(digits.digest)
        assert {} == it._unfit
    finally:
        await it.stop()


def test_the_check_says_when_there_is_nothing_to_check() -> None:
    """Without a GPU it exits 2 and says that nothing is proven; with one it proves or names what is wrong."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "gpu-check"], capture_output=True, text=True, timeout=300)
    if Devices.probe().gpus:
        assert done.returncode in (0, 1), done.stderr
    else:
        assert (2, "") == (done.returncode, done.stderr)
        assert "nothing was checked" in done.stdout

"""What a caller can get wrong is InvalidInput with a name in it, before anything is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshnode.client import options
from meshnode.client.task import AsyncClient
from meshnode.errors import InvalidInput
from tests.client.door import Door

X = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"priority": "urgent"}, "low, normal, high"),
        ({"node": 5}, "node"),
        ({"node": "a", "verify": 1.0}, "both need a second one"),
        ({"node": "a", "hedge": True}, "both need a second one"),
        ({"verify": 1.5}, "verify is a share"),
        ({"hedge": 1}, "hedge is True or False"),
        ({"idempotent": False, "verify": 0.1}, "cannot be hedged or verified"),
        ({"objective": "speed"}, "tail, latency"),
        ({"node": "\udcff"}, "node is no text"),
        ({"zone": 5}, "zone"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 100_000}, "model"),
        ({"outputs": [1]}, "name of an output"),
        ({"outputs": "probabilities"}, "list of names"),
        ({"inputs": {"\udcff": X}}, "name of an input"),
        ({"inputs": {"x": "\ud800"}}, "no text"),
    ],
)
async def test_a_mistake_is_named(door: Door, wrong: dict[str, Any], says: str) -> None:
    """No raw exception, no word about the wire, and the client goes on working."""
    call: dict[str, Any] = {"model": "double", "inputs": {"x": X}, **wrong}
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(InvalidInput, match=says):
            await mesh.infer(call.pop("model"), call.pop("inputs"), **call)
        assert (await mesh.infer("double", {"x": X}))["y"].shape == X.shape


@pytest.mark.parametrize("value", [float("nan"), "a", None, 0, -1, True, 1.5])
async def test_a_concurrency_that_is_none_is_refused(door: Door, value: Any) -> None:
    """Never no results without an error."""
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(InvalidInput, match="concurrency"):
            [r async for r in mesh.map("double", [{"x": X}], concurrency=value)]


@pytest.mark.parametrize("wrong", [{"max_age": float("nan")}, {"max_age": None}, {"max_age": -1}, {"keep": "bogus"}])
async def test_a_stream_that_would_drop_everything_is_refused(door: Door, wrong: dict[str, Any]) -> None:
    """Frames are dropped for their age only."""
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(InvalidInput):
            [r async for r in mesh.stream("double", [{"x": X}], **wrong)]


def test_any_number_of_seconds_will_do() -> None:
    """numpy's numbers are numbers, and the far future is far enough."""
    assert 5.0 == options.checked_seconds(np.float32(5))  # type: ignore[arg-type]
    assert options.TIMEOUT_MAX_S == options.checked_seconds(10**400)
    assert 3 == options.checked_count(np.int64(3), "concurrency")  # type: ignore[arg-type]


async def test_outputs_can_be_written_to(door: Door) -> None:
    """As onnxruntime's can."""
    async with AsyncClient(door.home) as mesh:
        y = (await mesh.infer("double", {"x": X}))["y"]
    y += 1
    assert 1.0 == float(y[0])


async def test_submit_is_begun_and_awaited_later(door: Door) -> None:
    """The same name as the blocking client's."""
    async with AsyncClient(door.home) as mesh:
        task = mesh.submit("double", {"x": X})
        assert X.shape == (await task)["y"].shape

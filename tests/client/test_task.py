"""The asynchronous client against a real local door."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from meshnode.client import AsyncClient
from meshnode.errors import (
    AgentUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    PeerLost,
    ProtocolError,
)
from tests.client.door import NODE, Door


async def waited(door: Door, condition: object) -> None:
    await asyncio.to_thread(door.wait_for, condition)  # type: ignore[arg-type]


async def test_a_result_has_the_outputs_and_how_it_went(door: Door) -> None:
    """Outputs by name, the node, the attempts and the times."""
    async with AsyncClient(door.home) as mesh:
        result = await mesh.infer("double", {"x": [1.0, 2.5]})

    assert [2.0, 5.0] == result["y"].tolist()
    assert ["y"] == list(result)
    assert (NODE, "door", ("ok",)) == (result.node, result.node_name, tuple(a.outcome for a in result.attempts))
    assert result == result
    assert 1 == len({result})


async def test_an_agent_that_knows_no_pipelines_is_not_taken_at_its_word(door: Door) -> None:
    """It ignores what it does not know and answers with the first stage alone: that is an error, and no result."""
    async with AsyncClient(door.home) as client:
        with pytest.raises(ProtocolError, match="1 of 2 stages"):
            await client.pipeline("double", "double").infer({"x": np.ones(2, np.float32)})


async def test_many_tasks_share_one_connection(door: Door) -> None:
    """Two hundred at once, each with its own answer."""
    async with AsyncClient(door.home) as mesh:
        results = await asyncio.gather(*(mesh.infer("double", {"x": np.array([float(i)])}) for i in range(200)))

    assert [2.0 * i for i in range(200)] == [float(r["y"][0]) for r in results]


async def test_without_an_agent_it_fails_at_once(tmp_path: Path) -> None:
    """No agent, no wait: AgentUnavailable with a hint."""
    with pytest.raises(AgentUnavailable) as caught:
        await AsyncClient(tmp_path).infer("double", {"x": [1.0]})
    assert "meshnode up" in caught.value.hint


async def test_a_restart_of_the_agent_is_waited_out_with_the_same_task(tmp_path: Path) -> None:
    """The agent goes away under a task and comes back: the task is asked again under its own id; new ones wait."""
    first, second = Door(tmp_path), Door(tmp_path)
    mesh = AsyncClient(tmp_path)
    with first:
        under_way = asyncio.ensure_future(mesh.infer("stuck", {"x": [4.0]}))
        await waited(first, lambda: first.open == 1)
    meanwhile = asyncio.ensure_future(mesh.infer("double", {"x": [1.0]}))
    with second:
        assert [2.0] == (await meanwhile)["y"].tolist()
        await waited(second, lambda: first.tasks[0] in second.tasks)
        under_way.cancel()
        await waited(second, lambda: second.cancelled == 1)
        await mesh.close()


async def test_an_agent_that_stays_away_is_an_error_in_time(tmp_path: Path) -> None:
    """The wait for a restart ends with the task's time."""
    mesh = AsyncClient(tmp_path)
    with Door(tmp_path):
        await mesh.ask("version")
    with pytest.raises(AgentUnavailable, match="did not come back"):
        await mesh.infer("double", {"x": [1.0]}, timeout=0.5)
    await mesh.close()


async def test_a_refusal_of_the_agent_is_tried_again_when_it_says(door: Door) -> None:
    """`retry_after_s` is honoured, with the same task id."""
    async with AsyncClient(door.home) as mesh:
        assert [6.0] == (await mesh.infer("later", {"x": [3.0]}))["y"].tolist()
    assert 3 == len(door.tasks)
    assert 1 == len(set(door.tasks))


async def test_an_answer_about_a_lost_peer_is_no_lost_agent(door: Door) -> None:
    """The agent's own answer that a peer was lost is raised, with its attempts, and not asked again."""
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(PeerLost) as caught:
            await mesh.infer("lost", {"x": [1.0]})
    assert ["peer_lost"] == [a.outcome for a in caught.value.attempts]
    assert 1 == len(door.tasks)


async def test_cancelling_reaches_the_agent(door: Door) -> None:
    """A task that is cancelled here is cancelled there."""
    async with AsyncClient(door.home) as mesh:
        task = asyncio.ensure_future(mesh.infer("stuck", {"x": [1.0]}))
        await waited(door, lambda: door.open == 1)
        task.cancel()
        await waited(door, lambda: door.cancelled == 1)


async def test_an_agent_that_does_not_end_a_task_does_not_hold_its_client(door: Door) -> None:
    """The client's own clock ends a task a second after its time."""
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.infer("stuck", {"x": [1.0]}, timeout=0.05)
        await waited(door, lambda: door.cancelled == 1)


@pytest.mark.parametrize(
    ("inputs", "timeout_s"),
    [([1.0], 1.0), ({"x": object()}, 1.0), ({"x": [1.0]}, float("nan")), ({"x": [1.0]}, -1.0)],
)
async def test_what_makes_no_sense_is_not_sent(door: Door, inputs: object, timeout_s: float) -> None:
    """Inputs that are no arrays and times that are none are InvalidInput, and the agent never hears of them."""
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(InvalidInput):
            await mesh.infer("double", inputs, timeout=timeout_s)  # type: ignore[arg-type]
    assert [] == door.tasks


async def test_errors_keep_their_hint(door: Door) -> None:
    """An error of the agent arrives as its class, with its hint."""
    async with AsyncClient(door.home) as mesh:
        with pytest.raises(ModelNotFound, match=r"no model\.add") as caught:
            await mesh.add_model("x.onnx")
    assert "there is double" == caught.value.hint


async def test_map_keeps_the_order_and_the_bound(door: Door) -> None:
    """Results in the order of the inputs, at most `concurrency` at once, also from a source that reuses its buffer."""
    buffer = np.zeros(1)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for i in range(100):
            buffer[0] = i
            yield {"x": buffer}

    async with AsyncClient(door.home) as mesh:
        results = [r async for r in mesh.map("double", batches(), concurrency=7)]

    assert [2.0 * i for i in range(100)] == [float(r["y"][0]) for r in results]
    assert list(range(100)) == [r.index for r in results]
    assert 1 < door.open_most <= 7


async def test_an_unordered_map_says_which_is_which(door: Door) -> None:
    """Results as they come; the index tells the input."""
    async with AsyncClient(door.home) as mesh:
        inputs = ({"x": [float(i)]} for i in range(50))
        found = {r.index: float(r["y"][0]) async for r in mesh.map("double", inputs, ordered=False)}
    assert {i: 2.0 * i for i in range(50)} == found


async def test_the_first_error_of_a_map_cancels_the_rest(door: Door) -> None:
    """What is still open when a map fails is cancelled at the agent."""
    async with AsyncClient(door.home) as mesh:
        inputs = [{"x": [1.0]}, {"x": [2.0]}, {"x": object()}]
        with pytest.raises(InvalidInput):
            await anext(mesh.map("stuck", inputs, concurrency=3, ordered=False))
        await waited(door, lambda: door.open == 0)


async def test_a_bound_model_takes_one_value_or_names(door: Door) -> None:
    """`double(x)` finds the one input; a value and names together are refused."""
    async with AsyncClient(door.home) as mesh:
        double = mesh.model("double")
        assert [2.0] == (await double([1.0]))["y"].tolist()
        assert [4.0] == (await double(x=[2.0]))["y"].tolist()
        with pytest.raises(InvalidInput):
            await double([1.0], x=[2.0])


def test_importing_the_package_is_light() -> None:
    """`import meshnode` brings neither the command line nor the agent nor onnxruntime."""
    heavy = ["rich", "typer", "onnxruntime", "zeroconf", "PIL", "psutil", "pynvml"]
    script = f"import sys, meshnode; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()

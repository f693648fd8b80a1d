"""The blocking client: the same door, from plain code and several threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import meshnode
from meshnode.errors import AgentUnavailable, InvalidInput
from tests.client.door import Door


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door(tmp_path) as it:
        yield it


def threads() -> int:
    return sum(thread.name == "meshnode-client" for thread in threading.enumerate())


def test_plain_code_from_several_threads(door: Door) -> None:
    """One client, many threads, each with its own answers; its thread ends with it."""
    with meshnode.Client(door.home) as mesh, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: mesh.infer("double", {"x": [float(i)]}), range(50)))
        assert [2.0 * i for i in range(50)] == [float(r["y"][0]) for r in results]
        assert 1 == threads()
    assert 0 == threads()


def test_what_happens_to_an_array_after_submit_does_not_matter(door: Door) -> None:
    """`submit` takes a copy: the caller may reuse its array at once."""
    x = np.ones(1000)
    with meshnode.Client(door.home) as mesh:
        future = mesh.submit("double", {"x": x})
        x[:] = 7
        assert np.array_equal(np.full(1000, 2.0), future.result(20)["y"])


def test_cancelling_a_future_reaches_the_agent(door: Door) -> None:
    """`Future.cancel()` cancels the task where it runs."""
    with meshnode.Client(door.home) as mesh:
        future = mesh.submit("stuck", {"x": [1.0]})
        door.wait_for(lambda: door.open == 1)
        assert future.cancel()
        door.wait_for(lambda: door.cancelled == 1)


def test_leaving_cancels_what_is_open(door: Door) -> None:
    """After `with`, open futures are cancelled here and there, and new work is refused."""
    with meshnode.Client(door.home) as mesh:
        future = mesh.submit("stuck", {"x": [1.0]})
        door.wait_for(lambda: door.open == 1)
    door.wait_for(lambda: door.cancelled == 1)
    with pytest.raises(CancelledError):
        future.result(5)
    with pytest.raises(AgentUnavailable, match="closed"):
        mesh.infer("double", {"x": [1.0]})


def test_a_client_that_nobody_closes_leaves_no_thread(door: Door) -> None:
    """Garbage collection ends it as `close` does."""
    mesh = meshnode.Client(door.home)
    mesh.infer("double", {"x": [1.0]})
    assert 1 == threads()
    del mesh
    gc.collect()
    assert 0 == threads()


@pytest.mark.parametrize("ordered", [True, False])
def test_map_reads_its_source_where_it_is_used(door: Door, ordered: bool) -> None:
    """The source runs in the caller's thread, so that it may use the client itself."""
    with meshnode.Client(door.home) as mesh:

        def batches() -> Iterator[dict[str, object]]:
            for i in range(40):
                assert threading.current_thread() is threading.main_thread()
                yield {"x": mesh.infer("double", {"x": [float(i)]})["y"]}

        results = list(mesh.map("double", batches(), concurrency=5, ordered=ordered))
    assert [4.0 * i for i in range(40)] == [float(r["y"][0]) for r in sorted(results, key=lambda r: r.index)]
    if ordered:
        assert list(range(40)) == [r.index for r in results]


def test_leaving_a_map_early_cancels_the_rest(door: Door) -> None:
    """A generator that is closed takes its open tasks with it."""
    with meshnode.Client(door.home) as mesh:
        results = mesh.map("stuck", ({"x": [1.0]} for _ in range(5)), concurrency=5)

        def take() -> None:
            with pytest.raises(CancelledError):
                next(results)

        taker = threading.Thread(target=take)
        taker.start()
        door.wait_for(lambda: door.open == 5)
    taker.join(20)
    door.wait_for(lambda: door.open == 0)
    with pytest.raises(InvalidInput):
        mesh.map("double", [], concurrency=0)


def test_the_bound_model_and_the_drop_in(door: Door) -> None:
    """`mesh.model(NAME)` knows its inputs; InferenceSession has onnxruntime's methods."""
    with meshnode.Client(door.home) as mesh:
        double = mesh.model("double")
        assert ["x"] == [tensor["name"] for tensor in double.inputs]
        assert ["y"] == [tensor["name"] for tensor in double.outputs]
        assert [2.0] == double([1.0])["y"].tolist()
        assert "local" == mesh.plan("double", {"x": [1.0]})["kind"]
        assert ["double"] == [m["name"] for m in mesh.models()]


def test_without_an_agent_with_says_so(tmp_path: Path) -> None:
    """Entering fails with AgentUnavailable, and leaves no thread."""
    with pytest.raises(AgentUnavailable), meshnode.Client(tmp_path):
        pass
    assert 0 == threads()

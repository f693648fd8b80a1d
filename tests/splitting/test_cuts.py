"""Where a line of steps is cut: never worse than every other way, within what is allowed."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import InvalidInput
from meshnode.splitting.cuts import CANDIDATES_MAX, SLACK, Flow, Step, choose


def flow(takes: list[list[int]], weights: list[list[int]], sizes: list[int | None]) -> Flow:
    """Step i gives tensor i, takes the input and earlier ones, and uses constants of 10 bytes each by number."""
    steps = []
    for place, wanted in enumerate(takes):
        names = {f"t{it % place}" for it in wanted} if place else set()
        steps.append(Step(frozenset(names or {"x"}), (f"t{place}",), _constants(weights[place])))
    nbytes: dict[str, int | None] = {f"t{place}": size for place, size in enumerate(sizes)} | {"x": 4}
    every = {name for step in steps for name in step.constants}
    return Flow(steps, ("x",), (f"t{len(steps) - 1}",), nbytes, dict.fromkeys(every, 10))


def _constants(numbers: list[int]) -> frozenset[str]:
    return frozenset(f"w{number}" for number in numbers)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    count = draw(st.integers(3, 8))
    few = st.lists(st.integers(0, 20), max_size=3)
    every = st.lists(few, min_size=count, max_size=count)
    sizes = draw(st.lists(st.one_of(st.none(), st.integers(1, 100)), min_size=count, max_size=count))
    return flow(draw(every), draw(every), sizes)


@given(flows(), st.integers(2, 4))
def test_no_other_cuts_are_better(it: Flow, parts: int) -> None:
    """All ways to cut are tried: the heaviest part is within a tenth of the lightest possible one, and of all ways
    for which that holds the least bytes cross."""
    fit = [place for place, cost in enumerate(it.costs) if math.isfinite(cost)]
    ways = list(itertools.combinations(fit, parts - 1))
    if not ways:
        with pytest.raises(InvalidInput, match="too few"):
            choose(it, parts)
        return
    limit = max(min(max(it.weights(way)) for way in ways) * (1 + SLACK), 1)
    cheapest = min(sum(it.costs[cut] for cut in way) for way in ways if max(it.weights(way)) <= limit)
    chosen = choose(it, parts)
    assert max(it.weights(chosen)) <= limit
    assert cheapest == sum(it.costs[cut] for cut in chosen)


@given(flows())
def test_what_crosses_is_what_is_used_later(it: Flow) -> None:
    """Counted one by one: made at or before the cut, and taken after it, or the graph's output."""
    for cut in range(len(it.steps) - 1):
        before = {"x", *(name for step in it.steps[: cut + 1] for name in step.gives)}
        after = {name for step in it.steps[cut + 1 :] for name in step.takes} | set(it.outputs)
        assert before & after == set(it.crossing(cut))
        sizes = [it.tensor_bytes[name] for name in before & after]
        assert it.costs[cut] == (math.inf if None in sizes else sum(size or 0 for size in sizes))


def test_thousands_of_steps_are_thinned_out() -> None:
    """A long line with more places than are looked at: still even, and cut where it is thinnest."""
    count = CANDIDATES_MAX * 25
    takes = [[place - 1] for place in range(count)]
    sizes: list[int | None] = [1 if place % 10 == 0 else 1000 for place in range(count)]
    it = flow(takes, [[place] for place in range(count)], sizes)
    cuts = choose(it, 4)
    weights = it.weights(cuts)
    assert max(weights) <= 1.15 * sum(weights) / 4
    assert [1.0] * 3 == [it.costs[cut] for cut in cuts]


def test_without_the_package_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    """onnx is an extra: one line and the command that installs it, and nothing else of meshnode needs it."""
    model = tmp_path / "m.onnx"
    model.write_bytes(b"")
    code = "import sys; sys.modules['onnx'] = None; from meshnode.cli.main import main; main()"
    words = ["model", "split", str(model), "--parts", "2"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert 'pip install "meshnode[split]"' in done.stderr
    assert "Traceback" not in done.stderr

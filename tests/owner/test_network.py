"""Metered links, as NetworkManager tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.owner.network import READ_EVERY_S, LinuxNetwork
from tests.owner.machine import Programs, plant


@pytest.mark.parametrize(
    ("said", "expected"),
    [("u 0\n", None), ("u 1\n", True), ("u 2\n", False), ("u 3\n", True), ("u 4\n", False), (None, None), ("?", None)],
)
def test_guesses_count_as_told(tmp_path: Path, said: str | None, expected: bool | None) -> None:
    """A phone's hotspot is guessed to be metered, and is; what is unknown stays so."""
    (tmp_path / "run/NetworkManager").mkdir(parents=True)
    assert expected is LinuxNetwork(tmp_path, Programs(busctl=said)).read(0.0)


def test_it_is_asked_seldom_and_only_where_it_runs(tmp_path: Path) -> None:
    """No program runs without NetworkManager, and one in half a minute with it."""
    run = Programs(busctl="u 2\n")
    it = LinuxNetwork(tmp_path, run)
    assert it.read(0.0) is None
    assert [] == run.runs
    plant(tmp_path, {"run/NetworkManager/devices/2": ""})
    assert [False, False, False] == [it.read(now) for now in (1.0, READ_EVERY_S, READ_EVERY_S + 1)]
    assert 2 == len(run.runs)

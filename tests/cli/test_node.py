"""What can be told where no agent runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from meshnode.cli import asking, checks
from meshnode.errors import AgentUnavailable
from tests.cli.conftest import Command


def test_the_doctor_without_an_agent(meshnode: Command, tmp_path: Path) -> None:
    """Exit code 3, and why `up` would fail: here, a port that is taken and a setting that is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "config.toml").write_text(f'listen = "{address}"\n')
        code, out, _ = meshnode("doctor")
    assert 3 == code
    assert "FAIL  agent" in out
    assert f"FAIL  port: TCP {address}" in out

    (tmp_path / "config.toml").write_text("bogus = 1\n")
    rows = checks.without_agent(tmp_path, AgentUnavailable("x", hint="y"))
    assert any(row["check"] == "settings" and row["ok"] is False and "bogus" in row["detail"] for row in rows)


def test_a_home_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    """The first `up` makes it."""
    rows = {row["check"]: row["ok"] for row in checks.without_agent(tmp_path / "a" / "b", AgentUnavailable("x"))}
    assert rows["home"] is None
    assert rows["disk"] is True


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90.0), ("90s", 90.0), ("30m", 1800.0), ("1h30m", 5400.0), ("7d", 604800.0)]
)
def test_durations(text: str, expected: float) -> None:
    """Seconds, minutes, hours, days, and their sums."""
    assert expected == asking.seconds(text)

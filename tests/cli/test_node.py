"""The log as it is shown, and what can be told where no agent runs."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from meshnode.cli import asking, checks, node
from meshnode.errors import AgentUnavailable
from tests.cli.conftest import Command

LINE = "2026-01-02T03:04:05.678Z INFO meshnode.agent: linked with a: b"


def test_the_last_lines_of_the_log(meshnode: Command, tmp_path: Path) -> None:
    """-n counts from the end; a traceback's lines have only a message in JSON."""
    (tmp_path / "agent.log").write_text(f"old\n{LINE}\n  File x\n")

    assert (0, f"{LINE}\n  File x\n", "") == meshnode("logs", "-n", "2")
    assert (0, "", "") == meshnode("logs", "-n", "0")
    records = [json.loads(line) for line in meshnode("logs", "-n", "2", "--json")[1].splitlines()]
    assert ["INFO", None] == [record["level"] for record in records]
    assert "linked with a: b" == records[0]["message"]
    assert "meshnode.agent" == records[0]["logger"]


def test_no_log_is_an_error(meshnode: Command) -> None:
    """A home on which no agent has run is named."""
    code, _, err = meshnode("logs")
    assert 1 == code
    assert "--home" in err


def test_following_survives_the_turn_of_the_log(tmp_path: Path) -> None:
    """What is written after the log was turned over is shown too."""
    path = tmp_path / "agent.log"
    path.write_text("one\n")
    lines = node._last_and_new(path, 10, follow=True)
    seen = [next(lines)]
    os.rename(path, tmp_path / "agent.log.1")
    path.write_text("two\n")
    reader = threading.Thread(target=lambda: seen.append(next(lines)))
    reader.start()
    reader.join(20)
    lines.close()

    assert ["one", "two"] == seen


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

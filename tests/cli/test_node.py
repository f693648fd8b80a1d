"""What can be told where no agent runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="arguments are blanked on Linux only")
def test_a_token_does_not_stay_among_the_arguments() -> None:
    """Every user of a machine reads the arguments of its processes, for as long as these run."""
    script = (
        "import sys; from pathlib import Path; from meshnode.cli.node import read_token\n"
        "token = read_token(sys.argv[2]); left = Path('/proc/self/cmdline').read_bytes().split(b'\\0')\n"
        "print(token, [it.decode() for it in left[-4:-1]])"
    )
    words = [sys.executable, "-c", script, "up", "mesh1-secret", "--name=a"]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd=os.getcwd()).stdout
    assert "mesh1-secret ['up', 'xxxxxxxxxxxx', '--name=a']\n" == said

"""Frigate's plugin and an agent as its user starts it: the settings of a file, the command line, uvloop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.edge.frigate.plugin import Plugin, coloured, yolo
from tests.mesh.rig import Agent, rig, wait_for

CONFIG = '[frigate]\nlisten = "tcp://127.0.0.1:0"\nmodel = "eyes"\nanswer_s = 10\n'


def test_a_recorder_sees_through_an_agent_and_its_user_hears_when_it_does_not(tmp_path: Path) -> None:
    """Frames are answered; when they are not, `meshnode events` and the log say so, and why."""
    with rig(tmp_path) as it:
        (tmp_path / "n0").mkdir(mode=0o700)
        (tmp_path / "n0" / "config.toml").write_text(CONFIG)
        agent = it.start("n0")
        model = yolo(tmp_path / "eyes.onnx")
        agent.command("model", "add", str(model), "--name", "eyes")
        plugin = Plugin(agent.ready["frigate"], model, timeout_ms=20_000)
        try:
            found = plugin.detect(coloured(0.9, 0, 0))
            assert found is not None
            assert [0, 1] == [round(float(found[0, 0])), round(float(found[0, 1]))]
            assert [] == cameras(agent)
        finally:
            plugin.close()
        plugin = Plugin(agent.ready["frigate"], model, timeout_ms=200)
        try:
            for _ in range(3):
                assert plugin.detect(coloured(0.9, 0, 0, side=32)) is None
        finally:
            plugin.close()
        (alarm,) = wait_for(lambda: cameras(agent), within_s=20, why="the alarm")
        assert ("cameras blind", "eyes: ") == (alarm["event"], alarm["why"][:6])
        assert "cameras are blind" in agent.log()


def cameras(agent: Agent) -> list[dict[str, Any]]:
    """The events about them."""
    lines = agent.command("--json", "events").stdout.splitlines()
    return [event for event in map(json.loads, lines) if event["event"].startswith("cameras")]

"""The log as it is written and as it is shown."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import meshnode as library
from meshnode.cli import logs
from meshnode.tasks.current import TASK
from tests.cli.conftest import Command
from tests.mesh.rig import MODELS, rig

TASK_ID = "0123456789abcdef" * 2
OTHER = "f" * 32
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
    lines = logs.last_and_new(path, 10, follow=True)
    seen = [next(lines)]
    os.rename(path, tmp_path / "agent.log.1")
    path.write_text("two\n")
    reader = threading.Thread(target=lambda: seen.append(next(lines)))
    reader.start()
    reader.join(20)
    lines.close()

    assert ["one", "two"] == seen


def record(text: str, *args: object, failed: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("of a test")
    except ValueError:
        why = sys.exc_info() if failed else None
    return logging.LogRecord("meshnode.x", logging.INFO, "f", 1, text, args, why)


@pytest.mark.parametrize("form", [logs.Text(), logs.Json()], ids=["text", "json"])
def test_a_line_says_which_task_it_is_about(form: logging.Formatter) -> None:
    """In both forms, and both are read as the same record; what has no task says none."""
    before = TASK.set(TASK_ID)
    line = form.format(record('%d \u2192 "x"\tand', 7))
    TASK.reset(before)
    read = logs.log_record(line)
    assert ("INFO", "meshnode.x", '7 \u2192 "x"\tand') == (read["level"], read["logger"], read["message"])
    assert TASK_ID == read["task"]
    assert 24 == len(str(read["time"]))
    assert "task" not in logs.log_record(form.format(record("none")))


def test_a_traceback_is_in_the_line_and_shown_below_it() -> None:
    """JSON keeps a line a line."""
    line = logs.Json().format(record("it broke", failed=True))
    assert "\n" not in line
    first, *rest = logs.for_people(line)
    assert first.endswith("INFO meshnode.x: it broke")
    assert ("Traceback (most recent call last):", "ValueError: of a test") == (rest[0], rest[-1])
    assert ["{not json"] == list(logs.for_people("{not json"))


def test_only_the_lines_of_one_task(meshnode: Command, tmp_path: Path) -> None:
    """In its own field or in the text, in both forms, with the traceback that follows; -n counts those."""
    form = logs.Json()
    before = TASK.set(OTHER)
    other = form.format(record("of another"))
    TASK.reset(before)
    before = TASK.set(TASK_ID)
    mine = form.format(record("mine in JSON"))
    TASK.reset(before)
    text = f"2026-01-02T03:04:05.678Z INFO meshnode.agent: the result of task {TASK_ID} is late\n  File x"
    (tmp_path / "agent.log").write_text("\n".join([other, mine, LINE, text, other]) + "\n")

    code, out, _ = meshnode("logs", "--task", TASK_ID[:6])
    assert (0, 3) == (code, len(out.splitlines()))
    assert "mine in JSON" in out.splitlines()[0]
    assert "  File x" == out.splitlines()[2]
    assert 2 == len(meshnode("logs", "--task", TASK_ID, "-n", "2")[1].splitlines())
    assert 1 == meshnode("logs", "--task", "xyz")[0]


def test_an_agent_writes_json_when_the_settings_say_so(tmp_path: Path) -> None:
    """Every line is an object, also those of libraries; a task that failed is found by its id."""
    with rig(tmp_path) as mesh:
        (tmp_path / "ann").mkdir(mode=0o700)
        (tmp_path / "ann" / "config.toml").write_text('[log]\nformat = "json"\n')
        agent = mesh.start("ann")
        agent.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        with library.Client(agent.home) as client, pytest.raises(library.InvalidInput):
            client.infer("echo", {"y": np.ones((1, 4), np.float32)})
        records = [json.loads(line) for line in agent.log().splitlines()]
        assert all({"time", "level", "logger", "message"} <= set(it) for it in records)
        (failed,) = [it for it in records if it["message"].startswith("echo failed: ")]
        assert 32 == len(failed["task"])
        shown = agent.command("logs", "--task", failed["task"][:8]).stdout
        assert "echo failed" in shown
        assert not shown.startswith("{")
        assert (
            failed["task"]
            == json.loads(agent.command("--json", "logs", "--task", failed["task"]).stdout.splitlines()[-1])["task"]
        )


def test_what_a_peer_says_makes_no_line_of_its_own() -> None:
    """Neither in the file nor on a terminal; a tab is a tab."""
    said = record("echo failed: %s", "\x1b[2J\r\n2026-01-01T00:00:00.000Z ERROR meshnode: \u202eforged\t.")
    for form in (logs.Text(), logs.Warn()):
        line = form.format(said)
        assert line.endswith(r"echo failed: \x1b[2J\r\n2026-01-01T00:00:00.000Z ERROR meshnode: \u202eforged" + "\t.")

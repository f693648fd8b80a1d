"""The agent's log: how its lines look, in text or as JSON, and how `meshnode logs` shows both."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode.cli import context
from meshnode.errors import HomeError, InvalidInput
from meshnode.telling import Log, LogFormat

LOG_BYTES = 5_000_000
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\S+Z) ([A-Z]+) ([\w.]+): (.*)", re.DOTALL)
OF_TASK = re.compile(r" \(task ([0-9a-f]{32})\)\Z")
FOLLOW_S = 0.2
TASK_MIN = 4
Record = dict[str, Any]


class Text(logging.Formatter):
    """A line for people; the task stands at its end, unless it is in the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line."""
        line, task = one_line(super().formatMessage(record)), task_now()
        return line if not task or task in line else f"{line} (task {task})"


class Warn(logging.Formatter):
    """On stderr."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line."""
        return one_line(super().formatMessage(record))


class Json(logging.Formatter):
    """A line for programs: one object."""

    def __init__(self) -> None:
        super().__init__()
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """The whole of it; a traceback is a field."""
        at = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        line: Record = {"time": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if task := task_now():
            line["task"] = task
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def one_line(text: str) -> str:
    """What peers say is in messages: it must neither look like a line of its own nor tell a terminal what to do."""
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() or it == "\t" else it.encode("unicode_escape").decode() for it in text)


def task_now() -> str:
    """The task that the caller works for."""
    from meshnode.tasks.current import TASK

    return TASK.get()


def start_log(home: Path, settings: Log) -> None:
    """The agent's log: a file in the home, turned over at 5 MB; warnings also on stderr."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = logging.handlers.RotatingFileHandler(
            home / "agent.log", maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8"
        )
    except OSError as error:
        raise HomeError(f"the home {home} cannot be used: {error.strerror}") from error
    file.setFormatter(Json() if settings.format is LogFormat.JSON else Text())
    logging.getLogger("meshnode").setLevel(logging.DEBUG if context.current.debug else logging.INFO)
    logging.getLogger().addHandler(file)
    if not context.current.json:
        stderr = logging.StreamHandler()
        stderr.setLevel(logging.WARNING)
        stderr.setFormatter(Warn())
        logging.getLogger("meshnode").addHandler(stderr)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    task: Annotated[str, typer.Option(metavar="ID", help="Only of this task; the beginning of its id will do.")] = "",
) -> None:
    """This agent's log."""
    path = context.current.home / "agent.log"
    if not path.exists():
        raise InvalidInput(f"no agent has run on the home {context.current.home}", hint="is it the right --home?")
    if task and (len(task) < TASK_MIN or not re.fullmatch(r"[0-9a-f]{1,32}", task)):
        raise InvalidInput(f"{task!r} is no task's id", hint=f"give at least {TASK_MIN} of its 32 hexadecimal digits")
    wanted = Of(task) if task else lambda line: True
    try:
        for line in last_and_new(path, lines, wanted, follow=follow):
            if context.current.json:
                context.emit(log_record(line))
            else:
                for shown in for_people(line):
                    typer.echo(context.printable(shown.replace("\t", "    ")))
    except KeyboardInterrupt:
        raise typer.Exit from None


class Of:
    """Whether a line is about a task; the lines of a traceback are about that of the line before."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._last = False

    def __call__(self, line: str) -> bool:
        """Asked of one line after the other."""
        record = log_record(line)
        if record["level"] is not None:
            said = str(record.get("task") or "")
            self._last = said.startswith(self._task) or any(
                it.startswith(self._task) for it in re.findall(r"\b[0-9a-f]{32}\b", str(record["message"]))
            )
        return self._last


def log_record(line: str) -> Record:
    """A line of the log as a document; the lines of a traceback have only a message."""
    if line.startswith("{"):
        try:
            record = json.loads(line)
            if {"time", "level", "logger", "message"} <= set(record):
                return dict(record)
        except ValueError:
            pass  # a line of something else that begins with a brace
    match = LOG_LINE.fullmatch(line)
    if match is None:
        return {"time": None, "level": None, "logger": None, "message": line}
    record = {"time": match[1], "level": match[2], "logger": match[3], "message": match[4]}
    of = OF_TASK.search(match[4])
    return record if of is None else record | {"message": match[4][: of.start()], "task": of[1]}


def for_people(line: str) -> Iterator[str]:
    """A line as text, whichever form it has."""
    if not line.startswith("{") or (record := log_record(line))["level"] is None:
        yield line
        return
    task = record.get("task") or ""
    more = f" (task {task})" if task and task not in str(record["message"]) else ""
    yield f"{record['time']} {record['level']} {record['logger']}: {record['message']}{more}"
    yield from str(record.get("exception", "")).splitlines()


def last_and_new(
    path: Path, last: int, wanted: Callable[[str], bool] = lambda line: True, *, follow: bool
) -> Iterator[str]:
    """The last lines that are wanted; with `follow` those added, also when the log is turned over, until Ctrl-C."""
    file = path.open(encoding="utf-8", errors="replace")
    try:
        yield from deque(_wanted(file, wanted), maxlen=last)
        while follow:
            line = file.readline()
            if line:
                yield from _wanted([line], wanted)
                continue
            time.sleep(FOLLOW_S)
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
    finally:
        file.close()


def _wanted(lines: Iterable[str], wanted: Callable[[str], bool]) -> Iterator[str]:
    return (line for line in (it.rstrip("\n") for it in lines) if wanted(line))

"""Settings of what an agent tells of its work: its record, its log, traces. Part of `meshnode.config`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from meshnode.ranges import Within

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Audit:
    """The record of what was done here, `audit/` in the home: about 250 bytes a task."""

    enabled: bool = True
    keep_days: Annotated[float, Within(1, 36500)] = 90.0
    """Older files are removed…"""
    bytes_max: Annotated[int, Within(1 * MIB, 2**50)] = 512 * MIB
    """…and the oldest beyond this much together: two million tasks."""
    file_bytes: Annotated[int, Within(64 * KIB, 2**40)] = 64 * MIB
    """A file that has grown beyond this is followed by the next of the day."""


@dataclass(frozen=True, slots=True)
class Traces:
    """Spans of tasks for an OpenTelemetry collector (extra `traces`)."""

    endpoint: str = ""
    """Where it takes OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; empty = no traces. Headers that it wants are
    read from the environment: OTEL_EXPORTER_OTLP_HEADERS."""
    share: Annotated[float, Within(0, 1)] = 1.0
    """Of the tasks that come without a trace, this share begins one. Those that bring one do as it says."""


class LogFormat(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Log:
    """The agent's log, `agent.log` in the home."""

    format: LogFormat = LogFormat.TEXT
    """text, or json: a line is then an object with time, level, logger, message and, where it is about one, task.
    `meshnode logs` shows both."""

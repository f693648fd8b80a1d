"""Which task a line of the log is about: the one that the code which writes it works for."""

from __future__ import annotations

from contextvars import ContextVar

TASK: ContextVar[str] = ContextVar("task", default="")
"""Its id; empty where there is none. What a task starts and leaves running says it too."""

"""An agent that says on SIGUSR2 what it holds: its asyncio tasks by what they do, and how many Python objects live.

It is the installed command with one handler more. Says into the file that RIG_COUNTS names, which is there when it is
whole.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

from meshnode.cli.main import main

COMMON = 30
"""Kinds of objects of which there are fewer are not told."""


def _say(_signal: int, _frame: object) -> None:
    path = Path(os.environ["RIG_COUNTS"])
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs: it starts, or ends
        tasks = set()
    names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    part = path.with_suffix(".part")
    kinds = Counter(f"{type(it).__module__}.{type(it).__qualname__}" for it in gc.get_objects())
    common = {kind: count for kind, count in kinds.items() if count >= COMMON}
    part.write_text(json.dumps({"tasks": dict(names), "objects": kinds.total(), "kinds": common}))
    part.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _say)
    main()

"""What is complained about outside of the loop: errors in the log, warnings, coroutines that nobody awaited."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from meshnode.sim.shells.mesh import Mesh


@contextmanager
def listening() -> Iterator[list[str]]:
    """All of it, as long as this lasts."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            why = f": {record.exc_info[1]!r}" if record.exc_info else ""
            heard.append(f"logged: {record.getMessage()}{why}")

    ear, before = Ear(logging.ERROR), sys.unraisablehook
    logger = logging.getLogger("meshnode")
    logger.addHandler(ear)
    sys.unraisablehook = lambda args: heard.append(f"not raised: {args.exc_value!r} in {args.object!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, *_: heard.append(f"{category.__name__}: {message}")
            yield heard
    finally:
        logger.removeHandler(ear)
        sys.unraisablehook = before


def bury(mesh: Mesh) -> None:
    """End what was left in the middle: it must not complain when it is taken away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, sys.unraisablehook = sys.unraisablehook, lambda _: None
        mesh.loop.set_exception_handler(lambda loop, context: None)
        mesh.loop.forget()
        mesh.loop.run_until_complete(_end_all())
        mesh.processes.clear()
        gc.collect()
        sys.unraisablehook = before


async def _end_all() -> None:
    """Inside the loop, for what is ended begins other things as it goes."""
    buried = {asyncio.current_task()}
    while left := asyncio.all_tasks() - buried:
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio has no other word for it
            with suppress(BaseException):
                cast(Coroutine[Any, Any, Any], task.get_coro()).close()
        buried |= left

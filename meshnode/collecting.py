"""When Python looks through its objects for rings that nobody reaches: not while code is loaded, and not at what stays.

An agent has fifty thousand objects once it is loaded: functions, classes, modules, which stay until it ends. To look
through all of them takes 25 to 60 ms, in which the event loop stands still, and a start did so three times.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Nothing is looked through meanwhile: what is made now stays."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def settle() -> None:
    """What is there now is looked through once more and never again, until this is called again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()

"""Being told to end by a signal: what a run has in memory's folder is removed first, in whichever process it is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def told() -> None:
    """From now on both signals unwind what runs; a second one does not interrupt the first one's tidying."""
    for number in SIGNALS:
        signal.signal(number, _unwind)


def tidily(work: Callable[[Any], Any], job: Any) -> Any:
    """Do it; where it is unwound its process ends, instead of taking the next one."""
    try:
        return work(job)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)


def _unwind(number: int, _: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)

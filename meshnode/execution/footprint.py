"""What a process takes of the machine's memory."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process takes of the machine's memory, and how much of that it shares with nobody."""

    resident_bytes: int = 0
    private_bytes: int = 0


def footprint(pid: int) -> Footprint:
    """Nothing for a process that is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return Footprint()
    return Footprint(int(memory.rss), int(memory.rss - getattr(memory, "shared", 0)))

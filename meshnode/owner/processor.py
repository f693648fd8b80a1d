"""How much of the processors other programs use: all work less our own process tree's.

Where processes wait for a processor (the kernel's pressure figure), others' part of that waiting counts, if it is more.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.owner.sources import listing, text

READ_EVERY_S = 5.0
TREE_EVERY_S = 30.0
"""The process tree is looked up so often, and when one of it is gone."""


@dataclass(slots=True)
class LinuxProcessor:
    """By /proc. `pid` is the top of our own tree."""

    root: Path = Path("/")
    pid: int = field(default_factory=os.getpid)
    _at: float | None = None
    _share: float | None = None
    _busy: int | None = None
    _total: int = 0
    _own: dict[int, int] = field(default_factory=dict)
    _tree_at: float = 0.0

    def read(self, now: float) -> float | None:
        """The share of all processors that others used since the last reading, 0..1; None = unknown."""
        if self._at is not None and now - self._at < READ_EVERY_S:
            return self._share
        machine = self._machine()
        if not self._own or now - self._tree_at >= TREE_EVERY_S or any(self._ticks(pid) is None for pid in self._own):
            self._tree_at, pids = now, self._tree()
        else:
            pids = list(self._own)
        own = {pid: ticks for pid in pids if (ticks := self._ticks(pid)) is not None}
        self._share = self._others(machine, own)
        self._at, self._own = now, own
        self._busy, self._total = machine or (None, 0)
        return self._share

    def _others(self, machine: tuple[int, int] | None, own: dict[int, int]) -> float | None:
        if machine is None or self._busy is None or machine[1] <= self._total:
            return None
        busy, total = machine[0] - self._busy, machine[1] - self._total
        ours = sum(ticks - self._own.get(pid, ticks) for pid, ticks in own.items())
        others = min(1.0, max(0, busy - ours) / total)
        waiting = re.search(r"^some avg10=([\d.]+)", text(self.root / "proc/pressure/cpu") or "", re.MULTILINE)
        pressure = float(waiting[1]) / 100 if waiting else 0.0
        part = max(0, busy - ours) / busy if busy > 0 else 0.0
        return max(others, min(1.0, pressure * part))

    def _machine(self) -> tuple[int, int] | None:
        """Ticks of all processors so far: busy, and all. What a hypervisor took away is nobody's here."""
        match = re.match(r"cpu +([\d ]+)", text(self.root / "proc/stat") or "")
        ticks = [int(word) for word in match[1].split()][:8] if match else []
        if len(ticks) < 4:
            return None
        user, nice, system, idle, iowait, irq, softirq, _ = (*ticks, 0, 0, 0, 0)[:8]
        busy = user + nice + system + irq + softirq
        return busy, busy + idle + iowait

    def _stat(self, pid: int | str) -> list[str] | None:
        """The fields of a process after its name: state, parent, …"""
        said = text(self.root / "proc" / str(pid) / "stat")
        fields = said.rpartition(")")[2].split() if said else []
        return fields if len(fields) > 12 else None

    def _ticks(self, pid: int) -> int | None:
        fields = self._stat(pid)
        return None if fields is None else int(fields[11]) + int(fields[12])

    def _tree(self) -> list[int]:
        """Our process and all below it."""
        children: dict[int, list[int]] = {}
        for path in listing(self.root / "proc") or ():
            if path.name.isdigit() and (fields := self._stat(path.name)) is not None:
                children.setdefault(int(fields[1]), []).append(int(path.name))
        tree = [self.pid]
        for pid in tree:
            tree += children.get(pid, [])
        return tree

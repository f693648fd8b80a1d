"""What a tree of processes takes of the machine, from /proc. Plain Python, for all environments."""

from __future__ import annotations

import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def fields(pid: int) -> list[str]:
    """/proc/PID/stat behind the name, which may hold anything: state, parent, ... Empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def below(root: int) -> list[int]:
    """The processes that descend from one, without it."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (it := fields(int(name))):
            parents.setdefault(int(it[1]), []).append(int(name))
    found, new = [], [root]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found += new
    return found


def cpu_s(pids: list[int]) -> dict[int, float]:
    """Processor time of each, with the children that it has waited for."""
    return {pid: sum(map(int, it[11:15])) * TICK_S for pid in pids if (it := fields(pid))}


def tree_cpu_s(root: int) -> float:
    """Processor time of all below a process; of itself only what it inherited from the dead."""
    own = fields(root)
    return sum(cpu_s(below(root)).values()) + (sum(map(int, own[13:15])) * TICK_S if own else 0.0)


def pss_bytes(pids: list[int]) -> int:
    """Memory of them all: what several share counts once."""
    found = 0
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found += sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
    return found


def runs_models(pid: int) -> bool:
    """Whether a process has ONNX Runtime in it."""
    try:
        return "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def command(pid: int) -> str:
    """How a process was started, shortened."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "?"
    return " ".join(Path(word).name if word.startswith("/") else word for word in words if word)[:80]


def busy_s() -> float:
    """Processor time that all processes of the machine have had, this one's interrupts included."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) * TICK_S

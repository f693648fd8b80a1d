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


def memory_bytes(pids: list[int]) -> int:
    """Memory of a tree as if it were alone: what its processes share counts once, whoever else has it too.

    Not the sum of Pss: the libraries of several trees that run from one environment would be divided among all.
    """
    own, files = 0, dict[str, int]()
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/smaps").read_text().splitlines()
        except OSError:
            continue
        mine: dict[str, int] = {}
        name, sizes = "", dict[str, int]()
        for row in rows:
            first, *rest = row.split()
            if not first.endswith(":"):
                name = f"{rest[2]} {rest[3]}" if len(rest) > 3 and rest[3] != "0" else ""  # device and file, or none
                continue
            if first in ("Rss:", "Pss:", "Private_Dirty:"):
                sizes[first] = int(rest[0]) * 1024
            if first == "Private_Dirty:":
                own += sizes["Private_Dirty:"] if name else sizes["Pss:"]
                if name:
                    mine[name] = mine.get(name, 0) + sizes["Rss:"] - sizes["Private_Dirty:"]
        for name, size in mine.items():
            files[name] = max(files.get(name, 0), size)
    return own + sum(files.values())


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

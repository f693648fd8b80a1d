"""What a soak sees of its agents, a JSON line a minute, and what is judged of those: also of a soak that was ended."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tests.mesh.history import Task, judge
from tests.mesh.rig import Agent, wait_for
from tests.rig.promises.figures import LOADED, Figure, at_least, at_most, none_of, told, true

MB = 1e6
SLOPE_MB_H = 1.0
MINUTES_MIN = 30.0
"""A slope of less time than that tells nothing: what an agent has when it is warm comes to it in the first minutes."""
WARM = 1 / 6
"""So much of the samples is before that."""
HELD = ("fds", "threads", "tasks", "files")
"""What an agent that lives through it all has as many of afterwards as before; files without those of models."""
RISE = 2.0
"""The median of the last third may be so much above that of the first: something is always on its way."""
SAMPLES_MIN = 6
"""Of fewer the median is what was on its way when one was taken: a rise is nearly none."""
SHOWN = 20
LATE_S = 60.0
"""A task without an answer so long after it was due is lost."""
SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not written


def counts_of(agent: Agent) -> Path:
    """Where the agent says what it holds (`tests.rig.counted`)."""
    return agent.home.with_suffix(".counts")


def of_agent(agent: Agent) -> dict[str, Any]:
    """What one agent holds now; its worker's memory apart."""
    path = counts_of(agent)
    path.unlink(missing_ok=True)
    process = psutil.Process(agent.process.pid)
    process.send_signal(signal.SIGUSR2)
    wait_for(path.exists, within_s=120, why=f"{agent.home.name} says what it holds")
    said = json.loads(path.read_text())
    workers = process.children(recursive=True)
    stored = [it for it in (agent.home / "models").rglob("*") if it.is_file()]
    files = [it for it in agent.home.rglob("*") if it.is_file() and it not in stored]
    return {
        "pid": process.pid,
        "rss": process.memory_info().rss / MB,
        "fds": process.num_fds(),
        "threads": process.num_threads(),
        "tasks": sum(said["tasks"].values()),
        "tasks_by": said["tasks"],
        "objects": said["objects"],
        "kinds": said["kinds"],
        "blocks": said["blocks"],
        "heap": said["heap"],
        "workers": {str(it.pid): it.memory_info().rss / MB for it in workers},
        "files": len(files),
        "bytes": sum(it.stat().st_size for it in files),
        "stored": len(stored),
        "log": sum(it.stat().st_size for it in files if it.name.startswith("agent.log")),
    }


def left_lying(folder: Path, processes: Sequence[psutil.Process]) -> dict[str, int]:
    """What these have open in shared memory, and files in the folder for temporary ones, which is theirs alone.

    What lies in shared memory and nobody of them holds may be another program's of this machine.
    """
    held = set()
    for process in processes:
        with suppress(psutil.Error, OSError):
            held |= {os.readlink(it) for it in Path(f"/proc/{process.pid}/fd").iterdir()}
    return {
        "shared": sum(it.startswith(f"{SHARED}/") for it in held),
        "temporary": sum(1 for _ in folder.rglob("*")),
    }


def processor_s(processes: Sequence[psutil.Process]) -> float:
    """Processor seconds of these and of all that has ended, with the clients and the wires."""
    spent = 0.0
    for process in processes:
        with suppress(psutil.Error):
            spent += sum(process.cpu_times()[:4])
    ours, ended = (resource.getrusage(it) for it in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return spent + sum(it.ru_utime + it.ru_stime for it in (ours, ended))


def of_tasks(history: Sequence[Task], now: float) -> dict[str, Any]:
    """What became of those that have had their time."""
    settled = [it for it in history if it.answers or it.due < now - LATE_S]
    verdict = judge(settled)
    again = [it.seconds for it in settled if it.good and len(it.attempts) > 1]
    return {
        "tasks": len(settled),
        "open": len(history) - len(settled),
        "again": len(again),
        "slowest_s": max((it.seconds for it in settled if it.good), default=0.0),
        **{
            what: {"count": len(found), "some": list(found[:SHOWN])}
            for what, found in (("lost", verdict.lost), ("wrong", verdict.wrong), ("twice", verdict.twice))
        },
    }


class Book:
    """The lines, kept in memory and appended to a file at once."""

    def __init__(self, path: Path | None) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        self._began = time.monotonic()

    def write(self, kind: str, **more: Any) -> dict[str, Any]:
        """One line."""
        line = {"kind": kind, "at": round(time.monotonic() - self._began, 1), **more}
        self.lines.append(line)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line


def progress(line: Mapping[str, Any], spared: Sequence[str]) -> str:
    """A sample in one line of text."""
    done, agents = line["work"], line["agents"]
    memory = " ".join(f"{agents[name]['rss']:.0f}" for name in spared)
    held = " ".join("/".join(str(agents[name][it]) for it in HELD) for name in spared)
    bad = ", ".join(f"{done[it]['count']} {it}" for it in ("lost", "wrong", "twice"))
    return (
        f"{line['at'] / 60:6.1f} min  {sum(line['faults'].values())} faults  {done['tasks']} tasks: {bad}  "
        f"{line['cores']:.2f} cores  {' '.join(spared)}: {memory} MB, {'/'.join(HELD)} {held}"
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """By least squares, in the unit of the second for an hour of seconds."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression([at / 3600 for at, _ in points], [value for _, value in points]).slope


def judged(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The figures of a soak, as far as it came."""
    head = lines[0]
    samples = [line for line in lines if line["kind"] == "sample"]
    ends = [line for line in lines if line["kind"] == "end"]
    if not samples:  # it broke off before
        return [true("a soak", "came to its first sample", False)]
    last, minutes = samples[-1], lines[-1]["at"] / 60
    did = (
        f"{head['hosts']} agents for {minutes:.0f} min, {head['rate']:g} tasks a second, {sum(last['faults'].values())}"
        f" faults"
    )
    asked = f"of {head['minutes']:g} minutes"
    broke = ends[-1]["why"] if ends else "it was ended from outside"
    mixed = ", ".join(f"{count} {name}" for name, count in sorted(last["faults"].items()))
    cores = statistics.mean(line["cores"] for line in samples)
    work = last["work"]
    figures = [
        true(did, f"came to its end, {asked}", bool(ends) and not ends[-1]["why"], broke),
        told(did, "faults", mixed),
        none_of(did, "faults that did not go as they should", last["broken"]),
        told(did, "slowest until all were alive for all again", f"{last['whole_s']:.1f} s"),
        told(did, "processors used on the average, clients and wires with them", f"{cores:.2f}"),
        at_least(did, "tasks", work["tasks"], 1),
        *(
            none_of(did, what, work[key]["some"] + [""] * (work[key]["count"] - len(work[key]["some"])))
            for key, what in (
                ("lost", "tasks lost"),
                ("wrong", "wrong answers"),
                ("twice", "answers delivered twice"),
            )
        ),
        told(did, "tasks sent a second time, slowest of all", f"{work['again']}, {work['slowest_s']:.2f} s"),
    ]
    return [*figures, *_held(did, head["spared"], samples, minutes)]


def _held(did: str, spared: Sequence[str], samples: Sequence[Mapping[str, Any]], minutes: float) -> list[Figure]:
    """What the agents that were never killed hold."""
    warm = samples[int(len(samples) * WARM) :]
    who = f"of {len(spared)} agents that were never killed"
    slopes = _slopes(warm, spared, "rss")
    steepest = max(slopes.values())
    what = f"steepest memory slope {who}, {len(warm)} samples after the first {WARM * minutes:.0f} min"
    long = minutes >= MINUTES_MIN
    figures = [
        at_most(did, what, steepest, SLOPE_MB_H, "MB/h") if long else told(did, what, f"{steepest:.1f} MB/h"),
        told(did, "...each, MB/h", _shown(slopes)),
        told(did, "...each in the last third, MB/h", _shown(_slopes(warm[-(len(warm) // 3 + 1) :], spared, "rss"))),
        told(
            did, "...from, to, MB", ", ".join(f"{n} {_rss(warm[0], n):.0f} to {_rss(warm[-1], n):.0f}" for n in spared)
        ),
        told(did, "...Python objects, an hour", _shown(_slopes(warm, spared, "objects"), ".0f")),
    ]
    for key in HELD:
        rises = {name: _rise([line["agents"][name][key] for line in warm]) for name in spared}
        counts = f"{key} {who}: the median of the last third above that of the first"
        figure, few = at_most(did, counts, max(rises.values()), RISE, ""), len(warm) < SAMPLES_MIN
        figures.append(replace(figure, nearly=few and max(rises.values()) <= LOADED * RISE))
    kept = ", ".join(f"{n} {warm[0]['agents'][n]['stored']} to {warm[-1]['agents'][n]['stored']}" for n in spared)
    figures.append(told(did, "files of models, which stay until their room is needed", kept))
    for key in ("shared", "temporary"):
        where = {"shared": f"files held in {SHARED}", "temporary": "temporary files"}[key]
        figures.append(at_most(did, f"{where} at the end", samples[-1]["lying"][key], samples[0]["lying"][key], ""))
    return figures


def _slopes(lines: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> dict[str, float]:
    """What each agent's figure rises by in an hour."""
    return {name: slope([(line["at"], line["agents"][name][key]) for line in lines]) for name in names}


def _shown(slopes: Mapping[str, float], form: str = ".2f") -> str:
    return ", ".join(f"{name} {value:+{form}}" for name, value in slopes.items())


def _rss(line: Mapping[str, Any], name: str) -> float:
    return float(line["agents"][name]["rss"])


def _rise(values: Sequence[float]) -> float:
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) - statistics.median(values[:third])

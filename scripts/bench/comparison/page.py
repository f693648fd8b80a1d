"""The page and the plots of a run: what was done, what was seen, and where others are ahead."""

from __future__ import annotations

import json
import math
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.bench.comparison import environments
from scripts.bench.comparison.figures import Report, Row, Spread, short
from scripts.bench.comparison.register import BY_NAME, System
from scripts.bench.comparison.turn import AFTER_S, FLIGHTS

HERE = Path(__file__).parent
PICTURES = {"comparison-speed.png": "Latency and throughput", "comparison-cost.png": "Cost, start and memory"}
AHEAD = {
    "mlp_p10_ms": ("tiny model, one in flight, quickest tenth", False),
    "mlp_p50_ms": ("tiny model, one in flight, median", False),
    "mlp_rate": ("tiny model, 16 in flight", True),
    "mlp_server_ms": ("processor time of the server, tiny model", False),
    "cnn_p10_ms": ("picture, one in flight, quickest tenth", False),
    "cnn_p50_ms": ("picture, one in flight, median", False),
    "cnn_rate": ("picture, 16 in flight, one worker", True),
    "cnn_server_ms": ("processor time of the server, picture", False),
    "two_rate": ("picture, 16 in flight, two workers", True),
    "cold_s": ("start to first answer", False),
    "idle_mb": ("memory at rest", False),
    "idle_cpu": ("processor at rest", False),
}
"""The figures by which systems are set beside ours, and whether more is better."""
COUNTED = ("mlp_p50_ms", "kill_errors")
"""What every turn has, and every kill."""
LEAST = 1.05
"""What is less than a twentieth better is as good."""
INTRO = """\
# Beside other systems

Made by `scripts/bench/compare --docs`, not by hand; the lines of each turn are in
[comparison.jsonl](comparison.jsonl). All systems are started and stay; each is asked for a moment, and then the next,
and from the first again, so that what the machine does meanwhile happens to all of them. Figures are medians of the
turns, with the middle half of them in brackets. **Compare within this page**: absolute times are this machine's, and
its load's.

"""
METHOD = """
## What was measured

* **The same for all**: two models (64 numbers in, two layers, microseconds; a picture of 602 KB in, five convolutions,
  milliseconds), the same inputs, ONNX Runtime of one version on the CPU with one thread a run, and one run at a time
  but where two workers are named ("two peers" has two in all columns). One client process on uvloop, on the same
  machine and in a session of its own, as all processes of a server are in one, so that each system has the same share
  of a busy processor (autogroup); each answer is compared with ONNX Runtime's own.
* **Each as quick as its documents show**: raw bytes where a system takes them, its quickest door, its own client
  library. Whoever knows a better way finds one small file for each system in `scripts/bench/comparison/systems/`, and
  how to add one in `contract.py` beside it.
* **Not the same**: meshnode's rows have mutual TLS between agents, a token or file rights at the door, placement,
  deadlines, repetition elsewhere, and the model in a confined process; it also runs waiting tasks of one model together
  (`batch_max`, its default), which others do when told to. NATS and grpc.aio by hand have none of these, and what is
  missing would be yours to write. MLServer "without workers" runs the model in the server itself.
* **p10**, the quickest tenth, is nearest to what a request takes when nothing else wants the processor; in the median
  is what other programs took away, and that hits most who has most processes to wake.
* **Start** is from the start of the processes to the first right answer, in homes and folders that were made before.
  **At rest** is with both models loaded, for all in the same seconds; memory is that of all processes of a system,
  what they share counted once, as if it were alone. **Processor time** is of all processes of the
  server, with their children, for a request of the 16 in flight; that of "in the program" is the client's own.
  A rate of 0: no answer came within a turn.
* **kill -9** takes the process that ran models most, under 16 pictures in flight with two workers; of "two peers" a
  whole agent with its worker, as if its machine had died. What fails is counted, not asked again by us, and after a
  failure each of the 16 waits 20 ms. "Never answered": neither an answer nor an error within 12 s of the kill.
* The columns with two workers, kill -9 and the start are of one system after the other: there the load of the machine
  is not the same for all, and two or three trials of seconds say little.
* Ratios are taken within each turn, and then their median: what makes the machine slow for a while changes none.
"""


def text(report: Report, *, plots: bool) -> str:
    """The page."""
    rows = [(BY_NAME[name], row) for name, row in report.rows.items() if row.turns]
    shown = [f"\n![{title}](images/{name})\n" if plots else "" for name, title in PICTURES.items()]
    parts = [INTRO, _machine(report), _speed(rows, report), shown[0], _cost(rows), shown[1]]
    if any(row.values("kill_errors") for _, row in rows):
        parts.append(_kills(rows))
    parts += [_beside(rows, report.row("local")), METHOD, _versions(report)]
    return "".join(parts).rstrip() + "\n"


def progress(line: dict[str, Any]) -> str:
    """A line of a run, for who waits for it."""
    if "run" in line:
        return f"{line['run']['at']}: {line['run']['rounds']} rounds"
    if "turn" not in line:
        return f"{line['system']}: {line.get('absent') or line['versions']}"
    head = f"turn {line['turn']}, load {line['load']:.1f}, {line['system']}: "
    if "failed" in line:
        return head + f"FAILED {line['failed']}"
    shown = {name: value for name, value in line["figures"].items() if isinstance(value, int | float)}
    return head + ", ".join(f"{name} {short(value)}" for name, value in shown.items())


def draw(at: Path, report: Report, docs: Path) -> str:
    """The plots; why not, or nothing."""
    python = environments.python(at, "plots")
    if not python.exists():
        return "matplotlib is not installed: run scripts/bench/compare --install"
    (docs / "images").mkdir(exist_ok=True)
    rows = {
        BY_NAME[name].title: {"ours": BY_NAME[name].ours}
        | {figure: [it.median, it.low, it.high] for figure in AHEAD if (it := row.spread(figure))}
        for name, row in report.rows.items()
        if row.turns
    }
    data = {"about": _conditions(report), "rows": rows}
    command = [str(python), str(HERE / "plots.py"), str(docs / "images")]
    done = subprocess.run(command, input=json.dumps(data), capture_output=True, text=True)
    return done.stderr.strip()[-300:] if done.returncode else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def cell(it: Spread | None, unit: str = "") -> str:
    """A figure, or that there is none."""
    return f"{it}{unit}" if it else "-"


def _conditions(report: Report) -> str:
    run, loads = report.run, report.loads or [0.0]
    others = [value for row in report.rows.values() for value in row.values("mlp_others")]
    busy = f"; other programs had {short(sum(others) / len(others))} of the cores meanwhile" if others else ""
    return (
        f"{run['at'][:10]}, {run['cores']} cores of {run['processor']}, {run['memory_gib']} GiB, {run['system']}, "
        f"Python {run['python']}; load average {min(loads):.1f} to {max(loads):.1f}, the measured systems' own included"
        f"{busy}"
    )


def _machine(report: Report) -> str:
    moments, kills = (max((len(row.values(it)) for row in report.rows.values()), default=0) for it in COUNTED)
    run = report.run
    return (
        f"`{run['command']}` of {run['at']}: {moments} turns of {run['seconds']:g} s a figure, {kills} series of "
        f"kills; {_conditions(report)}.\n" + "".join(f"\n{note}\n" for note in report.notes)
    )


def _title(it: System) -> str:
    return f"**{it.title}**" if it.ours else it.title


def _speed(rows: list[tuple[System, Row]], report: Report) -> str:
    direct, times = report.row("direct"), ("p10_ms", "p50_ms", "p99_ms")
    head = ["", "tiny model, 1 in flight: p10 ms", "p50 ms", "p99 ms", f"{FLIGHTS} in flight, /s"]
    head += ["picture, 1 in flight: p10 ms", "p50 ms", "x in the program", "p99 ms", f"{FLIGHTS} in flight, /s"]
    cells = []
    for it, row in rows:
        ratio = row.times("cnn_p50_ms", direct)
        picture = [cell(row.spread(f"cnn_{name}")) for name in times]
        picture.insert(2, short(ratio.median) if ratio else "-")
        tiny = [cell(row.spread(f"mlp_{name}")) for name in (*times, "rate")]
        cells.append([_title(it), *tiny, *picture, *(cell(row.spread(name)) for name in ("cnn_rate", "two_rate"))])
    head.append("two workers, /s")
    wrong = sum(row.total("wrong") for _, row in rows)
    said = "Every answer was ONNX Runtime's own." if not wrong else f"**{wrong} answers were wrong.**"
    return f"\n## Speed\n\n{table(head, cells)}\n{said}\n"


def _cost(rows: list[tuple[System, Row]]) -> str:
    head = ["", "start to first answer, s", "memory at rest, MB", "processes", "processor at rest, % of a core"]
    head += ["processor time a request, ms: tiny model", "picture"]
    cells = []
    for it, row in rows:
        side = "server" if row.values("processes") else "client"
        rest = [cell(row.spread(name)) for name in ("cold_s", "idle_mb")]
        processes = row.spread("processes")
        rest += [f"{processes.median:g}" if processes else "-", cell(row.spread("idle_cpu"))]
        cells.append([_title(it), *rest, *(cell(row.spread(f"{model}_{side}_ms")) for model in ("mlp", "cnn"))])
    return f"\n## Cost\n\n{table(head, cells)}"


def _kills(rows: list[tuple[System, Row]]) -> str:
    head = ["", "killed", "errors at the client, each time", "never answered", "longest without any answer, s"]
    head += ["slowest answer, s", "answers/s before", "in the last 2 s", f"{AFTER_S:g} s later"]
    cells = []
    for it, row in rows:
        if not row.values("kill_errors"):
            continue
        cells.append(
            [
                _title(it),
                _killed(row),
                ", ".join(f"{value:.0f}" for value in row.values("kill_errors")),
                str(row.total("kill_unanswered")),
                *(cell(row.spread(f"kill_{name}")) for name in ("gap_s", "slowest_s", "before_rate", "last_rate")),
                _afterwards(row),
            ]
        )
    kinds = [f"* {it.title}: `{said}`\n" for it, row in rows if (said := row.usual("kill_error"))]
    told = "\nWhat the client was told:\n\n" + "".join(kinds) if kinds else ""
    return (
        f'\n## kill -9 under load\n\n{table(head, cells)}\nOf "two peers" the agent that was killed stays away by '
        f"intent: it is a machine that died. Other workers that are missing {AFTER_S:g} s later were not started again "
        f"by then.\n{told}"
    )


def _afterwards(row: Row) -> str:
    """How it ended in most turns, by whether there are answers and as many workers as before."""
    ends = Counter(
        "had not answered before either: says nothing"
        if not it["kill_before_rate"]
        else "does not answer any more"
        if not it["kill_last_rate"]
        else "answers, with fewer workers"
        if it["kill_workers_after"] < it["kill_workers_before"]
        else "all as before"
        for it in row.turns.values()
        if "kill_last_rate" in it
    )
    if len(ends) == 1:
        return next(iter(ends))
    return ", ".join(f"{n} of {ends.total()}: {how}" for how, n in ends.most_common())


def _killed(row: Row) -> str:
    names = next(it["kill_killed"] for it in row.turns.values() if "kill_killed" in it)
    return " + ".join(map(_program, names))


def _program(command: str) -> str:
    """A short name for a command line."""
    words = command.split()
    named = next((word.rpartition(".")[2] for word in words if "comparison.systems" in word), "")
    if "meshnode.cli.main" in command:
        return "agent"
    if "meshnode.execution" in command or "spawn_main" in command:
        return "worker"
    return named or " ".join(words[:3])[:40] or "?"


def _beside(rows: list[tuple[System, Row]], ours: Row) -> str:
    """Who is ahead of the local agent in what, and who is behind it."""
    if not ours.turns:
        return ""

    def named(figure: str, better: Callable[[float], float]) -> Iterator[str]:
        for it, row in rows:
            times = row.times(figure, ours)
            if it.name == "direct" and figure.endswith("server_ms"):
                continue  # it has no server
            if not it.ours and times and (factor := better(times.median)) >= LEAST:
                yield f"{it.title} {_factor(factor)}"

    cells = []
    for figure, (what, more) in AHEAD.items():
        up, down = (lambda ratio: ratio), (lambda ratio: 1 / ratio if ratio else math.inf)
        ahead, behind = (up, down) if more else (down, up)
        cells.append([what, ", ".join(named(figure, ahead)) or "nobody", ", ".join(named(figure, behind)) or "nobody"])
    head = ["meshnode, local agent, Python", "ahead of it", "behind it"]
    return f"\n## Where others are ahead, and where not\n\n{table(head, cells)}"


def _factor(factor: float) -> str:
    if math.isinf(factor):
        return "(none that can be measured)"
    return f"{factor:,.0f}x" if factor >= 20 else f"{factor:.1f}x"


def _versions(report: Report) -> str:
    lines = []
    for name, row in report.rows.items():
        title = BY_NAME[name].title
        if row.absent:
            lines.append(f"* {title}: not measured. {row.absent}")
            continue
        line = f"* {title}: " + ", ".join(f"{package} {version}" for package, version in row.versions.items())
        if row.failed:
            number, why = next(iter(row.failed.items()))
            of = len(row.failed.keys() | row.turns.keys())
            line += f". **Failed** in {len(row.failed)} of {of} turns, first in {number}: {why}"
        lines.append(line)
    return "\n## Versions\n\n" + "\n".join(lines) + "\n"

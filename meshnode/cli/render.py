"""Plain data as text for people: tables that fit 80 columns and need no colour."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

COLOURS = {"alive": "green", "suspect": "yellow", "dead": "red", "left": "dim"}


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=column != "models")
    return made


def size(nbytes: float | None) -> str:
    """`12.3 MB`."""
    if nbytes is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes:.0f} B"


def share(value: float | None) -> str:
    """`42 %`."""
    return "-" if value is None else f"{value * 100:.0f} %"


def milliseconds(value: float | None) -> str:
    """`0.3`."""
    return "-" if value is None else f"{value:.1f}"


def node_label(node: dict[str, Any]) -> str:
    """`name (k7q2m4xa)`."""
    return f"{node['name']} ({node['id'][:8]})"


def status(document: dict[str, Any]) -> Table:
    """One row a node."""
    mesh = document["mesh"]
    counts = ", ".join(f"{n} {state}" for state, n in mesh["nodes"].items() if n)
    made = table("node", "state", "zone", "hardware", "load", "work", "ms", "models", right=("load", "work", "ms"))
    made.title = Text(f"{mesh['name']} ({mesh['id'][:8]}): {counts}", style="not italic")
    made.title_justify = "left"
    for node in document["nodes"]:
        cpu, gpus = node["cpu"], node["gpus"]
        hardware = f"{cpu['cores']} cores" if cpu else "-"
        if gpus and any(p.startswith("CUDA") for p in node["providers"]):
            hardware += f" + {gpus[0]['name']}" if len(gpus) == 1 else f" + {len(gpus)} GPUs"
        work = "-" if node["in_flight"] is None else f"{node['in_flight']}/{node['tasks_done']}"
        models = " ".join(f"{m['name']}{'*' if m['loaded'] else ''}" for m in node["models"])
        made.add_row(
            node_label(node) + (" <" if node["self"] else ""),
            Text(node["state"], style=COLOURS[node["state"]]),
            node["zone"] or "-",
            hardware,
            share(cpu["load"] if cpu else None),
            work,
            "-" if node["self"] else milliseconds(node["rtt_ms"]),
            models or (Text(node["reason"], style="dim") if node["reason"] else "-"),
        )
    return made


def status_legend(document: dict[str, Any]) -> str:
    """What the signs mean."""
    return "< this node · work: in flight/done · ms: round trip · * loaded in memory"


def model_list(documents: list[dict[str, Any]]) -> Table | str:
    """One row a model."""
    if not documents:
        return "No models yet. `meshnode model add FILE.onnx` adds one."
    made = table("model", "size", "inputs", "outputs", "on disk", "loaded", right=("size", "on disk", "loaded"))
    for model in documents:
        made.add_row(
            f"{model['name']}:{model['version']}",
            size(model["size"]),
            tensors(model["inputs"]),
            tensors(model["outputs"]),
            str(len(model["on_disk"])),
            str(len(model["loaded"])),
        )
    return made


def tensors(described: list[dict[str, Any]]) -> str:
    """`image float[batch,1,8,8]`."""
    parts = [
        f"{t['name']} {t['dtype']}[{','.join('?' if d is None else str(d) for d in t['shape'])}]" for t in described
    ]
    return ", ".join(parts[:3]) + (f", … {len(parts) - 3} more" if len(parts) > 3 else "")


def model_show(document: dict[str, Any]) -> Table:
    """Everything about one model."""
    made = table("", "")
    made.show_header = False
    made.add_row("name", f"{document['name']}:{document['version']}")
    made.add_row("digest", document["digest"])
    made.add_row("size", f"{document['size']} bytes")
    made.add_row("memory", f"{size(document['memory_bytes'])} when loaded (measured where it was added)")
    for what in ("inputs", "outputs"):
        for tensor in document[what]:
            made.add_row(what[:-1], tensors([tensor]))
    for key, value in document["metadata"].items():
        made.add_row(key, value)
    made.add_row("publisher", document["publisher"][:8])
    made.add_row("on disk at", ", ".join(node[:8] for node in document["on_disk"]) or "-")
    made.add_row("loaded at", ", ".join(node[:8] for node in document["loaded"]) or "-")
    return made


def members(rows: list[dict[str, Any]]) -> Table:
    """Who is in, granted by whom."""
    made = table("member", "roles", "zones", "granted", "expires", "state")
    for row in rows:
        state = f"revoked: {row['reason']}" if row["revoked"] else row["state"] or "not seen"
        made.add_row(
            node_label(row),
            ",".join(row["roles"]),
            ",".join(row["zones"]) or "-",
            _day(row["granted_at"]),
            _day(row["expires_at"]),
            state,
        )
    return made


def processes(rows: list[dict[str, Any]]) -> Table | str:
    """Loaded models of this node."""
    if not rows:
        return "No model is loaded on this node."
    made = table("model", "memory", "in flight", "last used", "run time", "provider", right=("memory", "in flight"))
    for row in rows:
        name = f"{row['name']}:{row['version']}" if row["name"] else row["digest"][:12]
        service = "-" if row["service_ms"] is None else f"{row['service_ms']:.2f} ms"
        made.add_row(
            name,
            size(row["memory_bytes"]),
            str(row["in_flight"]),
            f"{row['last_used_s']:.0f} s ago",
            service,
            row["provider"].removesuffix("ExecutionProvider"),
        )
    return made


def doctor(rows: list[dict[str, Any]]) -> Table:
    """Each check, and the fix of what fails."""
    made = table("", "check", "found")
    made.show_header = False
    marks = {True: Text("ok", style="green"), False: Text("FAIL", style="red"), None: Text("--", style="dim")}
    for row in rows:
        text = row["detail"] + (f"\n-> {row['fix']}" if row["fix"] else "")
        made.add_row(marks[row["ok"]], row["check"], text)
    return made


def plan(document: dict[str, Any]) -> Table:
    """Candidates with their estimates, exclusions with their reasons."""
    made = table(
        "node",
        "estimate",
        "wait",
        "run",
        "move",
        "fetch",
        "why not",
        right=("estimate", "wait", "run", "move", "fetch"),
    )
    for i, row in enumerate(document["candidates"]):
        made.add_row(
            f"{row['name']} ({row['node'][:8]})" + (" <- chosen" if i == 0 else ""),
            *(f"{row[key] * 1000:.1f} ms" for key in ("estimate_s", "wait_s", "service_s", "transfer_s", "fetch_s")),
            "",
        )
    for row in document["excluded"]:
        made.add_row(f"{row['name']} ({row['node'][:8]})", "-", "-", "-", "-", "-", f"{row['reason']}: {row['detail']}")
    return made


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))

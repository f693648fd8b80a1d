"""Plain data as text for people: fits 80 columns, needs no colour, changes nothing. No I/O."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

COLOURS = {"alive": "green", "paused": "yellow", "suspect": "yellow", "dead": "red", "left": "dim"} | {
    "in quarantine": "red"
}
WIDTH = 80
GAP = "  "
NAME_MAX = 11
ZONE_MAX = 8
NAMES_MAX = 24
LAST_MIN = 14
"""A last column that would be narrower, or break a word, stands on lines of its own, below the row."""
ISOLATED = "nobody in the mesh is heard any more; `meshnode doctor` says what to look at"
Cell = str | Text


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Sequence[str] = (), width: int = WIDTH
) -> Text:
    """Rows under a header; the last column takes what is left of the width and wraps."""
    *columns, last = columns
    sizes = [max(len(str(cell)) for cell in (name, *(row[i] for row in rows))) for i, name in enumerate(columns)]
    taken = sum(sizes) + len(GAP) * len(sizes)
    longest = max((len(str(row[-1])) for row in rows), default=0)
    word = max((len(word) for row in rows for word in str(row[-1]).split()), default=0)
    below = width - taken < max(word, min(longest, LAST_MIN))
    indent = len(GAP) * 2 if below else taken
    lines = [_line([*columns, *([] if below else [last])], [*sizes, 0], columns, right, style="bold")]
    for row in rows:
        wrapped = textwrap.wrap(str(row[-1]), max(LAST_MIN, width - indent)) or [""]
        style = row[-1].style if isinstance(row[-1], Text) else ""
        first = [] if below else [Text(wrapped.pop(0), style)]
        lines.append(_line([*row[:-1], *first], [*sizes, 0], columns, right))
        lines += [Text(" " * indent + text, style) for text in wrapped if text]
    return Text("\n").join(lines)


def _line(
    cells: Sequence[Cell], sizes: Sequence[int], columns: Sequence[str], right: Sequence[str], style: str = ""
) -> Text:
    line = Text(style=style)
    for i, cell in enumerate(cells):
        text = cell if isinstance(cell, Text) else Text(cell)
        padding = " " * (sizes[i] - len(text))
        is_right = i < len(columns) and columns[i] in right
        line.append(GAP if i else "").append(padding if is_right else "").append_text(text)
        line.append("" if is_right else padding)
    line.rstrip()
    return line


def size(nbytes: float | None) -> str:
    """`12.3 MB`."""
    if nbytes is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes:.0f} B"


def label(name: str, node: str) -> str:
    """`name (k7q2m4xa)`; a long name is cut, the id never."""
    return f"{cut(name, NAME_MAX)} ({node[:8]})"


def cut(text: str, most: int) -> str:
    """At most so many characters; an ellipsis says that some are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def count(number: int) -> str:
    """`1234`, `12k`, `3M`."""
    return str(number) if number < 10_000 else f"{number // 1000}k" if number < 10_000_000 else f"{number // 10**6}M"


def ago(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds:.0f} s"


def milliseconds(value: float) -> str:
    """`0.05`, `12`."""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def status(document: Mapping[str, Any], width: int = WIDTH) -> Text:
    """The mesh in one line, then one row a node; for a node that is away, why. Who is not named a relay is direct."""
    mesh = document["mesh"]
    counts = ", ".join(f"{n} {state}" for state, n in mesh["nodes"].items() if n)
    columns = ("node", "state", "zone", "hardware", "load", "work", "ms", "models")
    rows = [_status_row(node) for node in document["nodes"]]
    return Text("\n").join(
        [
            Text(f"{mesh['name']} ({mesh['id'][:8]}): {counts}"),
            *([Text(f"{out}; `meshnode up TOKEN` joins anew", style="bold")] if (out := document["revoked"]) else []),
            *([Text(f"this node: {copied}", style="bold")] if (copied := document.get("copied")) else []),
            *([Text(ISOLATED, style="bold")] if document.get("isolated") else []),
            *_late(document.get("renewal")),
            table(columns, rows, right=("load", "work", "ms"), width=width),
            *_grades(document["nodes"]),
            Text("< this node · work: in flight/done · ms: round trip · * in memory", style="dim"),
        ]
    )


def _late(renewal: Mapping[str, Any] | None) -> list[Text]:
    """That this node's membership should have been renewed by now."""
    if not renewal or not renewal["late"] or renewal["final"]:
        return []
    why = f" ({renewal['problem']})" if renewal["problem"] else ""
    text = f"this node is a member until {day(renewal['ends_at'])}, and nobody renews it{why}: `meshnode doctor`"
    return [Text(text, style="bold")]


def _grades(nodes: Sequence[Mapping[str, Any]]) -> list[Text]:
    """How models are confined, worst last; nothing while no node has said."""
    by_grade: dict[str, list[str]] = {}
    for node in nodes:
        if node["state"] == "alive" and (grade := node.get("sandbox")):
            by_grade.setdefault(grade, []).append(node["name"])
    best, *rest = sorted(by_grade) or [""]
    if not best:
        return []
    others = "".join(f"; {grade} on {cut(', '.join(by_grade[grade]), NAMES_MAX)}" for grade in rest)
    more = "" if best == "A" and not rest else " (`meshnode doctor` there says why)"
    return [Text(f"sandbox of models: grade {best}{others}{more}", style="dim")]


def _status_row(node: Mapping[str, Any]) -> list[Cell]:
    cpu, gpus = node["cpu"], node["gpus"]
    away = node["state"] != "alive"
    hardware = f"{cpu['cores']} cpu" if cpu else "-"
    if gpus and any(provider.startswith("CUDA") for provider in node["providers"]):
        hardware += " +gpu" if len(gpus) == 1 else f" +{len(gpus)} gpu"
    load = cpu["load"] if cpu and not away else None
    models = ", ".join(model["name"] + ("*" if model["loaded"] else "") for model in node["models"])
    state, paused = node["state"], node.get("paused")
    if paused and not away:
        state, models = "paused", f"({paused}) {models}".rstrip()
    if (doubt := node.get("quarantine")) and not away:
        state, models = "in quarantine", f"({doubt}) {models}".rstrip()
    if node["path"] not in ("self", "direct", "none"):
        models = f"{node['path']}; {models or '-'}"
    return [
        label(node["name"], node["id"]) + ("<" if node["self"] else ""),
        Text(state, COLOURS.get(state, "")),
        cut(node["zone"] or "-", ZONE_MAX),
        hardware,
        "-" if load is None else f"{load * 100:.0f}%",
        "-" if away or node["in_flight"] is None else f"{node['in_flight']}/{count(node['tasks_done'])}",
        "-" if node["self"] or away or node["rtt_ms"] is None else milliseconds(node["rtt_ms"]),
        Text(node["reason"] or "no reason known", "dim") if away else models or "-",
    ]


def model_list(documents: Sequence[Mapping[str, Any]], width: int = WIDTH) -> Text:
    """One row a model."""
    if not documents:
        return Text("No models yet. `meshnode model add FILE.onnx` adds one.")
    rows: list[list[Cell]] = [
        [
            _model_label(model),
            size(model["size"]),
            str(len(model["on_disk"])),
            str(len(model["loaded"])),
            f"{tensors(model['inputs'])} -> {tensors(model['outputs'])}",
        ]
        for model in documents
    ]
    columns = ("model", "size", "on disk", "in memory", "inputs -> outputs")
    return table(columns, rows, right=("size", "on disk", "in memory"), width=width)


def tensors(described: Sequence[Mapping[str, Any]]) -> str:
    """`image float[batch,1,8,8]`."""
    parts = [
        f"{t['name']} {t['dtype']}[{','.join('?' if d is None else str(d) for d in t['shape'])}]" for t in described
    ]
    return ", ".join(parts[:3]) + (f", … {len(parts) - 3} more" if len(parts) > 3 else "")


def model_show(document: Mapping[str, Any]) -> str:
    """Everything about one model, one fact a line."""
    facts = [
        ("name", f"{document['name']}:{document['version']}"),
        ("digest", document["digest"]),
        ("size", f"{document['size']} bytes"),
    ]
    if reported := document.get("reported"):
        where = "runs on no node" if reported["flagged"] else "reported"
        facts.append((where, reported["text"]))
    if refused := document.get("refused"):
        facts.append(("refused here", refused))
    if scan := document.get("scan"):
        facts.append(("scan", _scanned(scan)))
    if document.get("memory_bytes"):
        facts.append(("memory", f"{size(document['memory_bytes'])} when loaded, measured where it was added"))
    facts += [("zone", f"{document['zone']}, and nowhere else")] if document.get("zone") else []
    facts += [("input", tensors([tensor])) for tensor in document["inputs"]]
    facts += [("output", tensors([tensor])) for tensor in document["outputs"]]
    facts += list(document.get("metadata", {}).items())
    facts += [
        ("publisher", document.get("publisher", "")[:8] or "-"),
        ("on disk", ", ".join(node[:8] for node in document["on_disk"]) or "-"),
        ("in memory", ", ".join(node[:8] for node in document["loaded"]) or "-"),
    ]
    wide = max(len(key) for key, _ in facts)
    return "\n".join(f"{key:<{wide}}{GAP}{value}" for key, value in facts)


def _model_label(model: Mapping[str, Any]) -> Text:
    reported = model.get("reported")
    text = Text(f"{model['name']}:{model['version']}")
    if reported:
        text.append(" (flagged)" if reported["flagged"] else " (reported)", "red" if reported["flagged"] else "yellow")
    return text


def _scanned(scan: Mapping[str, Any]) -> str:
    """What the scanner of this node found, in one line."""
    versions = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(scan["opsets"].items()))
    functions = f" in {scan['functions']} functions and the graph, {scan['expanded']} put in" * bool(scan["functions"])
    return (
        f"{scan['nodes']} nodes{functions}; {versions}; at least {size(scan['memory_bytes'])} of memory; "
        f"rules {scan['scanner']}"
    )


def members(rows: Sequence[Mapping[str, Any]], width: int = WIDTH) -> Text:
    """Who is in, granted by whom, until when, to do what."""
    table_rows: list[list[Cell]] = []
    for row in rows:
        state = "revoked" if row["revoked"] else row["state"] or "not seen"
        roles = ", ".join(row["roles"]) + (f"; revoked: {row['reason'] or 'no reason given'}" if row["revoked"] else "")
        if row.get("quarantine") and not row["revoked"]:
            state, roles = "in quarantine", row["quarantine"]
        zones = ",".join(row["zones"]) or "-"
        expires = "-" if row["expires_at"] is None else day(row["expires_at"])
        expires += " (final)" if row.get("final") else " (due)" if row.get("due") and not row["revoked"] else ""
        coloured = Text(state, "red" if row["revoked"] else COLOURS.get(state, ""))
        by = row["granted_by_name"] or f"key {row['granted_by'][:8]}"
        table_rows.append([label(row["name"], row["id"]), coloured, by, expires, zones, roles])
    return table(("member", "state", "granted by", "until", "zones", "roles"), table_rows, width=width)


def invites(rows: Sequence[Mapping[str, Any]], width: int = WIDTH) -> Text:
    """One row a token that is known here; `revoke ID` ends it."""
    if not rows:
        return Text("No invites. `meshnode invite` makes one, `meshnode invite --uses N` one for many machines.")
    table_rows = []
    for row in rows:
        gives = [", ".join(row["roles"]), *(f"zone {zone}" for zone in row["zones"])]
        gives += [f"{row['hardware']} machines by their ids"] if row["hardware"] else []
        gives += [f"{row['quarantined']} in quarantine"] if row["quarantined"] else []
        state = Text(row["state"], "green" if row["state"] == "open" else "dim")
        used = f"{row['used']}/{row['uses']}"
        table_rows.append([row["id"][:8], state, used, day(row["expires_at"]), "; ".join(gives)])
    return table(("invite", "state", "used", "until", "gives"), table_rows, right=("used",), width=width)


def processes(rows: Sequence[Mapping[str, Any]], width: int = WIDTH) -> Text:
    """Loaded models of this node."""
    if not rows:
        return Text("No model is in this node's memory.")
    table_rows = [
        [
            f"{row['name']}:{row['version']}" if row["name"] else f"{row['digest'][:12]} (removed)",
            size(row["memory_bytes"]),
            str(row["in_flight"]),
            f"{ago(row['last_used_s'])} ago",
            "-" if row["service_ms"] is None else f"{row['service_ms']:.2f} ms",
            row["provider"].removesuffix("ExecutionProvider"),
        ]
        for row in rows
    ]
    columns = ("model", "memory", "in flight", "last used", "a run takes", "provider")
    return table(columns, table_rows, right=("memory", "in flight", "a run takes"), width=width)


def pings(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a ping, and the middle one."""
    lines = [f"{row['seq']}: {row['rtt_ms']:.2f} ms, {row['path']} {row['address'] or ''}".rstrip() for row in rows]
    middle = sorted(row["rtt_ms"] for row in rows)[len(rows) // 2]
    return "\n".join([*lines, f"median {middle:.2f} ms of {len(rows)}"])


def doctor(rows: Sequence[Mapping[str, Any]], width: int = WIDTH) -> Text:
    """Each check, and the fix of what fails."""
    marks = {True: Text("ok  ", "green"), False: Text("FAIL", "red"), None: Text("--  ", "dim")}
    lines = []
    for row in rows:
        wrapped = textwrap.wrap(f"{row['check']}: {row['detail']}", width - 6, break_on_hyphens=False)
        lines.append(Text.assemble(marks[row["ok"]], GAP, wrapped[0]))
        lines += [Text(" " * 6 + text) for text in wrapped[1:]]
        if row["fix"]:
            lines += [
                Text(text)
                for text in textwrap.wrap(
                    row["fix"], width, initial_indent="      -> ", subsequent_indent=" " * 9, break_on_hyphens=False
                )
            ]
    return Text("\n").join(lines)


def plan(document: Mapping[str, Any], width: int = WIDTH) -> Text:
    """Candidates with their estimates, best first; then who was left out, and why."""
    columns = ("node", "estimate", "wait", "run", "send", "fetch+load", "rtt", "ms")
    keys = ("estimate_s", "wait_s", "service_s", "transfer_s", "fetch_s", "rtt_s")
    rows = [
        [label(row["name"], row["node"]), *(f"{row[key] * 1000:.1f}" for key in keys), "<- chosen" * (not i)]
        for i, row in enumerate(document["candidates"])
    ]
    lines = [table(columns, rows, right=columns[1:-1], width=width)] if rows else [Text("no node can take it now")]
    lines += [
        Text(f"not {label(row['name'], row['node'])}: {row['detail'] or row['reason']}") for row in document["excluded"]
    ]
    return Text("\n").join(lines)


def why(document: Mapping[str, Any], width: int = WIDTH) -> Text:
    """Each decision of a task: how it was made, who was considered, and what came of it."""
    bound = "".join(f", zone {document['zone']}" if document["zone"] else "")
    title = f"task {document['task']}: {document['model']}, priority {document['priority']}{bound}"
    parts = [Text(title, style="bold")]
    for number, decision in enumerate(document["decisions"], 1):
        choice = decision["choice"]
        chosen = "nobody" if choice is None else label(choice["name"], choice["node"])
        parts.append(Text(f"{number}. {KINDS[decision['kind']]} -> {chosen}: {_outcome(decision)}"))
        parts.append(plan(decision, width))
    return Text("\n").join(parts)


KINDS = {
    "local": "nobody else could have been done sooner",
    "go": "sent unasked: asking would have taken longer, or there was one candidate",
    "ask": "candidates were drawn by capacity and asked",
    "none": "nobody could be asked",
}


def _outcome(decision: Mapping[str, Any]) -> str:
    outcome, expected_s, actual_s = decision["outcome"], decision["expected_s"], decision["actual_s"]
    said = outcome or ("still with it" if decision["choice"] else "no attempt")
    if actual_s is not None:
        said += f" after {actual_s * 1000:.1f} ms, expected {expected_s * 1000:.1f}"
    return said


def day(seconds: float) -> str:
    """`2026-01-31`, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def event(row: Mapping[str, Any]) -> str:
    """One line: when, who, what, why."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"]))
    why = f": {row['why']}" if row["why"] else ""
    return f"{at}  {label(row['name'], row['node'])}  {row['event']}{why}"

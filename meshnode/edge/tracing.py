"""Whose trace a task belongs to, as programs of other kinds say it: one function for the doors of HTTP, gRPC and MQTT.

The context is W3C's `traceparent`, by that name, in HTTP headers, gRPC metadata and MQTT user properties. Of
`tracestate` nothing is kept: it is for the vendors of tracing, and no span here would change it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

NAME = "traceparent"
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
SAMPLED = 1


def parent(fields: Mapping[str, str] | Iterable[tuple[str, str | bytes]]) -> str:
    """What goes into `Submit.trace`: the context in headers, metadata or properties, or "" when there is none.

    One that is not well-formed, or there twice, is none, and never an error.
    """
    rows = fields.items() if isinstance(fields, Mapping) else fields
    found = [value for key, value in rows if key.lower() == NAME]
    if len(found) != 1:
        return ""
    text = found[0] if isinstance(found[0], str) else found[0].decode("ascii", "replace")
    read = parse(text.strip())
    return "" if read is None else written(*read)


def parse(text: str) -> tuple[int, int, bool] | None:
    """(trace, span, whether it is recorded); None for what is no context."""
    match = _PARENT.fullmatch(text)
    if match is None or (match[1] == "00" and match[5]):
        return None
    trace, span = int(match[2], 16), int(match[3], 16)
    return (trace, span, bool(int(match[4], 16) & SAMPLED)) if trace and span else None


def written(trace: int, span: int, sampled: bool) -> str:
    """As it travels."""
    return f"00-{trace:032x}-{span:016x}-{int(sampled):02x}"

"""`meshnode upgrade-check`: would the nodes of the mesh understand this software? Asked before an agent gets it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from rich.table import Table

from meshnode.cli import context
from meshnode.errors import InvalidInput, ProtocolError
from meshnode.version import __version__
from meshnode.wire.messages import FEATURES, PROTOCOL_VERSION

SPOKEN = (PROTOCOL_VERSION,)
"""Versions of the protocol that this software speaks."""


def upgrade_check() -> None:
    """Compare this software with what the mesh's nodes speak; exit code 1 when one would not understand it, or did not
    answer.

    Run it from the new installation, while the agent is still the old one: `/opt/new/bin/meshnode upgrade-check`.
    """
    with context.client() as client:
        try:
            rows = judged(client.ask("speaks"))
        except InvalidInput as error:
            raise InvalidInput(
                "the agent that runs here is older than this check and cannot say what the others speak",
                hint="compare the versions in `meshnode status` with CHANGELOG.md",
            ) from error
        except ProtocolError as error:
            rows = [
                {"name": "this agent", "id": "", "software": "", "understands": False, "why": str(error), "lacks": []}
            ]
    document = {
        "software": f"meshnode/{__version__}",
        "versions": list(SPOKEN),
        "features": list(FEATURES),
        "nodes": rows,
    }
    context.show(document, _table)
    if any(row["understands"] is not True for row in rows):
        raise typer.Exit(1)


def judged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each node, with whether it would understand this software, why not, and the features it lacks."""
    found = []
    for row in rows:
        versions, features = row["versions"], row["features"] or []
        understands = None if versions is None else any(it in SPOKEN for it in versions)
        why = row["why"] if understands is None else ""
        if understands is False:
            why = f"it speaks {_numbers(versions)}, this software {_numbers(SPOKEN)}"
        lacks = [it for it in FEATURES if it not in features] if understands else []
        found.append({**row, "understands": understands, "why": why, "lacks": lacks})
    return found


def _numbers(versions: Iterable[int]) -> str:
    return "protocol " + ", ".join(str(it) for it in versions)


def _table(document: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NODE", "SOFTWARE", "UNDERSTANDS", "WHY"):
        table.add_column(title)
    words = {True: "yes", False: "no", None: "did not answer"}
    for row in document["nodes"]:
        why = row["why"] or (f"without {', '.join(row['lacks'])}" if row["lacks"] else "")
        table.add_row(f"{row['name']} ({row['id'][:8]})", row["software"], words[row["understands"]], why)
    return table

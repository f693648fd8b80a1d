"""What commands ask of whoever typed them: whether they mean it, and durations."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from meshnode.cli import context

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def seconds(text: str) -> float:
    """`30m`, `1h30m` or a number of seconds, as seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 30m, 12h or 7d")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def confirm(question: str, *, yes: bool) -> None:
    """Ask where somebody can answer; a program that runs this has decided already."""
    if not yes and not context.current.json and sys.stdin.isatty():
        typer.confirm(question, abort=True)

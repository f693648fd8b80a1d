"""Commands of the machine's owner: pause, resume, drain."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from meshnode.cli import context
from meshnode.cli.asking import seconds


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (pause, resume, drain):
        app.command()(command)


def pause(
    duration: Annotated[
        str, typer.Argument(metavar="[DURATION]", help="30s, 10m, 1h; until `meshnode resume` when left out.")
    ] = "",
) -> None:
    """Take no work of other nodes on this machine; its own tasks go on. Outlives a restart of the agent."""
    duration_s = seconds(duration) if duration else None
    with context.client() as client:
        answer = client.ask("pause", duration_s=duration_s)
    context.show(answer, _paused)


def _paused(answer: dict[str, Any]) -> str:
    end = ""
    if answer["until"] is not None:
        end = time.strftime(" until %Y-%m-%d %H:%M:%S", time.localtime(answer["until"]))
    return f"no work of other nodes is taken here{end}; `meshnode resume` ends it"


def resume() -> None:
    """End a pause by hand."""
    with context.client() as client:
        answer = client.ask("resume")
    context.show(answer, _resumed)


def _resumed(answer: dict[str, Any]) -> str:
    if answer["paused"]:
        return f"the pause by hand is over; still no work of other nodes is taken: {answer['paused']}"
    return "work of other nodes is taken again"


def drain() -> None:
    """Take no more work of other nodes, hand back what waits, and wait until what runs has ended; then it may stop.

    It is a pause: `meshnode resume` ends it, a restart of the agent does not.
    """
    with context.client() as client:
        answer = client.ask("drain")
    context.show(answer, _drained)


def _drained(answer: dict[str, Any]) -> str:
    return (
        f"no work of other nodes is left here; {answer['handed_back']} waiting tasks went elsewhere; "
        "`meshnode resume` takes work again"
    )

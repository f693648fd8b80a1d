"""`meshnode dashboard`: the page with the whole mesh on it, in this machine's browser."""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from meshnode.cli import context
from meshnode.trust.files import write_atomic

STEP = "dashboard.html"
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(dashboard)


def dashboard(
    print_it: Annotated[
        bool, typer.Option("--print", help="Print the link instead of opening it. It is good once, for a minute.")
    ] = False,
) -> None:
    """The mesh in a browser: nodes and links, work and latency, models, what went wrong and why.

    The agent must have been started with --http, as in `meshnode up --http 127.0.0.1:8080`.
    """
    with context.client() as client:
        answer = client.ask("dashboard")
    link = str(answer["link"])
    if context.current.json:
        context.emit(answer)
    elif print_it or not has_screen() or not _open(link):
        typer.echo(link)
        sys.stderr.write("  the link is good once, for a minute\n")
    else:
        typer.echo(f"opened {link.partition('#')[0]} in the browser; not there? `meshnode dashboard --print`")


def has_screen() -> bool:
    """Whether a browser that is started here would be seen; over SSH it would be on another desk."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in SCREENS)


def _open(link: str) -> bool:
    """Through a file that only its owner reads: other users of the machine see what a browser is started with."""
    try:
        browser = webbrowser.get()
        step = context.current.home / STEP
        write_atomic(step, page(link).encode())
    except (webbrowser.Error, OSError):
        return False
    with suppress(OSError):
        return browser.open(Path(step).as_uri())
    return False


def page(link: str) -> str:
    """A page that goes on to the link."""
    it = html.escape(link)
    return (
        f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>meshnode</title>'
        f'<meta http-equiv="refresh" content="0; url={it}"><p><a href="{it}">Open the dashboard</a></p>\n'
    )

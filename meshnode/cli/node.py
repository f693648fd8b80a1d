"""Commands about this machine's agent: up, logs, ps, doctor."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode import config
from meshnode.cli import context, render
from meshnode.cli.checks import without_agent
from meshnode.errors import AgentUnavailable, ConfigError, HomeError, InvalidInput

LOG_BYTES = 5_000_000
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\S+Z) ([A-Z]+) ([\w.]+): (.*)", re.DOTALL)
FOLLOW_S = 0.2


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (up, logs, ps, doctor):
        app.command()(command)


def up(
    token: Annotated[
        str | None, typer.Argument(help="Join the mesh of this invite token at the first start; - reads it from stdin.")
    ] = None,
    name: Annotated[str, typer.Option(help="Shown to others (default: the host name).")] = "",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="TCP and UDP; port 0 takes any free one. [default: 0.0.0.0:7433]")
    ] = "",
    seed: Annotated[
        list[str], typer.Option(metavar="HOST:PORT", help="A node that is usually up; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    zone: Annotated[
        str,
        typer.Option(help="Of a node that founds its mesh; others have that of their grant."),
    ] = "",
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = [],  # noqa: B006 - typer copies it
    manners: Annotated[
        str, typer.Option(help="When foreign work is taken: polite (the owner comes first), free or off.")
    ] = "",
    http: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Open Inference Protocol, dashboard and metrics, as on 127.0.0.1:8080."),
    ] = "",
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="Open Inference Protocol over gRPC.")] = "",
    mqtt: Annotated[
        str, typer.Option(metavar="URL", help="A broker for state, tasks and rendezvous: mqtt[s]://[USER@]HOST[:PORT].")
    ] = "",
    no_mdns: Annotated[bool, typer.Option("--no-mdns", help="No multicast discovery.")] = False,
) -> None:
    """Run this machine's agent; the first start makes keys and a mesh of one, or joins with TOKEN."""
    if sys.platform == "win32":
        raise ConfigError("meshnode does not run on Windows yet")
    home = context.current.home
    given = {"name": name, "listen": listen, "zone": zone, "manners": manners}
    overrides: dict[str, Any] = {key: value for key, value in given.items() if value}
    if label:
        overrides["labels"] = dict(_label(text) for text in label)
    if seed or no_mdns:
        overrides["discovery"] = ({"seeds": seed} if seed else {}) | ({"mdns": False} if no_mdns else {})
    for key, text in (("http", http), ("grpc", grpc)):
        if text:
            overrides[key] = {"listen": text}
    if mqtt:
        overrides["mqtt"] = {"url": mqtt}
    for address in (listen, http, grpc, *seed):
        if address:
            config.host_port(address, default_port=7433)
    settings = config.load(home, overrides)
    _start_log(home)
    from meshnode import daemon

    work = daemon.run(home, settings, token=read_token(token) if token is not None else None, announce=_announce)
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def read_token(word: str) -> str:
    """The token itself, or standard input's first line for `-`: what stands on a command line is in its history."""
    return sys.stdin.readline().strip() if word == "-" else word


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise typer.BadParameter(f"{text!r} is no label: write KEY=VALUE")
    return key, value


def _announce(event: dict[str, Any]) -> None:
    if context.current.json:
        context.emit(event)
        return
    name, mesh = context.printable(event["name"]), context.printable(event["mesh_name"])
    typer.echo(f"{name} ({event['id'][:8]}) is up in {mesh} ({event['mesh'][:8]})")
    if event["quarantine"]:
        typer.echo(f"in quarantine, for {event['quarantine']}: an admin's `meshnode accept` lets it in")
    typer.echo(f"listening on {event['listen']} (TCP and UDP); Ctrl-C stops it")
    for key, what in (("http", "HTTP"), ("grpc", "gRPC")):
        if event[key]:
            typer.echo(f"{what} on {event[key]}; the token is the content of {context.current.home / 'http.token'}")
    if event["mqtt"]:
        typer.echo(f"MQTT at {event['mqtt']}")
    typer.echo("to add a machine: `meshnode invite` here, then `meshnode up TOKEN` there")


def _start_log(home: Path) -> None:
    """The agent's log: a file in the home, turned over at 5 MB; warnings also on stderr."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = logging.handlers.RotatingFileHandler(
            home / "agent.log", maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8"
        )
    except OSError as error:
        raise HomeError(f"the home {home} cannot be used: {error.strerror}") from error
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    file.setFormatter(formatter)
    logging.getLogger("meshnode").setLevel(logging.DEBUG if context.current.debug else logging.INFO)
    logging.getLogger().addHandler(file)
    if not context.current.json:
        stderr = logging.StreamHandler()
        stderr.setLevel(logging.WARNING)
        stderr.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logging.getLogger("meshnode").addHandler(stderr)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """This agent's log."""
    path = context.current.home / "agent.log"
    if not path.exists():
        raise InvalidInput(f"no agent has run on the home {context.current.home}", hint="is it the right --home?")
    try:
        for line in _last_and_new(path, lines, follow=follow):
            if context.current.json:
                context.emit(log_record(line))
            else:
                typer.echo(context.printable(line.replace("\t", "    ")))
    except KeyboardInterrupt:
        raise typer.Exit from None


def log_record(line: str) -> dict[str, str | None]:
    """A line of the log as a document; the lines of a traceback have only a message."""
    match = LOG_LINE.fullmatch(line)
    if match is None:
        return {"time": None, "level": None, "logger": None, "message": line}
    return {"time": match[1], "level": match[2], "logger": match[3], "message": match[4]}


def _last_and_new(path: Path, last: int, *, follow: bool) -> Iterator[str]:
    """The last lines; with `follow` what is added to them, also when the log is turned over, until Ctrl-C."""
    file = path.open(encoding="utf-8", errors="replace")
    try:
        for line in file.readlines()[-last:] if last else file.readlines()[:0]:
            yield line.rstrip("\n")
        while follow:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
                continue
            time.sleep(FOLLOW_S)
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
    finally:
        file.close()


def ps() -> None:
    """Models in this node's memory."""
    with context.client() as client:
        rows = client.ask("ps")
    context.show(rows, lambda rows: render.processes(rows, context.console().width))


def doctor(
    peer: Annotated[
        str | None, typer.Option(metavar="NAME|ID", help="The way to one node and back, step by step.")
    ] = None,
) -> None:
    """What is wrong with this machine and network, each with its fix; exit code 1 when something is.

    Without a running agent: what can be told without one, and exit code 3.
    """
    code = 0
    try:
        with context.client() as client:
            rows = client.ask("doctor", **({} if peer is None else {"peer": peer}))
    except AgentUnavailable as error:
        rows = without_agent(context.current.home, error)
        code = 3
    context.show(rows, lambda rows: render.doctor(rows, context.console().width))
    if any(row["ok"] is False for row in rows):
        raise typer.Exit(code or 1)

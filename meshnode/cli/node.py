"""Commands about this machine's agent: up, logs, ps, doctor."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from meshnode import collecting, config
from meshnode.cli import context
from meshnode.cli.checks import without_agent
from meshnode.cli.hiding import hide
from meshnode.cli.logs import logs, start_log
from meshnode.errors import AgentUnavailable, ConfigError


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
    new_mesh: Annotated[
        bool,
        typer.Option("--new-mesh", help="Where the mesh was lost (`trust` is missing): begin anew, with another id."),
    ] = False,
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
    start_log(home, settings.log)
    with collecting.loading():
        from meshnode import daemon

    if new_mesh and token is not None:
        raise typer.BadParameter("--new-mesh founds a mesh, and a token joins one")
    given_token = read_token(token) if token is not None else None
    work = daemon.run(home, settings, token=given_token, announce=_announce, anew=new_mesh)
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def read_token(word: str) -> str:
    """The token itself, or standard input's first line for `-`: what stands on a command line is in its history."""
    if word == "-":
        return sys.stdin.readline().strip()
    hide(word)
    return word


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


def ps() -> None:
    """Models in this node's memory."""
    from meshnode.cli import render

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
    from meshnode.cli import render

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

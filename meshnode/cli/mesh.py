"""Commands about nodes and membership: up, invite, join, status, members, ping, doctor, logs, ps, leave, revoke."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live

from meshnode import config
from meshnode.cli import context, render
from meshnode.errors import ConfigError, HomeError, InvalidInput

LOG_BYTES = 5_000_000
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (up, invite, join, status, members, ping, doctor, logs, ps, leave, revoke):
        app.command()(command)


def seconds(text: str) -> float:
    """`30m` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 30m, 12h or 7d")
    return float(match[1]) * UNITS[match[2]]


def up(
    token: Annotated[str | None, typer.Argument(help="Join the mesh of this invite token at the first start.")] = None,
    name: Annotated[str, typer.Option(help="Shown to others (default: the host name).")] = "",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="TCP and UDP; port 0 takes any free one. [default: 0.0.0.0:7433]")
    ] = "",
    seed: Annotated[
        list[str], typer.Option(metavar="HOST:PORT", help="A node that is usually up; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    zone: Annotated[str, typer.Option(help="The zone of this node, when its grant names none.")] = "",
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = [],  # noqa: B006 - typer copies it
    no_mdns: Annotated[bool, typer.Option("--no-mdns", help="No multicast discovery.")] = False,
) -> None:
    """Run this machine's agent; the first start makes keys and a mesh of one, or joins with TOKEN."""
    home = context.current.home
    given = {"name": name, "listen": listen, "zone": zone}
    overrides: dict[str, Any] = {key: value for key, value in given.items() if value}
    if label:
        overrides["labels"] = dict(_label(text) for text in label)
    if seed or no_mdns:
        overrides["discovery"] = ({"seeds": seed} if seed else {}) | ({"mdns": False} if no_mdns else {})
    if token == "-":  # noqa: S105 - the word for standard input
        token = sys.stdin.readline().strip()
    settings = config.load(home, overrides)
    _start_log(home)
    from meshnode import daemon

    work = daemon.run(home, settings, token=token, announce=_announce)
    if sys.platform == "win32":
        raise ConfigError("meshnode does not run on Windows yet")
    try:
        import uvloop

        uvloop.run(work)
    except ImportError:
        asyncio.run(work)


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise typer.BadParameter(f"{text!r} is no label: write KEY=VALUE")
    return key, value


def _announce(event: dict[str, Any]) -> None:
    if context.current.json:
        context.emit(event)
        return
    console = context.console()
    console.print(f"{event['name']} ({event['id'][:8]}) is up in {event['mesh_name']} ({event['mesh'][:8]})")
    console.print(f"listening on {event['listen']} (TCP and UDP); Ctrl-C stops it")
    console.print("to add a machine: run `meshnode invite` here, and `meshnode up TOKEN` there")


def _start_log(home: Path) -> None:
    """The agent's log: a file in the home, turned over at 5 MB; warnings also on stderr."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = logging.handlers.RotatingFileHandler(home / "agent.log", maxBytes=LOG_BYTES, backupCount=2)
    except OSError as error:
        raise HomeError(f"the home {home} cannot be used: {error.strerror}") from error
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    file.setFormatter(formatter)
    logging.getLogger("meshnode").setLevel(logging.DEBUG if context.current.debug else logging.INFO)
    logging.getLogger().addHandler(file)
    if not context.current.json:
        console = logging.StreamHandler()
        console.setLevel(logging.WARNING)
        console.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logging.getLogger("meshnode").addHandler(console)


def invite(
    expires: Annotated[str, typer.Option(help="How long the token is good: 90s, 30m, 12h, 7d.")] = "30m",
    role: Annotated[str, typer.Option(help="Comma-separated: worker, submitter, publisher, operator.")] = "",
    zone: Annotated[str, typer.Option(help="The zone of the node that joins.")] = "",
) -> None:
    """Print a single-use token that lets one machine join."""
    with context.client() as client:
        answer = client.ask("invite", expires_s=seconds(expires), role=role or None, zone=zone or None)
    if context.current.json:
        context.emit(answer)
    else:
        typer.echo(answer["token"])


def join(token: Annotated[str, typer.Argument(help="An invite token; - reads it from standard input.")]) -> None:
    """Join a mesh, whether this machine's agent runs or not."""
    if token == "-":  # noqa: S105 - the word for standard input
        token = sys.stdin.readline().strip()
    home = context.current.home
    from meshnode.links.local import socket_path
    from meshnode.trust.keeper import Keeper

    try:
        keeper = Keeper.open(home)
    except HomeError:
        if not socket_path(home).exists():
            raise
        with context.client() as client:
            answer = client.ask("join", token=token)
    else:
        try:
            answer = {"mesh": asyncio.run(_join_alone(keeper, token))}
        finally:
            keeper.close()
    context.show(answer, lambda a: f"joined {a['mesh']}")


async def _join_alone(keeper: Any, token: str) -> str:
    from meshnode.agent import node_name
    from meshnode.trust.joining import redeem

    if keeper.belongs and len(keeper.statements.members()) > 1:
        raise HomeError(f"this home is already in the mesh {keeper.statements.mesh_name!r}", hint="use another --home")
    joined = await redeem(keeper, token, node_name(config.load(keeper.home)))
    keeper.adopt(joined.membership)
    if joined.peers:
        from meshnode.membership.discovery import packed_peers
        from meshnode.trust.files import write_checked

        write_checked(keeper.home / "peers", packed_peers(joined.peers))
    return str(keeper.statements.mesh_name)


def status(watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second.")] = False) -> None:
    """The mesh at a glance."""
    with context.client() as client:
        if not watch:
            context.show(client.status(), _status_view)
            return
        if context.current.json:
            while True:
                context.emit(client.status())
                time.sleep(1.0)
        with Live(_status_view(client.status()), console=context.console(), refresh_per_second=4) as live:
            while True:
                time.sleep(1.0)
                live.update(_status_view(client.status()))


def _status_view(document: dict[str, Any]) -> Group:
    return Group(render.status(document), render.status_legend(document))


def members() -> None:
    """Who is in the mesh, granted by whom, and who was revoked."""
    with context.client() as client:
        context.show(client.ask("members"), render.members)


def ping(
    node: Annotated[str, typer.Argument(help="A node's name or id.")],
    count: Annotated[int, typer.Option("--count", "-c", min=1, max=100)] = 4,
) -> None:
    """Round trip and path to a node."""
    with context.client() as client:
        rows = client.ask("ping", node=node, count=count)
    context.show(
        rows,
        lambda rows: "\n".join(f"{r['seq']}: {r['rtt_ms']:.2f} ms, {r['path']} {r['address'] or ''}" for r in rows),
    )


def doctor() -> None:
    """What is wrong with this machine and network, each with its fix; exit code 1 when something is."""
    with context.client() as client:
        rows = client.ask("doctor")
    context.show(rows, render.doctor)
    if any(row["ok"] is False for row in rows):
        raise typer.Exit(1)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """This agent's log."""
    path = context.current.home / "agent.log"
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file.readlines()[-lines:] if lines else ():
                _log_line(line)
            while follow:
                line = file.readline()
                if line:
                    _log_line(line)
                else:
                    time.sleep(0.2)
    except FileNotFoundError as error:
        raise InvalidInput(f"no agent has run on the home {context.current.home}") from error


def _log_line(line: str) -> None:
    if context.current.json:
        when, _, rest = line.rstrip("\n").partition(" ")
        level, _, text = rest.partition(" ")
        context.emit({"time": when, "level": level, "message": text})
    else:
        typer.echo(line, nl=False)


def ps() -> None:
    """Models in this node's memory."""
    with context.client() as client:
        context.show(client.ask("ps"), render.processes)


def leave(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Take this machine out of its mesh, for good, and stop its agent."""
    with context.client() as client:
        if not yes and not context.current.json:
            typer.confirm("This machine's membership ends, and a new token is needed to return. Leave?", abort=True)
        client.ask("leave")
    context.show({"left": True}, lambda _: "left the mesh; the next `meshnode up` makes a new node")


def revoke(
    node: Annotated[str, typer.Argument(help="A node's name or id.")],
    reason: Annotated[str, typer.Option(help="Shown to everyone.")] = "",
) -> None:
    """Throw a node out, for good; only where the admin key is (the founder)."""
    with context.client() as client:
        context.show(client.ask("revoke", node=node, reason=reason), lambda a: f"revoked {a['id'][:8]}")

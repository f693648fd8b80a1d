"""Commands about the mesh and who is in it: invite, join, status, members, ping, leave, accept, revoke."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from meshnode import config
from meshnode.cli import context
from meshnode.cli.asking import Yes, confirm, seconds
from meshnode.cli.completion import node_names
from meshnode.cli.node import read_token
from meshnode.errors import HomeError

WATCH_S = 1.0
FOLLOW_S = 0.5

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A node's name or id.", autocompletion=node_names)]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (invite, hardware, join, status, events, members, ping, leave, accept, revoke, zone):
        app.command()(command)


def invite(
    expires: Annotated[
        str, typer.Option(help="How long the token is good: 90s, 30m, 12h, 7d. [default: 30m; with --uses 7d]")
    ] = "",
    role: Annotated[str, typer.Option(help="Comma-separated: worker, submitter, publisher.")] = "",
    zone: Annotated[str, typer.Option(help="The zone of the nodes that join.")] = "",
    uses: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="A batch token: so many machines join by it, at any member that is up."),
    ] = None,
    hardware: Annotated[
        list[str], typer.Option(metavar="HASH", help="Only these machines; `meshnode hardware` there prints theirs.")
    ] = [],  # noqa: B006 - typer copies it
    listing: Annotated[bool, typer.Option("--list", help="The tokens that are known here, and who used them.")] = False,
) -> None:
    """Print a token that lets one machine join, or many: `meshnode up TOKEN` there."""
    from meshnode.cli import render

    if listing:
        with context.client() as client:
            rows = client.ask("invites")
        context.show(rows, lambda rows: render.invites(rows, context.console().width))
        return
    given: dict[str, Any] = {"role": role or None, "zone": zone or None}
    given |= {"expires_s": seconds(expires)} if expires else {}
    given |= {"uses": uses} if uses is not None else {}
    given |= {"hardware": hardware} if hardware else {}
    with context.client() as client:
        answer = client.ask("invite", **given)
    if context.current.json:
        context.emit(answer)
    else:
        typer.echo(answer["token"])


def hardware() -> None:
    """This machine's ids for `meshnode invite --hardware`: hashes of its machine id, serial number and MACs."""
    from meshnode.trust.hardware import ids

    found = {source: digest.hex() for source, digest in ids().items()}
    context.show(found, lambda rows: "\n".join(f"{digest}  {source}" for source, digest in rows.items()))


def accept(node: NodeName) -> None:
    """Let a node out of quarantine; only where the admin key is (the founder)."""
    with context.client() as client:
        answer = client.ask("accept", node=node)
    context.show(answer, lambda a: f"accepted {a['name']} ({a['id'][:8]})")


def join(token: Annotated[str, typer.Argument(help="An invite token; - reads it from standard input.")]) -> None:
    """Join a mesh, whether this machine's agent runs or not."""
    token = read_token(token)
    home = context.current.home
    from meshnode.trust.keeper import Keeper

    try:
        keeper = Keeper.open(home)
    except HomeError:
        from meshnode.links.local import socket_path

        if not socket_path(home).exists():
            raise
        with context.client() as client:
            answer = client.ask("join", token=token)
    else:
        try:
            answer = {"mesh": asyncio.run(join_alone(keeper, token))}
            answer |= {"quarantine": why} if (why := keeper.quarantine) else {}
        finally:
            keeper.close()
    context.show(answer, lambda a: f"joined {a['mesh']}" + (f"; {doubt}" if (doubt := _doubt(a)) else ""))


def _doubt(answer: dict[str, Any]) -> str:
    why = answer.get("quarantine")
    return f"in quarantine, for {why}: an admin's `meshnode accept` lets it in" if why else ""


async def join_alone(keeper: Any, token: str) -> str:
    """Join while no agent runs, and remember whom to look for at the next start."""
    from meshnode.membership.belonging import belong
    from meshnode.membership.remembered import packed_peers
    from meshnode.trust.files import write_checked

    peers = await belong(keeper, config.load(keeper.home), token)
    if peers:
        write_checked(keeper.home / "peers", packed_peers(peers))
    return str(keeper.statements.mesh_name)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second, until Ctrl-C.")] = False,
) -> None:
    """The mesh at a glance: one row a node."""
    from rich.live import Live

    from meshnode.cli import render

    console = context.console()

    def view(document: Any) -> Any:
        return render.status(document, console.width)

    with context.client() as client:
        if not watch:
            context.show(client.status(), view)
            return
        try:
            if context.current.json:
                while True:
                    context.emit(client.status())
                    time.sleep(WATCH_S)
            with Live(view(context.printable(client.status())), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(WATCH_S)
                    live.update(view(context.printable(client.status())), refresh=True)
        except KeyboardInterrupt:
            raise typer.Exit from None


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things change, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last ones.")] = 50,
) -> None:
    """What changed in the mesh as seen from here, and why: who came, went, is doubted, paused or reached otherwise."""
    from meshnode.cli import render

    with context.client() as client:
        rows: list[dict[str, Any]] = client.ask("events")
        last = rows[-1]["number"] if rows else 0
        rows = rows[-lines:] if lines else []
        try:
            while True:
                for row in rows:
                    if context.current.json:
                        context.emit(row)
                    else:
                        typer.echo(render.event(context.printable(row)))
                if not follow:
                    return
                time.sleep(FOLLOW_S)
                rows = client.ask("events", after=last)
                last = rows[-1]["number"] if rows else last
        except KeyboardInterrupt:
            raise typer.Exit from None


def members() -> None:
    """Who is in the mesh, granted by whom, with which roles, until when; and who was revoked."""
    from meshnode.cli import render

    with context.client() as client:
        rows = client.ask("members")
    context.show(rows, lambda rows: render.members(rows, context.console().width))


def ping(
    node: NodeName,
    count: Annotated[int, typer.Option("--count", "-c", min=1, max=100, help="How many.")] = 4,
) -> None:
    """Round trip and path to a node, over the link that tasks use."""
    from meshnode.cli import render

    with context.client() as client:
        rows = client.ask("ping", node=node, count=count)
    context.show(rows, render.pings)


def leave(yes: Yes = False) -> None:
    """Take this machine out of its mesh, for good, and stop its agent."""
    with context.client() as client:
        confirm("This machine's membership ends, and a new token is needed to return. Leave?", yes=yes)
        client.ask("leave")
    context.show({"left": True}, lambda _: "left the mesh; the next `meshnode up` makes a new node")


def revoke(
    node: Annotated[
        str,
        typer.Argument(metavar="NODE|TOKENID", help="A node's name or id, or an invite's.", autocompletion=node_names),
    ],
    reason: Annotated[str, typer.Option(help="Shown to everyone.")] = "",
    yes: Yes = False,
) -> None:
    """Throw a node out, or end an invite, for good; only where the admin key is (the founder)."""
    with context.client() as client:
        confirm(f"{node} is out for good; a node can only return as a new one. Revoke it?", yes=yes)
        answer = client.ask("revoke", node=node, reason=reason)
    context.show(answer, _revoked)


def _revoked(answer: dict[str, Any]) -> str:
    if "invite" in answer:
        return f"nobody joins by {answer['invite']} any more; the {answer['joined']} who did stay"
    office = answer.get("admin")
    if not office:
        return f"revoked {answer['id'][:8]}"
    how = "and its admin key" if office["done"] else "; its admin key waits for votes (`meshnode admin list`)"
    return f"revoked {answer['id'][:8]} {how}"


def zone(
    node: Annotated[str, typer.Argument(help="A node: name, id or the beginning of an id.")],
    name: Annotated[str, typer.Argument(metavar="[ZONE]", help="Without it, the node is in no zone.")] = "",
) -> None:
    """Give a member another zone, as in eu/berlin/store-12; an admin may."""
    with context.client() as client:
        document = client.ask("zone", node=node, zone=name)
    context.show(document, lambda it: f"{it['name']} is in {'zone ' + it['zone'] if it['zone'] else 'no zone'} now")

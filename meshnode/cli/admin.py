"""Commands about admins, their keys, and this node's own: who decides who belongs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode.cli import context
from meshnode.cli.asking import Yes, confirm, seconds
from meshnode.cli.completion import node_names
from meshnode.errors import InvalidInput

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A node's name or id.", autocompletion=node_names)]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from it, not from the terminal."),
]
KEYS_MAX = 16
Anyway = Annotated[
    bool, typer.Option("--anyway", help="Also while nodes are up whose older software reads such votes otherwise.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(help="Who may say who belongs, and their keys.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (
        ("list", list_admins),
        ("add", add),
        ("remove", remove),
        ("rotate", rotate_admin),
        ("lock", lock),
        ("unlock", unlock),
        ("export", export),
        ("import", import_key),
        ("found", found),
    ):
        group.command(name)(command)
    app.add_typer(group, name="admin")
    app.command()(renew)
    app.command()(rotate)


def list_admins() -> None:
    """Who is admin, where the keys are, and what is proposed."""
    with context.client() as client:
        document = client.ask("admin.list")
    context.show(document, _listed)


def add(node: NodeName, anyway: Anyway = False) -> None:
    """Make a member an admin: it makes a key of its own, and this admin votes for it."""
    with context.client() as client:
        answer = client.ask("admin.add", node=node, anyway=anyway)
    context.show(answer, lambda it: _voted(it, f"{it['name']} is an admin now", "for", f"admin add {node}"))


def remove(
    node: Annotated[str, typer.Argument(metavar="NODE|KEY", help="An admin's node, or the id of its key.")],
    yes: Yes = False,
    anyway: Anyway = False,
) -> None:
    """Vote that a key is no admin's any more, for good. What it signed until now stays; `revoke` ends that."""
    with context.client() as client:
        confirm(f"The admin key of {node} has no say any more, for good. Remove it?", yes=yes)
        answer = client.ask("admin.remove", node=node, anyway=anyway)
    context.show(answer, lambda it: _voted(it, f"{it['name']} is no admin any more", "against", f"admin remove {node}"))


def rotate_admin(passphrase_file: PassphraseFile = None, yes: Yes = False, anyway: Anyway = False) -> None:
    """Give this node another admin key; the old one and all copies of it have no say any more."""
    with context.client() as client:
        here = [it for it in client.ask("admin.list")["admins"] if it["here"]]
        confirm("The present admin key and its copies become worthless. Make another?", yes=yes)
        sealed = bool(here and here[0]["sealed"])
        words = _new_passphrase(passphrase_file) if sealed or passphrase_file is not None else ""
        answer = client.ask("admin.rotate", passphrase=words, anyway=anyway)
    context.show(answer, lambda it: f"the admin key is {it['key'][:8]} now; old copies are worthless, export a new one")


def lock(passphrase_file: PassphraseFile = None) -> None:
    """Seal this node's admin key with a passphrase; until `unlock` it signs nothing, renewals neither."""
    with context.client() as client:
        here = [it for it in client.ask("admin.list")["admins"] if it["here"]]
        words = "" if here and here[0]["sealed"] else _new_passphrase(passphrase_file)
        answer = client.ask("admin.lock", passphrase=words)
    context.show(answer, lambda _: "the admin key is sealed; `meshnode admin unlock` opens it until the agent ends")


def unlock(passphrase_file: PassphraseFile = None) -> None:
    """Open the sealed admin key until the agent ends, or until `lock`."""
    with context.client() as client:
        answer = client.ask("admin.unlock", passphrase=_passphrase(passphrase_file))
    context.show(answer, lambda _: "the admin key is open")


def export(
    file: Annotated[Path, typer.Argument(help="Where the sealed copy goes; never over a file that is there.")],
    passphrase_file: PassphraseFile = None,
    move: Annotated[bool, typer.Option("--move", help="Keep no copy on this machine.")] = False,
) -> None:
    """Write a copy of this node's admin key, sealed with a passphrase, for a safe place."""
    with context.client() as client:
        words = _new_passphrase(passphrase_file)
        text = client.ask("admin.export", passphrase=words)["text"]
        _write_new(file, text)
        if move:
            client.ask("admin.forget", text=file.read_text("ascii"), passphrase=words)
    said = "; this machine has no copy" if move else ""
    context.show({"file": str(file), "moved": move}, lambda it: f"{it['file']} holds the sealed admin key{said}")


def import_key(
    file: Annotated[Path, typer.Argument(help="What `meshnode admin export` wrote; - reads standard input.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Hold an admin key here, sealed as it is, and open until the agent ends."""
    text = sys.stdin.read() if str(file) == "-" else _read(file)
    with context.client() as client:
        answer = client.ask("admin.import", text=text, passphrase=_passphrase(passphrase_file))
    context.show(answer, lambda _: "this node holds the admin key")


def found(
    folder: Annotated[Path, typer.Argument(help="Where the sealed keys go that are not this machine's.")],
    keys: Annotated[int, typer.Option(min=2, max=KEYS_MAX, help="Admin keys, this machine's among them.")] = 3,
    quorum: Annotated[int, typer.Option(min=1, max=KEYS_MAX, help="So many must agree about admins.")] = 2,
    name: Annotated[str, typer.Option(help="What this node is called, as for `up`.")] = "",
    mesh: Annotated[str, typer.Option(help="What the mesh is called.")] = "",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Found a mesh with several admin keys from the first day; before the first `meshnode up`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from meshnode import config
    from meshnode.membership.belonging import node_name
    from meshnode.trust import adminkey
    from meshnode.trust.keeper import Keeper

    if quorum > keys:
        raise InvalidInput(f"{quorum} of {keys} admins can never agree", hint="choose a --quorum below --keys")
    settings = config.load(context.current.home, {"name": name} if name else None)
    keeper = Keeper.open(context.current.home)
    try:
        if keeper.belongs:
            raise InvalidInput("this home is in a mesh already", hint="choose another with --home")
        words = _new_passphrase(passphrase_file)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        others = [Ed25519PrivateKey.generate() for _ in range(keys - 1)]
        files = [folder / f"admin-{number}.key" for number in range(2, keys + 1)]
        for key, file in zip(others, files, strict=True):
            _write_new(file, adminkey.seal(key, words))
        keeper.life_s = settings.trust.valid_days * 86400
        node = node_name(settings)
        keeper.found(mesh or f"{node}'s mesh", node, settings.zone, others=others, quorum=quorum)
        document = {"mesh": keeper.statements.mesh_id, "quorum": quorum, "files": [str(file) for file in files]}
    finally:
        keeper.close()
    context.show(
        document,
        lambda it: (
            f"founded; {quorum} of {keys} admins decide who is admin. Bring {', '.join(it['files'])} to other machines "
            "(`meshnode admin import` there), then `meshnode up` here"
        ),
    )


def renew(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="A member; without it, this node.")] = "",
    last: Annotated[str, typer.Option("--for", help="An end that is not put off by itself: 12h, 90d.")] = "",
) -> None:
    """Renew this node's membership now, or as an admin another's. It happens by itself well before the end."""
    given: dict[str, Any] = {"for_s": seconds(last)} if last else {}
    with context.client() as client:
        answer = client.ask("renew", node=node, **given)
    from meshnode.cli.render import day

    context.show(answer, lambda it: f"{it['name']} is a member until {day(it['expires_at'])}")


def rotate(yes: Yes = False) -> None:
    """Give this node a new key, so a new id: it keeps name, roles and zones, and the old id is revoked for good."""
    with context.client() as client:
        confirm(
            "This node gets another id; policies and blueprints that name the old one must be changed. Go on?",
            yes=yes,
        )
        answer = client.ask("rotate")
    context.show(answer, lambda it: f"{it['name']} is node {it['id'][:8]} now; {it['was'][:8]} is revoked")


# --- passphrases and files ---


def _passphrase(file: Path | None) -> str:
    if file is not None:
        return _read(file).rstrip("\r\n")
    if not sys.stdin.isatty():
        raise InvalidInput("a passphrase is typed at a terminal", hint="--passphrase-file FILE reads it")
    return str(typer.prompt("Passphrase", hide_input=True, err=True))


def _new_passphrase(file: Path | None) -> str:
    from meshnode.trust.adminkey import check_passphrase

    words = _passphrase(file)
    check_passphrase(words)
    if file is None and words != typer.prompt("Once more", hide_input=True, err=True):
        raise InvalidInput("the two are not the same; nothing was changed")
    return words


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error


def _write_new(file: Path, text: str) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be written: {error.strerror}", hint="choose a name that is not taken"
        ) from error


# --- words ---


def _voted(answer: Mapping[str, Any], done: str, which: str, command: str) -> str:
    if answer["done"]:
        return f"{done}; {answer['admins']} admin{'s' * (answer['admins'] != 1)}"
    return f"{answer['votes']} of {answer['quorum']} votes {which} it; on other admins' machines: `meshnode {command}`"


def _listed(document: Mapping[str, Any]) -> str:
    lines = [_admin(it, "admin") for it in document["admins"]] + [_admin(it, "removed") for it in document["former"]]
    for it in document["proposed"]:
        what = "add" if it["adds"] else "remove"
        who = it["name"] or it["key"][:8]
        mine = "" if it["mine"] else f"; agree by `meshnode admin {what} {it['name'] or it['key'][:12]}`"
        voters = ", ".join(it["voters"])
        lines.append(f"proposed: {what} {who} ({it['key'][:8]}), by {voters}{mine}")
    if document["quorum"] > 1:
        lines.append(f"{document['quorum']} of {len(document['admins'])} admins must agree about admins")
    return "\n".join(lines)


def _admin(it: Mapping[str, Any], state: str) -> str:
    here = ", here" + (", sealed" if it["sealed"] else "") if it["here"] else ""
    return f"{state}  key {it['key'][:8]}  {it['name'] or 'not on a known node'}{here}"

"""The agent as a service of this machine: `meshnode service install`, `remove`, `status` and `logs`, and what is asked
before newer software is put in its place: `meshnode upgrade-check`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from meshnode import config
from meshnode.blocking import Client
from meshnode.cli import context, upgrading
from meshnode.cli.node import read_token
from meshnode.errors import AgentUnavailable, ConfigError, HomeError
from meshnode.service import texts
from meshnode.service.settings import with_settings
from meshnode.service.texts import Service

group = typer.Typer(no_args_is_help=True, help="Run the agent as a service of this machine.")
System = Annotated[bool, typer.Option("--system", help="Of the machine, not of the user who is logged in.")]


class Kind(StrEnum):
    """Service managers."""

    systemd = "systemd"
    launchd = "launchd"
    windows = "windows"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (install, remove, status, logs):
        group.command()(command)
    app.add_typer(group, name="service")
    app.command("upgrade-check")(upgrading.upgrade_check)


def install(
    token: Annotated[
        str | None, typer.Argument(help="Join with this invite token first; - reads it from standard input.")
    ] = None,
    system: System = False,
    name: Annotated[str, typer.Option(help="Shown to others (default: the host name).")] = "",
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="TCP and UDP.")] = "",
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Open the HTTP door, as on 127.0.0.1:8080.")] = "",
    seed: Annotated[list[str], typer.Option(metavar="HOST:PORT", help="May be repeated.")] = [],  # noqa: B006 - typer copies it
    zone: Annotated[str, typer.Option(help="Of a node that founds its mesh.")] = "",
    user: Annotated[str, typer.Option(help="With --system: whose it is.")] = "meshnode",
    printed: Annotated[bool, typer.Option("--print", help="Show what would be written, and change nothing.")] = False,
    kind: Annotated[Kind | None, typer.Option("--for", help="With --print: of another kind of machine.")] = None,
    before: Annotated[str, typer.Option(help="With --print: a program that must end well before each start.")] = "",
) -> None:
    """Have the agent started now and at every start of the machine, and again whenever it ends.

    The options go into the home's config.toml, not into the service; a token is used once, before. Running it again
    changes what is there. The home is --home, MESHNODE_HOME, or /var/lib/meshnode with --system.
    """
    home = _home(system)
    given: dict[str, Any] = {"name": name, "listen": listen, "zone": zone, "http.listen": http, "discovery.seeds": seed}
    changes = {key: value for key, value in given.items() if value}
    for address in (listen, http, *seed):
        if address:
            config.host_port(address, default_port=7433)
    settings = with_settings(_config(home), changes)
    _check_settings(settings)
    reads = made_of()
    service = Service(
        _program(),
        home,
        system=system,
        user=user if system else "",
        before=before,
        own_tmp=_socket_in(home) and not any(it.is_relative_to(tempfile.gettempdir()) for it in (home, *reads)),
        reads=reads,
    )
    kind = kind or _kind()
    if printed:
        made = {Kind.systemd: texts.systemd, Kind.launchd: texts.launchd, Kind.windows: texts.windows}[kind](service)
        context.show(
            {"kind": kind.value, "text": made, "config": settings if changes else None}, lambda _: made.rstrip("\n")
        )
        return
    if before or (system and user != "meshnode"):
        raise ConfigError("--before and another --user are for --print", hint="install what it prints by hand")
    from meshnode.service import managers

    manager = _manager(kind, home, system)
    manager.check()
    _check_free(home, manager)
    _make_home(home)
    if changes:
        _write(home / "config.toml", settings)
    if token is not None:
        _join(home, read_token(token))
    if system:
        managers.account(home, reads)
    manager.install(service)
    context.show(
        {"installed": str(manager.path), "home": str(home)},
        lambda it: f"{it['installed']} is written and started; its home is {it['home']}",
    )


def remove(system: System = False) -> None:
    """End the service and take it away; the home, its keys and its models stay."""
    home = _home(system)
    manager = _manager(_kind(), home, system)
    manager.check()
    manager.remove()
    context.show({"removed": str(manager.path), "home": str(home)}, lambda it: f"removed; {it['home']} stays")


def status(system: System = False) -> None:
    """What the service manager says of it; exit code 1 when it does not run."""
    manager = _manager(_kind(), _home(system), system)
    document = manager.status()
    context.show(
        document, lambda it: "\n".join(f"{key}: {value}" for key, value in it.items() if value not in ("", None))
    )
    if document["pid"] is None:
        raise typer.Exit(1)


def logs(
    system: System = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """What the service manager kept: starts, ends and warnings. `meshnode logs` is the agent's own log."""
    words = _manager(_kind(), _home(system), system).logs(lines, follow=follow)
    if shutil.which(words[0]) is None:
        raise ConfigError(f"there is no {words[0]} on this machine", hint="`meshnode logs` shows the agent's own log")
    try:
        raise typer.Exit(subprocess.run(words, check=False).returncode)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _kind() -> Kind:
    return {"darwin": Kind.launchd, "win32": Kind.windows}.get(sys.platform, Kind.systemd)


def _manager(kind: Kind, home: Path, system: bool) -> Any:
    if kind is Kind.windows:
        raise ConfigError(
            "the agent does not run on Windows yet, so there is nothing to start",
            hint="`meshnode service install --print` shows the task that will start it",
        )
    from meshnode.service import managers

    return managers.Systemd(system=system) if kind is Kind.systemd else managers.Launchd(system=system, home=home)


def _home(system: bool) -> Path:
    chosen = context.current.home
    if system and "MESHNODE_HOME" not in os.environ and chosen == config.default_home():
        return Path(texts.STATE)
    return chosen


def _program() -> tuple[str, ...]:
    """The installed command beside this Python, or this Python with the module."""
    beside = Path(sys.executable).parent / "meshnode"
    return (str(beside),) if beside.is_file() else (sys.executable, "-m", "meshnode.cli.main")


def made_of() -> tuple[Path, ...]:
    """The folders that the agent is read from: the environment, Python itself, this package."""
    import meshnode

    found = (Path(sys.prefix), Path(sys.base_prefix).resolve(), Path(meshnode.__file__).parent)
    return tuple(dict.fromkeys(found))


def _socket_in(home: Path) -> bool:
    """Whether the socket for local programs is in the home, as its path is short enough."""
    from meshnode.links.local import socket_path

    return socket_path(home).is_relative_to(home)


def _config(home: Path) -> str:
    path = home / "config.toml"
    try:
        return path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _check_settings(text: str) -> None:
    """Raises ConfigError before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.toml").write_text(text, "utf-8")
        config.load(Path(folder))


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HomeError(f"the home {home} cannot be made: {error.strerror}") from error


def _write(path: Path, settings: str) -> None:
    """Through a link of the owner's own; never, as root, through one that another user may have put there."""
    from meshnode.trust.files import write_atomic

    write_atomic(path if os.geteuid() == 0 else path.resolve(), settings.encode())


def _check_free(home: Path, manager: Any) -> None:
    """Raises ConfigError when somebody runs an agent on the home by hand: the service could not start beside it."""
    if manager.status()["pid"] is not None:
        return
    try:
        with Client(home) as client:
            client.ask("version")
    except AgentUnavailable:
        return
    raise ConfigError(f"an agent runs on {home} already, and not as a service", hint="end it with Ctrl-C first")


def _join(home: Path, token: str) -> None:
    """Be in the mesh of the token; a home that is in it already stays as it is."""
    import asyncio

    from meshnode.cli.mesh import join_alone
    from meshnode.trust.keeper import Keeper

    keeper = Keeper.open(home)
    try:
        asyncio.run(join_alone(keeper, token))
        if why := keeper.quarantine:
            sys.stderr.write(f"in quarantine, for {context.printable(why)}: an admin's `meshnode accept` lets it in\n")
    finally:
        keeper.close()

"""What can be told about a machine on which no agent runs: why `meshnode up` would fail, or that it would not."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

from meshnode import config
from meshnode.errors import MeshError

Row = dict[str, Any]


def without_agent(home: Path, error: MeshError) -> list[Row]:
    """The checks, as the agent's own doctor gives them."""
    return [
        _row("agent", False, str(error), error.hint),
        _home(home),
        *_settings(home),
        _disk(home),
    ]


def _row(check: str, ok: bool | None, detail: str, fix: str = "") -> Row:
    return {"check": check, "ok": ok, "detail": detail, "fix": "" if ok else fix}


def _home(home: Path) -> Row:
    if not home.exists():
        return _row("home", None, f"{home} does not exist yet; the first `meshnode up` makes it")
    mode = home.stat().st_mode & 0o777
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        return _row("home", False, f"{home} cannot be written by this user", "choose another with --home, or chown it")
    return _row("home", True, f"{home}, mode {mode:04o}")


def _settings(home: Path) -> list[Row]:
    try:
        settings = config.load(home)
        host, port = config.host_port(settings.listen)
    except MeshError as error:
        return [_row("settings", False, str(error), error.hint)]
    rows = [_row("settings", True, "config.toml is in order" if (home / "config.toml").exists() else "the defaults")]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for name, kind in (("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                detail = f"{name} {settings.listen} cannot be listened on: {error.strerror}"
                rows.append(_row("port", False, detail, "stop what uses it, or start with --listen HOST:PORT"))
            else:
                rows.append(_row("port", True, f"{name} {settings.listen} is free"))
    return rows


def _disk(home: Path) -> Row:
    folder = home
    while not folder.exists():
        folder = folder.parent
    free, reserve = shutil.disk_usage(folder).free, config.Catalog().disk_reserve_bytes
    ok = free > 4 * reserve
    fix = f"make room: {reserve / 1e6:.0f} MB stay in reserve"
    return _row("disk", ok, f"{free / 1e9:.1f} GB free at {folder}", fix)

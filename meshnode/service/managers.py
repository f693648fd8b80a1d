"""The service managers as programs: systemd by `systemctl`, launchd by `launchctl`."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from meshnode.errors import ConfigError, MeshError
from meshnode.service import texts
from meshnode.service.texts import Service

COMMAND_S = 120.0
"""A start waits until the agent is up."""
NO_BUS = "Failed to connect to bus"
"""What systemctl says where the manager that it was to ask does not run."""
USER = "meshnode"
"""Whose the machine's service is."""
ASKED = ("LoadState", "ActiveState", "SubState", "MainPID", "NRestarts", "StatusText", "ActiveEnterTimestamp", "Result")


class ServiceError(MeshError):
    """The machine's service manager did not do what it was asked for."""

    code = "service_error"
    fault = "us"


class Manager(Protocol):
    """Of one machine, for its system or for one user."""

    path: Path
    """Of the file that is written for it."""

    def text(self, service: Service) -> str:
        """What is in that file."""

    def install(self, service: Service) -> None:
        """Write the file and have the service started now and at every start. Raises ServiceError."""

    def remove(self) -> None:
        """End the service and take the file away. Raises ServiceError."""

    def status(self) -> dict[str, Any]:
        """What the manager knows of it."""

    def logs(self, lines: int, *, follow: bool) -> list[str]:
        """The words that show what it wrote."""


class Systemd:
    """See the module's docstring."""

    def __init__(self, *, system: bool) -> None:
        self._words = ["systemctl"] if system else ["systemctl", "--user"]
        self._system = system
        folder = Path("/etc/systemd/system") if system else _config_home() / "systemd" / "user"
        self.path = folder / texts.UNIT

    def text(self, service: Service) -> str:
        """The unit."""
        return texts.systemd(service)

    def check(self) -> None:
        """Raises ConfigError where it does not run."""
        if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
            raise ConfigError(
                "systemd does not run on this machine",
                hint="start `meshnode up` with what starts programs here; `--print` shows the unit",
            )
        if self._system and os.geteuid() != 0:
            raise ConfigError("a service of the machine is root's to install", hint="sudo, or leave --system out")
        if not self._system:
            self._run("show", "--property=Version", fix="log in as that user, or `loginctl enable-linger USER` first")

    def install(self, service: Service) -> None:
        """Write the unit, start it and enable it."""
        _write(self.path, self.text(service))
        self._run("daemon-reload")
        self._run("enable", texts.UNIT)
        self._run("restart", texts.UNIT, fix="`meshnode service logs` shows why")

    def remove(self) -> None:
        """Stop it, disable it, take the unit away."""
        if not self.path.exists():
            raise ConfigError(f"there is no service to remove: {self.path} is not there", hint="--system?")
        self._run("disable", "--now", texts.UNIT)
        self.path.unlink()
        self._run("daemon-reload")

    def status(self) -> dict[str, Any]:
        """systemd's own words for it."""
        said = self._run("show", texts.UNIT, *(f"--property={name}" for name in ASKED))
        rows = dict(line.partition("=")[::2] for line in said.splitlines())
        return {
            "manager": "systemd",
            "file": str(self.path),
            "installed": rows.get("LoadState") == "loaded",
            "state": rows.get("ActiveState", ""),
            "substate": rows.get("SubState", ""),
            "pid": int(rows.get("MainPID") or 0) or None,
            "restarts": int(rows.get("NRestarts") or 0),
            "says": rows.get("StatusText", ""),
            "since": rows.get("ActiveEnterTimestamp", ""),
            "result": rows.get("Result", ""),
        }

    def logs(self, lines: int, *, follow: bool) -> list[str]:
        """The journal."""
        whose = ["--unit"] if self._system else ["--user-unit"]
        return ["journalctl", "--no-pager", *whose, texts.UNIT, "-n", str(lines), *(["-f"] if follow else [])]

    def _run(self, *words: str, fix: str = "") -> str:
        return _run([*self._words, *words], fix)


class Launchd:
    """See the module's docstring."""

    def __init__(self, *, system: bool, home: Path) -> None:
        self._system = system
        self._domain = "system" if system else f"gui/{os.getuid()}"
        folder = Path("/Library/LaunchDaemons") if system else Path.home() / "Library" / "LaunchAgents"
        self.path = folder / f"{texts.LABEL}.plist"
        self._log = home / "service.log"

    def text(self, service: Service) -> str:
        """The property list."""
        return texts.launchd(service)

    def check(self) -> None:
        """Raises ConfigError where it does not run."""
        if sys.platform != "darwin":
            raise ConfigError("launchd is on macOS only", hint="`--print` shows the property list")
        if self._system and os.geteuid() != 0:
            raise ConfigError("a service of the machine is root's to install", hint="sudo, or leave --system out")

    def install(self, service: Service) -> None:
        """Write the list and load it; one that is loaded is unloaded first."""
        _write(self.path, self.text(service))
        with suppress(ServiceError):
            _run(["launchctl", "bootout", f"{self._domain}/{texts.LABEL}"])
        _run(["launchctl", "bootstrap", self._domain, str(self.path)], f"its output is in {self._log}")

    def remove(self) -> None:
        """Unload it and take the list away."""
        if not self.path.exists():
            raise ConfigError(f"there is no service to remove: {self.path} is not there", hint="--system?")
        with suppress(ServiceError):  # it may not be loaded
            _run(["launchctl", "bootout", f"{self._domain}/{texts.LABEL}"])
        self.path.unlink()

    def status(self) -> dict[str, Any]:
        """launchd's words for it."""
        try:
            said = _run(["launchctl", "print", f"{self._domain}/{texts.LABEL}"])
        except ServiceError:
            said = ""
        rows = dict(line.strip().partition(" = ")[::2] for line in said.splitlines())
        return {
            "manager": "launchd",
            "file": str(self.path),
            "installed": self.path.exists(),
            "state": rows.get("state", "not loaded"),
            "pid": int(rows["pid"]) if rows.get("pid", "").isdigit() else None,
        }

    def logs(self, lines: int, *, follow: bool) -> list[str]:
        """What it wrote."""
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(self._log)]


def account(home: Path, reads: Iterable[Path]) -> None:
    """The user of the machine's service, made when there is none, and the home, which is that user's.

    Raises ConfigError when that user could not read what the agent is made of.
    """
    for path in reads:
        closed = next((it for it in (path, *path.parents) if not it.stat().st_mode & 0o001), None)
        if closed is not None:
            raise ConfigError(
                f"{path} is needed, and the user {USER} may not enter {closed}",
                hint="install meshnode, with a Python for all, where all may read it: python3 -m venv /opt/meshnode",
            )
    try:
        pwd.getpwnam(USER)
    except KeyError:
        _run(["useradd", "--system", "--home-dir", str(home), "--shell", "/usr/sbin/nologin", USER], "make it by hand")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    it = pwd.getpwnam(USER)
    give(home, it.pw_uid, it.pw_gid)


def give(home: Path, uid: int, gid: int) -> None:
    """Make a folder and what is in it a user's. Raises ServiceError.

    The folder may have been that user's before, and root does this: no link of theirs leads out of it, symbolic or
    hard, nor one that takes a folder's place meanwhile.
    """
    try:
        for _, folders, names, fd in os.fwalk(home, follow_symlinks=False):
            os.fchown(fd, uid, gid)
            for name in (*folders, *names):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
                    os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        raise ServiceError(f"{home} cannot be given to another user: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error.strerror}") from error


def _run(words: Sequence[str], fix: str = "") -> str:
    called = " ".join(word for word in words if not word.startswith("--property"))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"`{called}` did not end well: {error}", hint=fix) from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:500]
        if NO_BUS in said:
            fix = "no systemd runs for this user here; a service of the machine is asked with --system"
        raise ServiceError(f"`{called}` failed: {said}", hint=fix)
    return done.stdout


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")

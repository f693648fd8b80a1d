"""Whether somebody is logged in at a display, and how long ago the last key or pointer moved.

An agent without rights cannot read the input devices, and no one interface answers on all desktops. On Linux, in this
order: GNOME's compositor (X11 and Wayland alike) and, under X11, `xprintidle` give the time itself; logind's hint is
believed when it says idle, since many desktops never set it. Whatever of this answers, input that was seen by other
means counts too: interrupts of keyboard and touchpad, and keys in any terminal, also by SSH. Where nothing answers, the
interrupts of the USB controllers are watched as well, where mice and keyboards of most desktops are; a USB disk then
looks like an owner, which errs on the owner's side.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.owner.sources import Command, Run, listing, run_program, text

GRAPHICAL = ("x11", "wayland", "mir")
MUTTER = (
    *("busctl", "--user", "--auto-start=no", "call"),
    "org.gnome.Mutter.IdleMonitor",
    "/org/gnome/Mutter/IdleMonitor/Core",
    "org.gnome.Mutter.IdleMonitor",
    "GetIdletime",
)
LOGIND = ("loginctl", "show-session", "--property=IdleHint", "--property=IdleSinceHint")
MAKERS = "ALPS?|ASU[EP]|ATML|CUST|DLL|ELAN|FTCS|FTE|GDIX|GXTP|MSFT|PIXA|SYNA?|UNIW|WACF|WCOM"
KEYS = re.compile(rf"\b(i8042|keyboard|mouse|touchpad|i2c[-_]hid\w*|({MAKERS})[0-9A-F]{{4}}:\d\d)\b")
"""Interrupt lines of input devices; touchpads and touch screens go by the names that ACPI has for their makers. The
lines of whole buses are left out: sensors on them never rest."""
USB = re.compile(r"[xeou]hci|dwc[23]|musb", re.IGNORECASE)
HID_IDLE = re.compile(r'"HIDIdleTime"\s*=\s*(\d+)')


@dataclass(slots=True)
class Watched:
    """A counter that grows with input."""

    value: int | None = None
    changed: float | None = None

    def see(self, now: float, value: int | None) -> None:
        """Take the counter's new value."""
        if value is not None and self.value is not None and value != self.value:
            self.changed = now
        self.value = value


@dataclass(slots=True)
class LinuxPresence:
    """See the module's docstring. `wall` is the time of day, in which terminals and logind count."""

    root: Path = Path("/")
    run: Run = run_program
    wall: Callable[[], float] = time.time
    _mutter: Command = field(init=False)
    _xprintidle: Command = field(init=False)
    _logind: Command | None = None
    _since: float | None = None
    _keys: Watched = field(default_factory=Watched)
    _usb: Watched = field(default_factory=Watched)

    def __post_init__(self) -> None:
        self._mutter = Command(MUTTER, self.run)
        self._xprintidle = Command(("xprintidle",), self.run)

    def read(self, now: float) -> tuple[bool | None, float | None]:
        """Whether a display session is open, and the seconds since the last input; None = unknown."""
        kinds = self._sessions()
        if not kinds:
            self._since = None
            return False, None
        if self._since is None:
            self._since, self._keys, self._usb = now, Watched(), Watched()
        keys, usb = self._interrupts()
        self._keys.see(now, keys)
        self._usb.see(now, usb)
        known = self._exact(now, kinds)
        seen = [it for it in (known, self._terminals()) if it is not None]
        if self._keys.changed is not None:
            seen.append(now - self._keys.changed)
        if known is None:
            if keys is None and usb is None:
                return True, None  # terminals alone say nothing about who reads a page
            seen.append(now - max(self._since, self._usb.changed or self._since))
        return True, min(seen)

    def _sessions(self) -> dict[str, str]:
        """The open display sessions of people: logind's id and the type; without logind, by the displays' sockets."""
        files = listing(self.root / "run/systemd/sessions")
        if files is not None:
            found = {}
            for file in files:
                if file.suffix == ".ref":
                    continue
                facts = dict(line.partition("=")[::2] for line in (text(file) or "").splitlines())
                person = facts.get("CLASS", "user").startswith("user") and facts.get("STATE") != "closing"
                if person and facts.get("TYPE") in GRAPHICAL:
                    found[file.name] = facts["TYPE"]
            return found
        x11 = [p for p in listing(self.root / "tmp/.X11-unix") or () if re.fullmatch(r"X\d", p.name)]
        users = listing(self.root / "run/user") or ()
        wayland = any(re.fullmatch(r"wayland-\d+", p.name) for user in users for p in listing(user) or ())
        return {"": "wayland"} if wayland else {"": "x11"} if x11 else {}

    def _exact(self, now: float, kinds: dict[str, str]) -> float | None:
        """Idle time by those who know it."""
        if (idle_s := _milliseconds(self._mutter.output(now))) is not None:
            return idle_s
        if set(kinds.values()) == {"x11"} and (idle_s := _milliseconds(self._xprintidle.output(now))) is not None:
            return idle_s
        return self._hinted(now, kinds)

    def _hinted(self, now: float, kinds: dict[str, str]) -> float | None:
        """By logind, when every session is said to be idle."""
        ids = tuple(sorted(filter(None, kinds)))
        if not ids:
            return None
        if self._logind is None or self._logind.words != (*LOGIND, *ids):
            self._logind = Command((*LOGIND, *ids), self.run)
        answer = self._logind.output(now)
        said = re.findall(r"^(IdleHint|IdleSinceHint)=(\w+)$", answer[0] if answer else "", re.MULTILINE)
        hints = [value for name, value in said if name == "IdleHint"]
        since = [int(value) / 1e6 for name, value in said if name == "IdleSinceHint" and value.isdigit()]
        if len(hints) < len(ids) or set(hints) != {"yes"} or not since:
            return None
        return max(0.0, self.wall() - max(since))

    def _terminals(self) -> float | None:
        """Seconds since the last key in any terminal: the kernel notes it as the time of access, to 8 s."""
        latest = None
        for path in listing(self.root / "dev/pts") or ():
            if path.name.isdigit():
                try:
                    at = path.stat().st_atime
                except OSError:
                    continue
                latest = at if latest is None else max(latest, at)
        return None if latest is None else max(0.0, self.wall() - latest)

    def _interrupts(self) -> tuple[int | None, int | None]:
        """The interrupts so far of input devices, and of USB controllers; None where there are none."""
        keys: int | None = None
        usb: int | None = None
        for line in (text(self.root / "proc/interrupts") or "").splitlines():
            words = line.split()
            if not words or not words[0].endswith(":"):
                continue
            counts = 0
            for word in words[1:]:
                if not word.isdigit():
                    break
                counts += int(word)
            if KEYS.search(line):
                keys = (keys or 0) + counts
            elif USB.search(line):
                usb = (usb or 0) + counts
        return keys, usb


def _milliseconds(answer: tuple[str, float] | None) -> float | None:
    """`t 12345` or `12345` of some seconds ago, as seconds of now."""
    match = re.fullmatch(r"(?:t )?(\d+)", answer[0].strip()) if answer else None
    return int(match[1]) / 1000 + answer[1] if match and answer else None


@dataclass(slots=True)
class MacPresence:
    """By the owner of the console, and IOKit's own idle time."""

    root: Path = Path("/")
    run: Run = run_program
    _ioreg: Command = field(init=False)

    def __post_init__(self) -> None:
        self._ioreg = Command(("ioreg", "-c", "IOHIDSystem", "-d", "4"), self.run)

    def read(self, now: float) -> tuple[bool | None, float | None]:
        """Whether somebody is logged in at the display, and the seconds since the last input; None = unknown."""
        try:
            display = (self.root / "dev/console").stat().st_uid != 0
        except OSError:
            return None, None
        if not display:
            return False, None
        answer = self._ioreg.output(now)
        found = [int(value) for value in HID_IDLE.findall(answer[0])] if answer else []
        return True, min(found) / 1e9 + answer[1] if found and answer else None

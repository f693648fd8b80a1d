"""The owner's own word: a pause by hand, kept in the home so that it outlives the agent."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.errors import HomeError, InvalidInput
from meshnode.trust.files import read_checked, sync_folder, write_checked
from meshnode.wire.terms import UNREADABLE

FILE = "pause"
PAUSE_MAX_S = 366 * 86400.0
DAY_SHOWN_S = 12 * 3600.0
"""A pause that ends later than this is shown with its day."""


class Pause(msgspec.Struct, frozen=True):
    """`until` is in seconds since 1970, None = until it is ended."""

    until: Annotated[float, Meta(ge=0, le=2**36)] | None = None

    def reason(self, wall: float) -> str:
        """`paused by hand until 14:05`, in this machine's time; "" when it is over."""
        if self.until is None:
            return "paused by hand"
        if self.until <= wall:
            return ""
        form = "%H:%M" if self.until - wall < DAY_SHOWN_S else "%Y-%m-%d %H:%M"
        return f"paused by hand until {time.strftime(form, time.localtime(math.ceil(self.until)))}"


@dataclass(slots=True)
class Switch:
    """The pause of a home."""

    home: Path
    pause: Pause | None = None

    def load(self) -> None:
        """What was said before the last stop. A damaged file is moved aside and counts as nothing said."""
        payload = read_checked(self.home / FILE)
        try:
            self.pause = None if payload is None else msgspec.json.decode(payload, type=Pause)
        except UNREADABLE:
            self.pause = None

    def set(self, duration_s: float | None, wall: float) -> Pause:
        """Pause from now on. Raises InvalidInput; and HomeError when it holds, but only until the agent stops."""
        if duration_s is not None and not 0 < duration_s <= PAUSE_MAX_S:
            raise InvalidInput(
                f"a pause lasts between a moment and {PAUSE_MAX_S / 86400:.0f} days, not {duration_s:.0f} s",
                hint="without a duration it lasts until `meshnode resume`",
            )
        self.pause = Pause(None if duration_s is None else wall + duration_s)
        write_checked(self.home / FILE, msgspec.json.encode(self.pause))
        return self.pause

    def clear(self) -> None:
        """End the pause. Raises HomeError when it comes back at the next start."""
        self.pause = None
        path = self.home / FILE
        try:
            if path.exists():
                path.unlink()
                sync_folder(self.home)
        except OSError as error:
            raise HomeError(
                f"{path} cannot be removed: {error.strerror}", hint="remove it, or the next start is paused again"
            ) from error

    def reason(self, wall: float) -> str:
        """Why nothing is taken, or ""."""
        return "" if self.pause is None else self.pause.reason(wall)

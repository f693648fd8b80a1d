"""What a service manager hears of the agent: that it is up, that its loop still turns, that it is stopping.

systemd's protocol (sd_notify): lines of text in one datagram to the socket that NOTIFY_SOCKET names. Without one
nothing is told, and nothing costs anything. The variables are taken out of the environment, so that no child speaks
for us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

BEATS = 3
"""So often within the time after which the manager would take us for hung."""
STARTING_S = 10.0
"""While it starts, joining perhaps, it asks for so much more time, again and again."""
AGAIN_S = 0.05


class Manager:
    """Whoever started this process and wants to hear from it, or nobody.

    Args:
        address: of its socket; `@` in front is the abstract namespace. Empty: nobody.
        watchdog_s: it ends us when it hears nothing for so long; 0 = never.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._up = False
        self._unsaid: list[str] = []

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Manager:
        """As the environment says."""
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        ours = usec.isascii() and usec.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if ours else 0.0)

    def up(self, status: str) -> None:
        """It may be used now, and from now on a loop that does not turn is one that hangs."""
        self._up = True
        one_line = "".join(c if c.isprintable() else " " for c in status)  # a mesh's name is its founder's to choose
        self._tell(f"READY=1\nSTATUS={one_line}")

    def begins_anew(self) -> None:
        """It is in the same process, and not to be used for a moment."""
        self._up = False
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=joining another mesh")

    def stopping(self) -> None:
        """It takes nothing new."""
        self._tell("STOPPING=1\nSTATUS=draining")

    async def beat(self) -> None:
        """Say so, for ever, that the loop turns."""
        if not self._address:
            return
        while True:
            if self._up and not self._watchdog_s:
                pause_s = STARTING_S
            elif self._up:
                self._beat("WATCHDOG=1")
                pause_s = self._watchdog_s / BEATS
            else:
                self._beat(f"WATCHDOG=1\nEXTEND_TIMEOUT_USEC={round(STARTING_S * 1e6)}")
                pause_s = min(STARTING_S, self._watchdog_s or STARTING_S) / BEATS
            await asyncio.sleep(pause_s)

    def _beat(self, lines: str) -> None:
        """One that does not get through is followed by the next."""
        if not self._unsaid:
            self._tell(lines)

    def _tell(self, lines: str) -> None:
        """Now, or as soon as the manager reads again: its queue may hold ten of these, and READY must not be lost."""
        if self._address:
            self._unsaid.append(lines)
            if len(self._unsaid) == 1:
                self._say()

    def _say(self) -> None:
        while self._unsaid:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
                    door.setblocking(False)
                    door.sendto(self._unsaid[0].encode(), self._address)
            except BlockingIOError:
                asyncio.get_running_loop().call_later(AGAIN_S, self._say)
                return
            except OSError as error:
                log.warning("the service manager was not told %s: %s", self._unsaid[0].partition("\n")[0], error)
            del self._unsaid[0]

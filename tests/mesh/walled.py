"""An agent behind a wall: what it sends to a port that its file `wall` names vanishes, as in a guest network.

The wall stands between the agent and the system: the event loop's own `create_connection` and the socket's `sendto`.
It is read each time, so that a test can move it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # the meshnode of this checkout, wherever this is started

from meshnode.cli.main import main

WALL = Path(sys.argv[sys.argv.index("--home") + 1]) / "wall"


def walled(port: int) -> bool:
    """Whether nothing gets through to there now."""
    return WALL.exists() and str(port) in WALL.read_text().split()


class Loop(uvloop.Loop):
    """uvloop's, behind the wall."""

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        """A connection that is never answered, or a real one."""
        if port is not None and walled(port):
            await asyncio.Event().wait()
        return await super().create_connection(factory, host, port, **more)


_sendto = socket.socket.sendto


def sendto(self: socket.socket, data: Any, *where: Any) -> int:
    """A datagram that is lost, or a real one."""
    return len(data) if walled(where[-1][1]) else _sendto(self, data, *where)


if __name__ == "__main__":
    uvloop.Loop = Loop
    socket.socket.sendto = sendto  # type: ignore[method-assign,assignment]
    main()

"""One end of a circuit: a pair of sockets with a link's TLS on one side and a relay's messages on the other.

The link at an end is a link like any other and knows nothing of all this; the relay sees what a wire would see. What
the link writes is read from our socket and asked of the relay, a window of chunks at a time; what the relay brings is
written to it in order, and answered when it is written. So each side is as slow as the slowest of the three.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from meshnode.errors import MeshError, Refused
from meshnode.links.ledger import CHUNK_BYTES, WINDOW
from meshnode.links.side import Peer
from meshnode.links.turns import Turns
from meshnode.wire.messages import NodeId, RelayData

SOCKET_BYTES = 64 * 1024
"""What may lie in the pair of sockets, each way: little, for it stands in front of heartbeats."""


class Circuit:
    """See the module's docstring.

    Args:
        id: its name, made up by the side that opened it.
        relay: who carries it.
        peer: who is at the other end; the TLS inside proves it.
        send: asks the relay to carry a chunk, and returns when it was taken.
        pair: two sockets that are joined.
    """

    def __init__(
        self,
        id: str,
        relay: Peer,
        peer: NodeId,
        send: Callable[[RelayData, bytes], Awaitable[None]],
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        self.id = id
        self.relay = relay
        self.peer = peer
        self.socket, self._ours = pair
        for one in (self.socket, self._ours):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES // 2)  # Linux doubles it
        self.taken = False
        """Whether a link has `socket`, and closes it."""
        self.on_end: Callable[[str], None] | None = None
        """Told why it ended, when that was a failure."""
        self._send = send
        self._turns = Turns()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._window = asyncio.Semaphore(WINDOW)
        self._idle = asyncio.Event()
        self._idle.set()
        self._over = False

    async def carry(self) -> str:
        """Carry what the link writes until it ends; returns why, "" when all of it has arrived."""
        reasons: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                loop = asyncio.get_running_loop()
                seq = 0
                while not self._over and (data := await loop.sock_recv(self._ours, CHUNK_BYTES)):
                    await self._window.acquire()
                    group.create_task(self._chunk(RelayData(circuit=self.id, seq=seq), data))
                    seq += 1
        except* (MeshError, OSError) as errors:
            reasons += [str(error) for error in errors.exceptions]
        return reasons[0] if reasons else ""

    async def take(self, seq: int, data: memoryview) -> None:
        """A chunk came: give it to the link in its turn. Raises ProtocolError; Refused when the circuit is over."""
        if not self._turns.claim(seq):
            turn = self._waiting[seq] = asyncio.get_running_loop().create_future()
            await turn
        if self._over:
            raise Refused("the circuit is over")
        self._idle.clear()
        try:
            await asyncio.get_running_loop().sock_sendall(self._ours, data)
        except OSError as error:
            raise Refused("the link at the end of the circuit is closed") from error
        finally:
            self._idle.set()
        following = self._turns.done()
        if following is not None and (turn := self._waiting.pop(following)) and not turn.done():
            turn.set_result(None)

    def end(self, reason: str) -> None:
        """It is over. Without a reason the link reads what has come and then the end; with one it is told at once."""
        if self._over:
            return
        self._over = True
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(Refused("the circuit is over"))
        if reason and self.on_end is not None:
            self.on_end(reason)
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)  # wakes whoever reads or writes; closing would not

    async def close(self) -> None:
        """Let go of the sockets, once nobody uses them."""
        self.end("")
        try:
            await self._idle.wait()
        finally:
            self._ours.close()
            if not self.taken:
                self.socket.close()

    async def _chunk(self, message: RelayData, data: bytes) -> None:
        await self._send(message, data)
        self._window.release()

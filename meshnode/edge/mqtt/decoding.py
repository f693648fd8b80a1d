"""Has strangers' pictures and archives opened in a process of their own: see `decoder`.

One process, started at the first, ended after so many, after a while without, and whenever it does anything but
answer in time. What comes back is checked like anything from a peer.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode import sandbox
from meshnode.config import Sandbox
from meshnode.edge.mqtt.decoder import LENGTH, OUT_BYTES_MAX
from meshnode.errors import InvalidInput, ProtocolError, Refused
from meshnode.wire import tensors
from meshnode.wire.tensors import Array
from meshnode.wire.terms import UNREADABLE, Tensors

OPEN_S = 5.0
"""A file that takes longer is refused and its process ended."""
START_S = 30.0
USES_MAX, IDLE_S = 256, 60.0
ADDRESS_SPACE_BYTES = 4 * 1024**3
HEAD_BYTES_MAX = 1024 * 1024


class _Said(msgspec.Struct, frozen=True):
    specs: Tensors = ()
    error: Annotated[str, Meta(max_length=4096)] = ""
    hint: Annotated[str, Meta(max_length=4096)] = ""


class Decoding:
    """See the module's docstring.

    Args:
        folder: an empty one, for the process to stand in.
        setting: how tightly it is confined.
    """

    def __init__(self, folder: Path, setting: Sandbox) -> None:
        self._folder = folder
        self._setting = setting
        self._turn = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._uses = 0
        self._idle: asyncio.TimerHandle | None = None

    async def open(
        self, kind: str, payload: bytes, inputs: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
    ) -> dict[str, Array]:
        """The tensors of a picture (of a model's one input) or archive. Raises InvalidInput, Refused."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            first = self._process is None
            try:
                if first:
                    await self._start()
                async with asyncio.timeout(START_S if first else OPEN_S):
                    arrays = await self._ask(kind, payload, inputs, metadata)
            except (OSError, EOFError, TimeoutError, ProtocolError, *UNREADABLE) as error:
                await self._end()
                late = isinstance(error, TimeoutError)
                why = "takes too long to open" if late else f"ended the process that opened it ({type(error).__name__})"
                raise InvalidInput(f"the {kind} {why}") from error
            except asyncio.CancelledError:
                await self._end()  # half an answer may be on its way
                raise
            self._uses += 1
            if self._uses >= USES_MAX:
                await self._end()
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._idle_out)
            return arrays

    async def stop(self) -> None:
        """End the process."""
        if self._idle is not None:
            self._idle.cancel()
        await self._end()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.to_thread(
                    sandbox.start,
                    "meshnode.edge.mqtt.decoder",
                    [str(theirs.fileno()), self._setting],
                    folder=self._folder,
                    fds=[theirs.fileno()],
                    address_space_bytes=ADDRESS_SPACE_BYTES,
                )
            except OSError as error:
                ours.close()
                raise Refused(f"no process can be started that opens pictures: {error.strerror}") from error
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._uses = 0
        ours.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)

    async def _ask(
        self, kind: str, payload: bytes, inputs: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
    ) -> dict[str, Array]:
        assert self._reader is not None
        assert self._writer is not None
        request = {"kind": kind, "tensors": inputs, "metadata": metadata, "nbytes": len(payload)}
        head = msgspec.json.encode(request)
        self._writer.writelines([LENGTH.pack(len(head)), head, payload])
        await self._writer.drain()
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if length > HEAD_BYTES_MAX:
            raise ProtocolError(f"an answer of {length} bytes")
        said = msgspec.json.decode(await self._reader.readexactly(length), type=_Said)
        if said.error:
            raise InvalidInput(said.error, hint=said.hint)
        places = tensors.layout(said.specs)
        size = places[-1][1] if places else 0
        if size > OUT_BYTES_MAX:
            raise ProtocolError(f"tensors of {size} bytes")
        return tensors.decode(said.specs, await self._reader.readexactly(size))

    async def _end(self) -> None:
        process = self._process
        self._kill()
        if process is not None:
            await asyncio.to_thread(process.wait)

    def _idle_out(self) -> None:
        if (process := self._process) is not None:
            self._kill()
            asyncio.get_running_loop().run_in_executor(None, process.wait)

    def _kill(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
        self._process = self._reader = self._writer = None

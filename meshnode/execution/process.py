"""One worker process as the agent sees it: started, spoken to, listened to, replaced when it dies.

It knows nothing of queues: whoever asks gets a future, and when the process dies every open one fails with
WorkerCrashed. The next process is started at once, then with growing pauses while it keeps dying before it is ready.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshnode import sandbox
from meshnode.errors import BY_CODE, MeshError, ProtocolError, WorkerCrashed
from meshnode.execution import control, shelf
from meshnode.execution.arena import Arena, memory_file
from meshnode.execution.control import Failed, FromWorker, Load, Loaded, Optimised, Prove, Run, ToWorker, Up, Widen
from meshnode.execution.footprint import Footprint, footprint
from meshnode.execution.rules import Rules
from meshnode.execution.shelf import Shelf
from meshnode.sandbox import Confinement, Lack
from meshnode.wire.messages import Digest

log = logging.getLogger(__name__)

READY_S = 60.0
SOCKET_BYTES = 1024 * 1024
RESTART_MAX_S = 30.0
STDERR_BYTES = 4096


Heard = Callable[[FromWorker | MeshError, int | None], None]
"""Told what came back, and the file descriptor that came with it; or what went wrong."""


@dataclass(slots=True)
class Incarnation:
    """One life of the process: what dies with it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    inbound: Arena
    outbound: mmap.mmap
    open: dict[int, Heard] = field(default_factory=dict)
    unsent: deque[tuple[ToWorker, int | None]] = field(default_factory=deque)
    models: set[str] = field(default_factory=set)
    """Those that it was asked about, and so may offer something of."""


class WorkerProcess:
    """See the module's docstring.

    Args:
        tries_max: a worker that was never ready is given up after so many; 0 = never.
        idle: run in the lowest scheduling class, on what nobody else wants.
        changed: told True when a process became ready and False when it died.
        loaded: told of a model that is in its memory now.
        died: told the exit code and the last words of one that was ready, before what was open fails.
    """

    def __init__(
        self,
        *,
        provider: str,
        threads: int,
        slots: int,
        arena_bytes: int,
        answer_bytes_max: int,
        address_space_bytes: int | None,
        folder: Path,
        rules: Rules,
        changed: Callable[[bool], None],
        loaded: Callable[[Digest], None] = lambda digest: None,
        died: Callable[[int, str], None] = lambda code, why: None,
        tries_max: int = 0,
        idle: bool = False,
    ) -> None:
        self.provider = provider
        self.runtime = ""
        self.available: tuple[str, ...] = ()
        self.idle = Footprint()
        """What it took when it was ready, before any model."""
        self.confined: Confinement | None = None
        self.deaths = 0
        self._arguments = (provider, str(threads), str(slots), str(answer_bytes_max))
        self._arena_bytes = arena_bytes
        self._address_space_bytes = address_space_bytes
        self._folder = folder
        self._rules = rules
        self._shelf = Shelf(folder / shelf.FOLDER)
        self._failures = 0
        self._changed = changed
        self._tell_loaded = loaded
        self._tell_death = died
        self._idle = idle
        self._tries_max = tries_max
        self._life: Incarnation | None = None
        self._ids = 0
        self._stopping = False
        self._renewing = False
        self._tending: asyncio.Task[None] | None = None
        self._died = asyncio.Event()
        self._ready = asyncio.Event()
        self._turn = asyncio.Event()  # a new one for each turn: whoever waits looks again
        self.failure = ""

    def start(self) -> None:
        """Begin, also anew after a stop; `changed(True)` follows when it is ready."""
        self._stopping = False
        self._tending = asyncio.ensure_future(self._tend())

    async def stop(self) -> None:
        """End the process and forget it."""
        self._stopping = True
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        was_ready = self._ready.is_set()
        self._ready.clear()
        if was_ready:
            self._changed(False)
        life, self._life = self._life, None
        if life is not None:
            life.process.kill()
            await asyncio.to_thread(life.process.wait)  # the kernel takes a large one apart for a while
            self._end(life, "it was told to stop")

    @property
    def started(self) -> bool:
        """Whether it was told to begin, and not to stop since."""
        return self._tending is not None and not self._stopping

    @property
    def life(self) -> Incarnation | None:
        """The present process; None while there is none that is ready."""
        return self._life if self._ready.is_set() else None

    async def ready(self) -> None:
        """Wait for a process that is ready. Raises WorkerCrashed when it cannot be had."""
        while not self._ready.is_set():
            if self.failure:
                raise WorkerCrashed(f"the {self.provider} worker does not start: {self.failure}")
            await self._turn.wait()

    def next_id(self) -> int:
        """An id for a message."""
        self._ids += 1
        return self._ids

    def ask(self, id: int, message: ToWorker, fd: int | None = None) -> asyncio.Future[tuple[FromWorker, int | None]]:
        """Send a message; the future gets the answer and its file descriptor, or what went wrong."""
        answer: asyncio.Future[tuple[FromWorker, int | None]] = asyncio.get_running_loop().create_future()

        def heard(said: FromWorker | MeshError, fd: int | None) -> None:
            if answer.done():
                if fd is not None:
                    os.close(fd)
            elif isinstance(said, MeshError):
                answer.set_exception(said)
            else:
                answer.set_result((said, fd))

        self.begin(id, message, fd, heard)
        return answer

    def begin(self, id: int, message: ToWorker, fd: int | None, heard: Heard) -> None:
        """Send a message; `heard` is called with the answer, once, at the moment that it is read."""
        life = self._life
        if life is None:
            error = WorkerCrashed(f"the {self.provider} worker is not there")
            asyncio.get_running_loop().call_soon(heard, error, None)
            return
        life.open[id] = heard
        self.tell(message, fd)

    def tell(self, message: ToWorker, fd: int | None = None) -> None:
        """Send a message that has no answer."""
        life = self._life
        if life is None:
            return
        if isinstance(message, Run | Load | Widen | Prove):
            life.models.add(message.digest)
        if not life.unsent:
            try:
                control.send(life.connection, message, fd)
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(life.connection, self._flush, life)
            except OSError:
                return  # it is dead; reading its end says so in a moment
        life.unsent.append((message, None if fd is None else os.dup(fd)))

    def kill(self, why: str) -> None:
        """End the process now; it is replaced."""
        if self._life is not None:
            log.warning("the %s worker is killed: %s", self.provider, why)
            self._life.process.kill()

    def renew(self, why: str) -> None:
        """Replace the process, in which nothing is at work."""
        if self._life is not None:
            log.info("the %s worker is replaced: %s", self.provider, why)
            self._renewing = True
            self._ready.clear()
            self._changed(False)
            self._life.process.kill()

    # --- its life ---

    async def _tend(self) -> None:
        self._failures = 0
        while not self._stopping:
            self._died.clear()
            life = self._begin()
            try:
                async with asyncio.timeout(READY_S):
                    waits = {asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(self._died.wait())}
                    try:
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for wait in waits:
                            wait.cancel()
            except TimeoutError:
                self.kill(f"not ready within {READY_S:g} s")
            if self._ready.is_set():
                self._failures = 0
                self._changed(True)
            await self._died.wait()
            if self._renewing:
                self._renewing = False
                await asyncio.to_thread(life.process.wait)
                self._end(life, "it was replaced")
                continue
            was_ready = self._ready.is_set()
            self._ready.clear()
            self.deaths += 1
            if was_ready:
                self._changed(False)  # before anything else is given to it
            code, why = await asyncio.to_thread(_last_words, life.process)
            if was_ready:
                self._tell_death(code, why)
            self._end(life, why)
            log.warning("the %s worker died: %s", self.provider, why)
            if not was_ready:
                self._failures += 1
                self.failure = why
                self._turned()
                if self._failures == self._tries_max:
                    log.warning("%s is not used: %d workers for it failed", self.provider, self._failures)
                    return
                await asyncio.sleep(min(0.25 * 2**self._failures, RESTART_MAX_S))

    def _begin(self) -> Incarnation:
        ours, theirs = socket.socketpair(socket.AF_UNIX, control.KIND)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        ours.setblocking(False)
        self._shelf.prepare()
        inbound_fd, outbound_fd = memory_file(self._arena_bytes), memory_file(self._arena_bytes)
        try:
            rules = self._rules.arguments(self.provider, self._failures)
            fds = (theirs.fileno(), inbound_fd, outbound_fd)
            process = sandbox.start(
                "meshnode.execution.confined",
                [*rules, *map(str, fds), str(self._arena_bytes), *self._arguments],
                folder=self._folder,
                fds=fds,
                address_space_bytes=self._address_space_bytes,
                idle=self._idle,
            )
            life = Incarnation(
                process,
                ours,
                Arena(inbound_fd, self._arena_bytes),
                mmap.mmap(outbound_fd, self._arena_bytes, prot=mmap.PROT_READ),
            )
        finally:
            theirs.close()
            os.close(inbound_fd)
            os.close(outbound_fd)
        self._life = life
        asyncio.get_running_loop().add_reader(ours, self._read, life)
        return life

    def _read(self, life: Incarnation) -> None:
        while True:
            try:
                data, fd = control.receive(life.connection)
            except BlockingIOError:
                return
            except OSError:
                data, fd = b"", None
            if not data:
                asyncio.get_running_loop().remove_reader(life.connection)
                self._died.set()
                return
            try:
                message = control.decode_from_worker(data)
            except ProtocolError as error:
                self.kill(f"it says what it should not: {error}")
                return
            self._heard(life, message, fd)

    def _heard(self, life: Incarnation, message: FromWorker, fd: int | None) -> None:
        if isinstance(message, Up):
            self.available, self._tries_max = message.available, 0
            self.confined = Confinement(message.grade, message.holds, tuple(Lack(*lack) for lack in message.lacks))
            self.runtime, self.idle = message.version, footprint(life.process.pid)
            self.failure = ""
            self._ready.set()
            self._turned()
            return
        if isinstance(message, Optimised):
            self._offered(life, message.digest, fd)
            return
        if isinstance(message, Loaded):
            self._tell_loaded(Digest(message.digest))
            return
        heard = life.open.pop(message.id, None)
        if heard is None:
            if fd is not None:
                os.close(fd)
        elif isinstance(message, Failed):
            heard(BY_CODE.get(message.code, MeshError)(message.message, hint=message.hint), fd)
        else:
            heard(message, fd)

    def _offered(self, life: Incarnation, model: str, fd: int | None) -> None:
        if model in life.models:
            key = shelf.key(model, self.runtime, self.provider)
            asyncio.get_running_loop().run_in_executor(None, self._shelf.take, key, fd)
        elif fd is not None:
            os.close(fd)

    def _turned(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    def _flush(self, life: Incarnation) -> None:
        while life.unsent:
            message, fd = life.unsent[0]
            try:
                control.send(life.connection, message, fd)
            except BlockingIOError:
                return
            except OSError:
                break
            life.unsent.popleft()
            if fd is not None:
                os.close(fd)
        asyncio.get_running_loop().remove_writer(life.connection)

    def _end(self, life: Incarnation, why: str) -> None:
        """Let everything of this life go."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(life.connection)
        loop.remove_writer(life.connection)
        life.connection.close()
        if life.process.poll() is None:
            life.process.kill()
        life.process.wait()
        if life.process.stderr is not None:
            life.process.stderr.close()
        for _, fd in life.unsent:
            if fd is not None:
                os.close(fd)
        if self._life is life:
            self._life = None
        unheard, life.open = list(life.open.values()), {}
        for heard in unheard:
            heard(WorkerCrashed(f"the worker died while it ran this: {why}"), None)


def _last_words(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit code; how the process ended, and the last line it wrote."""
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    text = process.stderr.read()[-STDERR_BYTES:].decode(errors="replace").strip() if process.stderr else ""
    last = text.splitlines()[-1][:300] if text else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        return code, f"signal {-code} ({name})" + (f": {last}" if last else "")
    return code, f"exit {code}" + (f": {last}" if last else "")

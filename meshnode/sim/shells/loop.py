"""An asyncio event loop whose time exists only here: it jumps to the next timer when nothing else is left to do.

What runs on it is the product's own asyncio code. Its order is a function of what was scheduled, so that a run can be
had again: tasks and futures hash by the number of their birth and not by their address, work for threads is done at
once, and the only sockets are those in memory. Each callback belongs to a process, or to nobody.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

from meshnode.sim.shells.process import PROCESS, Future, Process, Task
from meshnode.sim.shells.sockets import Listener, UdpEnd
from meshnode.sim.shells.stations import Network
from meshnode.sim.shells.streams import StreamEnd, TlsIdentity
from meshnode.sim.shells.transport import Transport

T = TypeVar("T")
Args = TypeVarTuple("Args")

TURNS_MAX = 20_000
"""So many turns of the loop without a moment passing are a task that spins."""

LATE_S = 1e-6
"""No timer is on time. It is more than what sums of seconds lose, so that a timer that rang finds its time come."""


class Deadlock(Exception):
    """Nothing will ever happen again, and somebody waits."""


class _NoSelector(selectors.BaseSelector):
    """Watches nothing: to wait is to move the clock."""

    def __init__(self, wait: Callable[[float | None], None]) -> None:
        self._wait = wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let so much time pass."""
        self._wait(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """There are no files here."""
        raise RuntimeError(f"{fileobj!r} is of the real world")

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """There are no files here."""
        raise RuntimeError(f"{fileobj!r} is of the real world")

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        """Nothing."""
        return {}


class _Handle(asyncio.Handle):
    """As asyncio makes them, with the field that is read here."""

    _context: Context


class _Timer(asyncio.TimerHandle):
    """The same; a sleep moves timers that others hold, so they cannot be made anew."""

    _context: Context
    _when: float
    _scheduled: bool


class SimLoop(asyncio.SelectorEventLoop):
    """See the module's docstring. The parts of asyncio's loop that the product uses, and no others."""

    # What `asyncio.BaseEventLoop` keeps, by its own names.
    _ready: deque[_Handle | _Timer]
    _scheduled: list[_Timer]
    _stopping: bool

    def __init__(self, network: Network) -> None:
        self.now = 0.0
        """Virtual seconds."""
        self._spins = 0
        self._births = count(1)
        super().__init__(_NoSelector(self._pass))
        self.network = network
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda loop, context: self.complaints.append(str(context)))
        self.complaints: list[str] = []
        """What asyncio would have logged: exceptions that nobody retrieved, callbacks that failed."""
        network.attach(self, lambda: self.now)

    # --- time ---

    def time(self) -> float:
        """What the clock of the running process shows."""
        owner = PROCESS.get()
        return self.now if owner is None else self.now - owner.slept_s

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Args]], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """By the clock of the process that it belongs to."""
        owner = PROCESS.get() if context is None else context.get(PROCESS)
        return super().call_at(when if owner is None else when + owner.slept_s, callback, *args, context=context)

    def forget(self) -> None:
        """Whatever is due does not happen any more."""
        self._ready.clear()
        self._scheduled.clear()
        self._spins = 0

    def _pass(self, timeout: float | None) -> None:
        if timeout is None:
            waiting = "; ".join(sorted(repr(task) for task in asyncio.all_tasks(self)))
            raise Deadlock(f"nothing will ever happen again, and these wait: {waiting or 'no task'}")
        self._spins = 0 if timeout > 2 * LATE_S else self._spins + 1
        if self._spins > TURNS_MAX:
            raise Deadlock(f"{TURNS_MAX} turns at {self.now:.6f} s: something spins: {self._due()}")
        self.now += max(0.0, timeout)

    def _due(self) -> str:
        soon = [*self._ready, *(timer for timer in self._scheduled if timer.when() <= self.now)]
        return "; ".join(sorted({repr(handle) for handle in soon})[:6])

    def _run_once(self) -> None:
        """One turn, as asyncio's own but for held and ended processes."""
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False
        if self._ready or self._stopping:
            self._pass(0.0)
        elif self._scheduled:
            self._pass(max(0.0, self._scheduled[0].when() - self.now) + LATE_S)
        else:
            self._pass(None)
        while self._scheduled and self._scheduled[0].when() <= self.now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            self._ready.append(timer)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            owner = _owner(handle)
            if owner is None:
                handle._run()
            elif owner.held and not owner.ended:
                owner.handles.append(handle)
            elif not owner.ended:
                handle._run()

    # --- processes ---

    def hold(self, process: Process) -> None:
        """Stop it."""
        process.held = True

    def release(self, process: Process, *, slept_s: float = 0.0) -> None:
        """Let it go on. What its sockets have comes before what its timers say, as in a real event loop.

        After a sleep its timers are as far away as they were before.
        """
        process.held = False
        process.slept_s += slept_s
        handles, process.handles = process.handles, deque()
        timers = [cast(_Timer, handle) for handle in handles if isinstance(handle, asyncio.TimerHandle)]
        others = [cast(_Handle, handle) for handle in handles if not isinstance(handle, asyncio.TimerHandle)]
        self._ready.extend(others)
        if slept_s:
            timers += [timer for timer in self._scheduled if _owner(timer) is process]
            self._scheduled = [timer for timer in self._scheduled if _owner(timer) is not process]
            for timer in timers:
                timer._when += slept_s
                timer._scheduled = True
            self._scheduled += timers
            heapq.heapify(self._scheduled)
        else:
            self._ready.extend(timers)

    def pending_timers(self, process: Process) -> list[str]:
        """What is still set to happen in a process."""
        handles = [handle for handle in self._scheduled if not handle.cancelled()]
        return [repr(handle) for handle in handles if _owner(handle) is process]

    # --- tasks and threads ---

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a number."""
        return Future(loop=self, births=self._births)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T] | Generator[Any, None, T], /, **more: Any
    ) -> asyncio.Future[T]:
        task = Task(work, loop=loop, births=self._births, **more)
        context = more.get("context")
        owner = PROCESS.get() if context is None else context.get(PROCESS)
        if owner is not None:
            owner.tasks.append(task)
            if len(owner.tasks) % 256 == 0:
                owner.open_tasks()
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do it now: a thread would make the order of things a matter of chance."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _make_self_pipe(self) -> None:
        """Nobody wakes this loop from outside."""

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    # --- the network, as far as the shells ask for it ---

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """Call when a datagram is there."""
        assert isinstance(fd, UdpEnd)
        context = copy_context()

        def read() -> None:
            callback(*args)
            end.still_here()

        end = fd
        end.watch(lambda: self.call_soon(read, context=context))

    def remove_reader(self, fd: Any) -> bool:
        """No more."""
        assert isinstance(fd, UdpEnd)
        fd.watch(None)
        return True

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """Names are addresses here."""
        return [(2, 1, 6, "", (host, port))]

    async def sock_accept(self, sock: Any) -> Any:
        """The next connection."""
        assert isinstance(sock, Listener)
        end = await sock.accept()
        return end, end.peername

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """What has come, b"" at the end."""
        assert isinstance(sock, StreamEnd)
        return await sock.recv(n)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """Until all of it is on its way."""
        assert isinstance(sock, StreamEnd)
        await sock.send_all(bytes(data))

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **kw: Any) -> Any:
        """Dial, then show each other certificates."""
        process = PROCESS.get()
        assert process is not None, "only a process dials"
        end = await self.network.connect(process.station, (host, port))
        return await self._handshake(end, protocol_factory, kw, server=False)

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **kw: Any) -> Any:
        """The same on one of a pair."""
        return await self._handshake(kw["sock"], protocol_factory, kw, server=False)

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **kw: Any) -> Any:
        """The other side of it."""
        return await self._handshake(sock, protocol_factory, kw, server=True)

    async def _handshake(self, end: Any, make: Callable[[], Any], kw: dict[str, Any], *, server: bool) -> Any:
        assert isinstance(end, StreamEnd)
        assert isinstance(kw["ssl"], TlsIdentity)
        protocol, patience_s = make(), kw["ssl_handshake_timeout"]
        transport = Transport(self, end, protocol, kw["ssl"].leaf, server=server)
        try:
            await transport.shaken(patience_s)
        except BaseException:
            transport.give_up()
            raise
        return transport, protocol


def _owner(handle: _Handle | _Timer) -> Process | None:
    return handle._context.get(PROCESS)

"""The worker process: the only one that sees ONNX Runtime and model files.

`slots` + 1 threads each take the next message from the socket themselves and act on it, so that a run costs no hop
between threads; the one more is there for what must be heard while all slots run. The process ends when the agent's
end of the socket is gone.
"""

from __future__ import annotations

import base64
import mmap
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil

from meshnode import heap
from meshnode.errors import ExecutionFailed, InvalidInput, MeshError, ModelRefused, OutOfMemory
from meshnode.execution import control, shelf
from meshnode.execution.arena import ASIDE_BYTES, Arena, copy, fill, memory_file
from meshnode.execution.control import (
    INLINE_BYTES,
    Described,
    Failed,
    Loaded,
    Optimised,
    Place,
    Proved,
    Ran,
    Run,
    Unloaded,
    Up,
    Wide,
)
from meshnode.execution.graphs import Graphs
from meshnode.execution.proof import why_not_together
from meshnode.execution.rules import CPU
from meshnode.execution.session import Session, first_runs, with_options
from meshnode.execution.width import seconds
from meshnode.sandbox import Confinement
from meshnode.wire import tensors
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import Array

PROOF = base64.b64decode(
    "CAgSADpEChEKAXgKAXgSAXkiBk1hdE11bBIFcHJvb2ZaEwoBeBIOCgwIARIICgIIBAoCCARiEwoBeRIOCgwIARIICgIIBAoCCARCBAoAEA0="
)
"""A 4x4 MatMul: a provider is only believed when it ran this."""
UNWANTED_MAX = 1024
"""Runs that were stopped lately; a run is stopped at most this many messages after it was asked for."""
WORTH_TIMES = 1.25
"""A run on all threads must be so much quicker: it keeps others from starting, and the model is in memory twice."""
COPIES = 2
"""Of the outputs on their way out: the memory file, and what the agent makes of it."""


class Worker:
    """The state that the threads share."""

    def __init__(
        self,
        connection: socket.socket,
        inbound: mmap.mmap,
        outbound: Arena,
        provider: str,
        threads: int,
        threads_max: int,
        answer_bytes_max: int,
    ) -> None:
        self._connection = connection
        self._inbound = inbound
        self._outbound = outbound
        self._provider = provider
        self._threads, self._threads_max = threads, threads_max
        self._answer_bytes_max = answer_bytes_max
        self._sessions: dict[str, Session] = {}
        self._wide: dict[str, Session] = {}
        self._graphs = Graphs(
            shelf.FOLDER, provider, lambda digest, fd: control.send(connection, Optimised(digest), fd)
        )
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._running: dict[int, ort.RunOptions] = {}
        self._unwanted: deque[int] = deque(maxlen=UNWANTED_MAX)

    def prove(self) -> None:
        """Run something on the provider; exits when it does not work."""
        options = ort.SessionOptions()
        if self._provider != CPU:  # else what the provider does not take runs on the CPU, and nobody is told
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session = ort.InferenceSession(PROOF, options, providers=with_options(self._provider))
        if session.get_providers()[0] != self._provider:
            sys.exit(f"{self._provider} is listed, and ONNX Runtime fell back to {session.get_providers()[0]}")
        session.disable_fallback()
        x = np.eye(4, dtype=np.float32) * 2
        (y,) = session.run(None, {"x": x})
        if not np.array_equal(y, x @ x):
            sys.exit(f"{self._provider} computes wrongly")

    def serve_all(self, slots: int, confinement: Confinement) -> None:
        """Tell the agent, and live."""
        available = tuple(ort.get_available_providers())
        lacks = tuple((lack.why, lack.fix) for lack in confinement.lacks)
        up = Up(self._provider, ort.__version__, available, confinement.grade, confinement.holds, lacks)
        control.send(self._connection, up)
        for _ in range(slots):
            threading.Thread(target=self.serve, daemon=True).start()
        self.serve()

    def serve(self) -> None:
        """A thread's life."""
        while True:
            try:
                data, fd = control.receive(self._connection)
            except OSError:
                data, fd = b"", None
            if not data:
                os._exit(0)  # the agent is gone; nothing here is worth a clean end
            message = control.decode_to_worker(data)
            match message:
                case Run():
                    self._answer(message.id, lambda: self._run(message, fd))  # noqa: B023 - called at once
                case control.Load():
                    self._answer(message.id, lambda: self._load(message))  # noqa: B023 - called at once
                case control.Probe():
                    self._answer(message.id, lambda: self._probe(message))  # noqa: B023 - called at once
                case control.Prove():
                    self._answer(message.id, lambda: self._prove(message))  # noqa: B023 - called at once
                case control.Widen():
                    self._answer(message.id, lambda: self._widen(message))  # noqa: B023 - called at once
                case control.Unload():
                    with self._lock:
                        self._sessions.pop(message.digest, None)
                        self._wide.pop(message.digest, None)
                    heap.give_back()
                    control.send(self._connection, Unloaded(message.id))
                case control.Terminate():
                    self._unwanted.append(message.id)  # first: its run may be on its way from another thread
                    options = self._running.get(message.id)
                    if options is not None:
                        options.terminate = True
                case control.Free():
                    for offset in message.offsets:
                        self._outbound.free(offset)

    def _answer(self, id: int, act: object) -> None:
        try:
            answer, fd = act()  # type: ignore[operator]
        except MeshError as error:
            answer, fd = Failed(id, error.code, str(error)[:8192], error.hint[:8192]), None
        except (MemoryError, OSError) as error:
            answer, fd = Failed(id, "out_of_memory", f"the worker is out of memory: {error}"[:8192]), None
        try:
            control.send(self._connection, answer, fd)
        except MeshError as error:
            control.send(self._connection, Failed(id, error.code, str(error)[:8192]))
        finally:
            if fd is not None:
                os.close(fd)

    def _run(self, message: Run, fd: int | None) -> tuple[Ran, int | None]:
        for offset in message.free:
            self._outbound.free(offset)
        inputs = self._inputs(message, fd)
        options = ort.RunOptions()
        self._running[message.id] = options
        try:
            before = _rss() if message.digest not in self._sessions else None
            session = self._wide.get(message.digest) if message.wide else None
            session = session or self._session(message.digest, message.path)
            if message.id in self._unwanted:
                raise ExecutionFailed("the run was stopped before it began")
            began = time.perf_counter()
            results = session.run(inputs, message.outputs, options)
            run_s = time.perf_counter() - began
        finally:
            del self._running[message.id]
        if message.rows:
            _check_rows(results, sum(message.rows))
        specs, parts = tensors.encode(results)
        self._check_size(specs, sum(map(len, parts)))
        body, place, out = self._place(parts)
        grown = None if before is None else max(0, _rss() - before)
        return Ran(message.id, specs, run_s, body, place, grown, session.precision), out

    def _inputs(self, message: Run, fd: int | None) -> dict[str, Array]:
        """Views of the inputs, wherever they lie."""
        if message.place is None:
            return tensors.decode(message.inputs, message.body)
        offset, nbytes = message.place.offset, message.place.nbytes
        if offset >= 0:
            return tensors.decode(message.inputs, memoryview(self._inbound)[offset : offset + nbytes])
        if fd is None:
            raise InvalidInput("the inputs' memory did not arrive")
        memory = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        os.close(fd)
        return tensors.decode(message.inputs, memoryview(memory))

    def _check_size(self, specs: tuple[TensorSpec, ...], total: int) -> None:
        """An answer that no message can carry, or no memory, is refused before it is copied anywhere."""
        if not specs:
            return
        largest = max(specs, key=lambda spec: spec.nbytes)
        if total > self._answer_bytes_max:
            raise InvalidInput(
                f"the outputs are {total} bytes together, output {largest.name!r} {largest.nbytes} of them; "
                f"an answer carries {self._answer_bytes_max}",
                hint="ask for less at a time, or for fewer of the outputs",
            )
        if total >= ASIDE_BYTES and COPIES * total > (free := psutil.virtual_memory().available):
            raise OutOfMemory(
                f"the outputs are {total} bytes together, output {largest.name!r} {largest.nbytes} of them; "
                f"this node has {free} bytes of memory left, and must hold them twice more to hand them over"
            )

    def _place(self, parts: list[tensors.Buffer]) -> tuple[bytes, Place | None, int | None]:
        """Put the outputs into the message, the arena, or a memory file of their own."""
        nbytes = sum(len(part) for part in parts)
        if nbytes <= INLINE_BYTES:
            return b"".join(parts), None, None
        offset = self._outbound.allocate(nbytes)
        if offset is None:
            fd = memory_file(nbytes)
            try:
                fill(fd, parts)
            except BaseException:
                os.close(fd)
                raise
            return b"", Place(-1, nbytes), fd
        at, memory = offset, memoryview(self._outbound.memory)
        for part in parts:
            copy(memory[at : at + len(part)], part)
            at += len(part)
        return b"", Place(offset, nbytes), None

    def _session(self, digest: str, path: str) -> Session:
        session = self._sessions.get(digest)
        if session is not None:
            return session
        with self._lock:
            loading = self._loading.setdefault(digest, threading.Lock())
        with loading:
            session = self._sessions.get(digest)
            if session is None:
                session = Session(Path(path), self._provider, self._threads, graphs=self._graphs, digest=digest)
                heap.give_back()  # what loading it took and left
                with self._lock:
                    self._sessions[digest] = session
                control.send(self._connection, Loaded(digest))
        return session

    def _load(self, message: control.Load) -> tuple[Described, None]:
        before = _rss()
        session = self._session(message.digest, message.path)
        return Described(message.id, session.inputs, session.outputs, max(0, _rss() - before)), None

    def _prove(self, message: control.Prove) -> tuple[Proved, None]:
        session = self._session(message.digest, message.path)
        return Proved(message.id, why_not_together(session, message.inputs, message.limit_s)), None

    def _widen(self, message: control.Widen) -> tuple[Wide, None]:
        narrow = self._session(message.digest, message.path)
        before = _rss()
        path, digest = Path(message.path), message.digest
        wide = Session(path, self._provider, self._threads_max, graphs=self._graphs, digest=digest)
        narrow_s, wide_s = seconds((narrow, wide), message.inputs, message.limit_s)
        kept = wide_s * WORTH_TIMES < narrow_s
        if kept:
            with self._lock:
                self._wide[message.digest] = wide
        del wide
        if not kept:
            heap.give_back()
        return Wide(message.id, narrow_s, wide_s, kept, max(0, _rss() - before)), None

    def _probe(self, message: control.Probe) -> tuple[Described, None]:
        before = _rss()
        session = Session(Path(message.path), self._provider, self._threads)
        run_s = None
        if outputs := session.tensor_outputs():
            try:
                zeros = session.zeros()
                run_s = first_runs(session, zeros, outputs, message.run_s)
            except (InvalidInput, ExecutionFailed):
                run_s = None  # zeros suit not every model; that it loads is what had to be known
        else:
            raise ModelRefused("no output of the model is a tensor, and only tensors can be carried")
        grown = max(0, _rss() - before)
        described = Described(message.id, session.inputs, session.outputs, grown, run_s, session.metadata)
        del session
        heap.give_back()
        return described, None


def _check_rows(results: dict[str, Array], rows: int) -> None:
    """What several tasks asked for together must come apart again."""
    for name, array in results.items():
        if array.shape[:1] != (rows,):
            raise ExecutionFailed(f"output {name!r} of {rows} rows has shape {list(array.shape)}")


def _rss() -> int:
    return int(psutil.Process().memory_info().rss)


def made(arguments: Sequence[str]) -> Worker:
    """Of SOCKET INBOUND OUTBOUND BYTES PROVIDER THREADS SLOTS MAX, file descriptors first."""
    connection_fd, inbound_fd, outbound_fd, nbytes = map(int, arguments[:4])
    provider, threads, slots = arguments[4], int(arguments[5]), int(arguments[6])
    connection = socket.socket(fileno=connection_fd)
    inbound = mmap.mmap(inbound_fd, nbytes, prot=mmap.PROT_READ)
    outbound = Arena(outbound_fd, nbytes)
    os.close(inbound_fd)
    os.close(outbound_fd)
    ort.disable_telemetry_events()  # 1.31.1 keeps a database of what it did in ~/.cache
    if provider != CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA's libraries, where they were installed beside us
    return Worker(connection, inbound, outbound, provider, threads, threads * slots, int(arguments[7]))

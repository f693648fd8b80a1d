"""A small agent for tests of its clients: the real socket and the real frames, and a few models made of numpy.

double   x -> y = 2 x            stuck   never answers            later   refuses twice, then doubles
gated    doubles once `gate` is set
lost     an answer about a peer that was lost, with its attempts
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from meshnode.config import Links
from meshnode.errors import Attempt, InvalidInput, ModelNotFound, PeerLost, Refused
from meshnode.links.local import LocalServer
from meshnode.links.side import Incoming, Reply, Side
from meshnode.wire import messages, tensors
from meshnode.wire.messages import Ask, Document, Hello, NodeId, Plan, Submit, Submitted

NODE = NodeId("b" * 52)
DIGEST = "0" * 64
WAIT_S = 20.0
MODEL = {
    "name": "double",
    "version": 1,
    "digest": DIGEST,
    "size": 100,
    "inputs": [{"name": "x", "dtype": "float", "shape": ["n"]}],
    "outputs": [{"name": "y", "dtype": "float", "shape": ["n"]}],
    "on_disk": [NODE],
    "loaded": [],
    "metadata": {},
    "publisher": NODE,
}


class Door:
    """The agent of a home, on a thread of its own; use it with `with`, as often as it shall restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tasks: list[str] = []
        self.models: list[str] = []
        self.open = 0
        self.open_most = 0
        self.cancelled = 0
        self.refusals = 2
        self.changed = threading.Condition()
        self.gate = threading.Event()

    def __enter__(self) -> Door:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        side = Side(
            hello=lambda: Hello(versions=(messages.PROTOCOL_VERSION,), id=NODE, name="door", boot=1),
            handler=self._handle,
            settings=Links(),
            requests=messages.decode_local_request,
            replies=messages.decode_local_reply,
            local=True,
        )
        self._server = LocalServer(self.home, side)
        self._run(self._server.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until something that the door has seen is so."""
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), (self.tasks, self.open, self.cancelled)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def _count(self, **changes: int) -> None:
        with self.changed:
            for name, change in changes.items():
                setattr(self, name, getattr(self, name) + change)
            self.open_most = max(self.open_most, self.open)
            self.changed.notify_all()

    async def _handle(self, incoming: Incoming) -> Reply:
        match incoming.request:
            case Submit() as request:
                self.tasks.append(request.task)
                self._count(open=1)
                try:
                    return await self._submit(request, incoming.body)
                except asyncio.CancelledError:
                    self._count(cancelled=1)
                    raise
                finally:
                    self._count(open=-1)
            case Plan():
                return _document({"kind": "local", "candidates": [], "excluded": []})
            case Ask(verb="model.show", args=args) if args["model"] in ("double", DIGEST):
                return _document(MODEL)
            case Ask(verb="status"):
                return _document({"nodes": [{"id": NODE, "name": "door", "state": "alive", "slots": 2}]})
            case Ask(verb="models"):
                return _document([MODEL])
            case Ask(verb="version"):
                return _document({"version": "1", "id": NODE, "pid": os.getpid()})
            case Ask(verb="dashboard"):
                return _document({"link": "http://127.0.0.1:8080/dashboard/#the-code", "within_s": 60.0})
            case Ask(verb=verb):
                raise ModelNotFound(f"no {verb}", hint="there is double")
        raise InvalidInput("unknown")

    async def _submit(self, request: Submit, body: memoryview) -> Reply:
        if request.model == "stuck":
            await asyncio.Event().wait()
        if request.model == "gated":
            await asyncio.to_thread(self.gate.wait, WAIT_S)
        if request.model == "lost":
            raise PeerLost("the peer is gone", attempts=[Attempt(NODE, "door", "peer_lost", 0.1)])
        if request.model == "later" and self.refusals:
            self.refusals -= 1
            raise Refused("full", retry_after_s=0.02)
        await asyncio.sleep(0)  # others get their turn, as they would with a real worker
        x = tensors.decode(request.inputs, body)["x"]
        specs, parts = tensors.encode({"y": 2 * x})
        return Reply(
            Submitted(
                outputs=specs,
                model=DIGEST,
                node=NODE,
                name="door",
                seconds=0.001,
                provider="CPUExecutionProvider",
                attempts=((NODE, "door", "ok", 0.001, ""),),
            ),
            [bytes(part) for part in parts],
        )


def _document(value: Any) -> Reply:
    return Reply(Document(), (msgspec.json.encode(value),))

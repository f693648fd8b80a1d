"""One connection to a peer or to a local client: many requests at once, both ways.

The shell around `FrameReader` and `FrameWriter`. Bytes go in by `get_buffer`/`buffer_updated`; bytes go out by one
pump, the only place that writes. The connection is the truth about a peer: when it breaks, every open call fails at
once with `PeerLost`; when the peer says nothing for three heartbeats, with `PeerSilent`, and it may come back.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from meshnode.errors import DeadlineExceeded, MeshError, PeerSilent, PermissionDenied, ProtocolError, from_wire
from meshnode.links.calls import Calls
from meshnode.links.heartbeat import Heartbeat
from meshnode.links.pump import Pump
from meshnode.links.side import Incoming, Peer, Prove, Received, Reply, Side, closing, lost, path_of, peer_of, who
from meshnode.wire import messages
from meshnode.wire.flow import Buffer, FrameWriter
from meshnode.wire.frames import Control, FrameReader, Landed, Message, Type
from meshnode.wire.messages import AnyMessage, Hello, NodeId

log = logging.getLogger(__name__)
DRAIN_S = 1.0

__all__ = ["Incoming", "Link", "Peer", "Received", "Reply", "Side", "lost", "path_of"]


class Link(asyncio.BufferedProtocol):
    """See the module's docstring. Made by `meshnode.links.pool` and `meshnode.links.local`."""

    def __init__(
        self,
        side: Side,
        *,
        dialled: bool,
        prove: Prove,
        features: tuple[str, ...] = (),
        via: Peer | None = None,
        opened: Callable[[Link], None] | None = None,
        lost: Callable[[Link, str], None] | None = None,
        silent: Callable[[Link], None] | None = None,
    ) -> None:
        self.dialled = dialled
        self.via = via  # the member that relays this link; None for a direct one
        self.silent = False
        self.closed = asyncio.Event()
        self.close_reason = self.close_code = ""  # the code is that of CLOSE, whoever said it
        self._side = side
        self._settings = side.settings
        self._now = side.machine.now
        self._prove = prove
        self._features = features
        self._on_opened = opened
        self._on_lost = lost
        self._on_silent = silent
        self._peer: Peer | None = None
        self._proven: NodeId | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refusal: list[MeshError] = []
        self._loop = self._ready.get_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(side.settings, side.traffic)
        self._writer = FrameWriter(side.settings)
        self._pump = Pump(self._writer, self._loop, side.machine, side.traffic)
        self._calls = Calls(self._loop, dialled=dialled)
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._closing = self._going_away = False
        self._beat: asyncio.TimerHandle | None = None
        self._heartbeat = Heartbeat(side.settings, self._now())

    # --- for callers ---

    @property
    def peer(self) -> Peer:
        """The other side; known once the link is open."""
        assert self._peer is not None, "the link is not open yet"
        return self._peer

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip, seconds; None before the first answer."""
        return self._heartbeat.rtt_s

    @property
    def heartbeat(self) -> Heartbeat:
        """When the peer was last heard, and how far away it is."""
        return self._heartbeat

    @property
    def in_flight(self) -> int:
        """Requests open either way."""
        return len(self._calls) + len(self._serving)

    @property
    def features(self) -> tuple[str, ...]:
        """What this side adds to its HELLO for this link."""
        return self._features

    @property
    def socket(self) -> socket.socket | None:
        """The transport's socket, for its options and the kernel's word about the caller."""
        return self._transport.get_extra_info("socket") if self._transport is not None else None

    @property
    def usable(self) -> bool:
        """Whether new calls make sense."""
        return self._peer is not None and not self._closing and not self._going_away

    async def opened(self) -> None:
        """Wait for both HELLOs. Raises PermissionDenied with the peer's reason, ProtocolError, PeerLost."""
        await asyncio.shield(self._ready)
        if self._refusal:
            raise self._refusal.pop()  # not kept: its traceback has frames that hold this link

    async def call(
        self, request: AnyMessage, body: Sequence[Buffer] = (), *, timeout_s: float | None = None
    ) -> Received:
        """Ask the other side and wait for its answer.

        Raises the error that the other side answered with, PeerLost (its `sent` tells whether the request may have
        arrived), PeerSilent, DeadlineExceeded. Cancelling the call cancels the work at the other side.
        """
        if not self.usable:
            raise lost(f"the link to {self._who()} is closed: {self.close_reason or 'going away'}", sent=False)
        stream = self._calls.stream()
        self._writer.message(Type.REQ, stream, messages.encode(request), body)
        answer = self._calls.open(stream)
        self._pump()
        self._beat_soon()
        expiry = self._loop.call_later(timeout_s, self._expire, stream, timeout_s) if timeout_s is not None else None
        try:
            return await answer
        except asyncio.CancelledError:
            self._give_up(stream)
            raise
        finally:
            if expiry is not None:
                expiry.cancel()

    async def close(self, code: str = "bye", text: str = "", *, drain_s: float = DRAIN_S) -> None:
        """Take no more requests, finish what is open for a moment, then hang up."""
        if not self.closed.is_set() and not self._going_away:
            self._going_away = True
            self._send(Type.GOAWAY)
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    while self.in_flight and not self.closed.is_set():
                        open_ones: list[asyncio.Future[Any]] = [*self._serving.values(), *self._calls.values()]
                        await asyncio.wait(open_ones, timeout=drain_s)
        self.hang_up(code, text)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self.closed.wait()
        self.abort(text or code)

    def hang_up(self, code: str, text: str, statement: bytes = b"") -> None:
        """Say why, with the proof if there is one, and close when that is written."""
        if self._transport is None or self._closing:
            return
        self._closing = True
        self.close_reason, self.close_code = self.close_reason or text or code, code
        self._send(Type.CLOSE, header=messages.encode_error(closing(code, text, statement)))
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Drop the connection now."""
        self.close_reason = self.close_reason or reason
        self._closing = True
        if self._transport is not None and not self.closed.is_set():
            self._transport.abort()

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over: prove the peer, then say HELLO."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in everything but its base class
        self._transport = self._pump.transport = transport
        high = self._settings.high_water_bytes
        transport.set_write_buffer_limits(high=high, low=high // 2)
        tls = transport.get_extra_info("ssl_object")
        try:
            self._proven = self._prove(tls.getpeercert(binary_form=True) if tls is not None else None)
        except PermissionDenied as error:
            self._fail(error)
            return
        hello = messages.with_features(self._side.hello(), self._features)
        self._send(Type.HELLO, header=messages.encode(hello))
        no_hello = ProtocolError(f"no HELLO within {self._settings.handshake_s} s")
        self._beat = self._loop.call_later(self._settings.handshake_s, self._fail, no_hello)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._heartbeat.heard(now := self._now())
        self.silent = False
        try:
            for event in () if self._closing else self._reader.received(nbytes):  # who was refused says no HELLO
                if isinstance(event, Landed):
                    self._landed(event, now)
                elif isinstance(event, Message):
                    self._message(event)
                else:
                    self._control(event)
        except ProtocolError as error:
            self._fail(error)
            return
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        """Every open call fails now; whatever was being served is cancelled."""
        if self._beat is not None:
            self._beat.cancel()
        self.close_reason = self.close_reason or (str(error) if error else "the connection broke")
        self._closing = True
        self._settle(lost(f"the connection closed before HELLO: {self.close_reason}", sent=False))
        self._calls.fail(lost(f"the link to {self._who()} broke: {self.close_reason}", sent=True))
        for task in list(self._serving.values()):
            task.cancel()
        self.closed.set()
        if self._on_lost is not None:
            self._on_lost(self, self.close_reason)
        # The transport holds TLS, which holds this link: a ring of 256 KiB that only a whole collection would free.
        self._transport = self._pump.transport = None

    def pause_writing(self) -> None:
        """The transport's buffer is above the high-water mark."""
        self._pump.paused = True

    def resume_writing(self) -> None:
        """It is below the low one again."""
        self._pump.paused = False
        self._pump()

    def _send(self, kind: Type, stream: int = 0, header: bytes = b"", aux: int = 0) -> None:
        self._writer.control(kind, stream, header, aux)
        self._pump()

    # --- in ---

    def _landed(self, event: Landed, now: float) -> None:
        if more := self._reader.arriving(event.stream):  # not of what was cancelled in the same breath
            self._beat_soon()
        crediting = self._reader.crediting
        for stream in crediting.landed(event.stream, event.nbytes, whole=not more):
            credit = crediting.credit(stream, now, self._heartbeat.least_rtt_s)
            self._writer.control(Type.CREDIT, stream, aux=credit)

    def _message(self, event: Message) -> None:
        if self._peer is None:
            raise ProtocolError("a message before HELLO")
        if event.type is Type.RES:
            received = Received(self._side.replies(event.header), memoryview(event.body))
            answer = self._calls.pop(event.stream)  # once it has an answer: a link that fails ends the others
            (self._side.late if answer is None or answer.done() else answer.set_result)(received)
            return
        if self._calls.is_ours(event.stream) or event.stream in self._serving:
            raise ProtocolError(f"stream {event.stream} is not the peer's to open")
        if len(self._serving) >= self._settings.streams_max:
            error = {"code": "refused", "message": f"{len(self._serving)} requests are open on this link, the limit"}
            self._writer.control(Type.ERR, event.stream, messages.encode_error({**error, "retry_after_s": 0.1}))
            return
        task = self._serving[event.stream] = self._loop.create_task(self._serve(event))
        # Not in a `finally`: one that is cancelled before its first step never comes to it.
        task.add_done_callback(lambda _: self._serving.pop(event.stream, None))
        self._beat_soon()

    async def _serve(self, event: Message) -> None:
        stream = event.stream
        try:
            request = self._side.requests(event.header)
            reply = await self._side.handler(Incoming(self, self.peer, request, memoryview(event.body)))
            self._writer.message(Type.RES, stream, messages.encode(reply.message), reply.body)
        except MeshError as error:
            self._writer.control(Type.ERR, stream, messages.encode_error(error.to_wire()))
        except asyncio.CancelledError:
            pass  # the caller gave up, or the link is gone: nobody waits for an answer
        except Exception:
            log.exception("a request of %s failed", self._who())
            error_map = MeshError("the other side failed on this request; its log says why").to_wire()
            self._writer.control(Type.ERR, stream, messages.encode_error(error_map))
        self._pump()

    def _control(self, event: Control) -> None:
        match event.type:
            case Type.HELLO:
                self._hello(messages.decode_hello(event.header))
            case Type.ERR:
                error = from_wire(messages.decode_error(event.header))  # a call is forgotten when it has its end
                self._writer.cancel(event.stream)
                self._reader.discard(event.stream)
                if (answer := self._calls.pop(event.stream)) is not None and not answer.done():
                    answer.set_exception(error)
            case Type.CREDIT:
                self._writer.credit(event.stream, event.aux)
            case Type.CANCEL:
                self._reader.discard(event.stream)
                self._writer.cancel(event.stream)
                if (task := self._serving.get(event.stream)) is not None:
                    task.cancel()
            case Type.PING:
                self._writer.control(Type.PONG, aux=event.aux)
            case Type.PONG:
                self._heartbeat.pong(event.aux, self._now())
            case Type.GOAWAY:
                self._going_away = True
                self.close_reason = self.close_reason or "the peer is leaving"
                if self._on_lost is not None and self._peer is not None:
                    self._on_lost(self, self.close_reason)
            case Type.CLOSE:
                self._closed_by_peer(messages.decode_error(event.header))
            case _:
                raise ProtocolError(f"an unexpected {event.type.name} frame")

    def _hello(self, hello: Hello) -> None:
        if messages.PROTOCOL_VERSION not in hello.versions:
            raise ProtocolError(f"{hello.name} speaks versions {hello.versions}, not {messages.PROTOCOL_VERSION}")
        if self._proven is not None and hello.id != self._proven:
            raise ProtocolError(f"the HELLO of node {self._proven[:8]} names node {hello.id[:8]}")
        address = None if self._side.local or self._transport is None else self._transport.get_extra_info("peername")
        self._peer = peer_of(hello, address or None, local=self._side.local)
        self._writer.peer_bytes_max = hello.body_bytes_max or self._settings.body_bytes_max
        self._heartbeat.opened(self._now())
        self._arm()
        self._settle()
        if self._on_opened is not None:
            self._on_opened(self)

    def _settle(self, *refusal: MeshError) -> None:
        if not self._ready.done():
            self._refusal.extend(refusal)
            self._ready.set_result(None)

    def _closed_by_peer(self, error: dict[str, Any]) -> None:
        self.close_code = str(error.get("code") or "")
        self.close_reason = text = str(error.get("message") or self.close_code or "no reason given")
        self._side.told(error)
        self._settle(PermissionDenied(f"the peer refused the link: {text}"))
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: MeshError) -> None:
        log.info("the link to %s is closed: %s", self._who(), error)
        self._settle(error)
        self.hang_up(error.code, str(error), getattr(error, "statement", b""))

    # --- calls that end early ---

    def _expire(self, stream: int, timeout_s: float) -> None:
        if (answer := self._calls.get(stream)) is not None and not answer.done():
            self._give_up(stream)
            answer.set_exception(DeadlineExceeded(f"{self._who()} did not answer within {timeout_s:.3g} s"))

    def _give_up(self, stream: int) -> None:
        if self._calls.pop(stream) is not None and not self._closing:
            self._writer.cancel(stream)
            self._reader.discard(stream)
            self._send(Type.CANCEL, stream)

    # --- heartbeats ---

    def _beat_soon(self) -> None:
        """Something is open now: the next beat must not be an idle one."""
        if not self._side.local and self._heartbeat.wake(self._now()):
            self._arm()

    def _arm(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self._loop.call_at(self._heartbeat.due_at, self._on_beat)

    def _on_beat(self) -> None:
        busy = self.in_flight + self._reader.open_streams > 0
        quiet_s, nonce = self._heartbeat.beat(self._now(), open=busy, sent=self._pump.sent())
        if quiet_s is not None:
            self._fall_silent(quiet_s)
        if nonce is not None:
            self._send(Type.PING, aux=nonce)
        self._arm()

    def _fall_silent(self, quiet_s: float) -> None:
        """Nobody waits for a silent peer; the link stays, for it may only have slept."""
        if not self.silent:
            log.info("%s has been silent for %.2f s", self._who(), quiet_s)
        self.silent = True
        self._calls.fail(PeerSilent(f"{self._who()} has not answered for {quiet_s:.2f} s"))
        if self._on_silent is not None:
            self._on_silent(self)

    def _who(self) -> str:
        return who(self._peer, self._proven, dialled=self.dialled)

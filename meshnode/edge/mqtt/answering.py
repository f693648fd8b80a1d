"""Tasks from the broker: each message is run once, answered once, and acknowledged when it is answered.

So the broker itself is the queue: it sends no more than it was told to while that many are unanswered, and what was
not answered when a connection broke comes again. The decisions are in `ledger`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiomqtt

from meshnode.edge import submitting
from meshnode.edge.mqtt import requests
from meshnode.edge.mqtt.connection import Connection
from meshnode.edge.mqtt.decoding import Decoding
from meshnode.edge.mqtt.ledger import Ledger, Turn
from meshnode.edge.mqtt.requests import Answer, Asked, Incoming
from meshnode.edge.mqtt.sealing import Again, Taken
from meshnode.edge.mqtt.topics import Topics
from meshnode.edge.node import Node
from meshnode.errors import DeadlineExceeded, InvalidInput, MeshError, Refused
from meshnode.wire.messages import NodeId
from meshnode.wire.tensors import Array

log = logging.getLogger(__name__)
T = TypeVar("T")

UNHEARD_S = 30.0
"""An answer that nobody listens for is offered so long: whoever asked may be about to come back."""
UNHEARD_PAUSE_S, UNHEARD_PAUSE_MAX_S = 0.25, 4.0
BREAKS_MAX = 3
"""An answer at which the connection broke so often is not tried again: the broker does not want it."""
HELD_MAX = 4096
"""Messages in hand; their bytes are bounded too, by as many of the largest as are taken at once. Beyond either a task
is refused. A broker that keeps to what it was told never sends them; mosquitto 2.0.11 does not quite keep to it."""


@dataclass(slots=True)
class Uplink:
    """The connection of the moment, and how often the broker began anew; shared by all that speak to it."""

    connection: Connection | None = None
    session: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, connection: Connection) -> None:
        """A connection stands."""
        self.session += not connection.kept
        self.connection = connection
        self.up.set()

    def end(self) -> None:
        """It broke."""
        self.connection = None
        self.up.clear()

    async def wait(self) -> Connection:
        """The connection, once there is one."""
        while self.connection is None:
            await self.up.wait()
        return self.connection


@dataclass(slots=True)
class Answering:
    """See the module's docstring.

    Args:
        tell: tells the other nodes that take tasks from this broker.
    """

    node: Node
    topics: Topics
    uplink: Uplink
    decoding: Decoding
    tell: Callable[[Taken | Again], None]
    ledger: Ledger = field(default_factory=Ledger)
    counts: Counter[str] = field(default_factory=Counter)
    _held: int = 0
    _turns: asyncio.Semaphore = field(init=False)
    _works: set[asyncio.Task[None]] = field(default_factory=set)
    _ends: dict[str, asyncio.Event] = field(default_factory=dict)
    _pokes: dict[str, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.node.settings.mqtt.tasks_max)

    @property
    def busy(self) -> int:
        """Messages in hand."""
        return len(self._works)

    def arrived(self, message: Incoming, connection: Connection) -> None:
        """A message, over that connection."""
        self._start(self._take(message, connection))

    def asked_again(self, task: str) -> None:
        """Another node was sent a message that this one has in hand, or had."""
        turn = self.ledger.arrived(time.monotonic(), task, again=False, session=self.uplink.session)
        if turn is Turn.RUN:
            self.ledger.given_up(task)  # it is not known here any more, nor is what it asked
        elif turn is Turn.AGAIN:
            self._offer(task, *self.ledger.answer(task))

    def taken(self, task: str, owner: NodeId, seconds: float) -> None:
        """Another node has a task."""
        self.ledger.taken(time.monotonic(), task, owner, seconds)

    async def stop(self) -> None:
        """End what is in hand; who waits for it is told."""
        works = list(self._works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await self.decoding.stop()

    # --- one message ---

    async def _take(self, message: Incoming, connection: Connection) -> None:
        self._held += len(message.payload)
        try:
            await self._taken(message, connection)
        finally:
            self._held -= len(message.payload)

    async def _taken(self, message: Incoming, connection: Connection) -> None:
        try:
            requests.check(self.topics, message)
        except MeshError as error:
            self.counts["unanswerable"] += 1
            log.warning("a task from the broker has no answer: %s (%s)", error, error.hint)
            connection.acknowledge(message)
            return
        now = time.monotonic()
        task = requests.task_id(message, b"" if message.correlation else secrets.token_bytes(16))
        turn = self.ledger.arrived(now, task, again=message.again, session=self.uplink.session)
        if turn is Turn.ELSEWHERE:
            owner = NodeId(self.ledger.owner(now, task))
            member = self.node.membership.member(owner)
            if member is not None and member.state == "alive":
                self.tell(Again(task, owner))
                self.counts["elsewhere"] += 1
                connection.acknowledge(message)
                return
            self.ledger.take_over(task)
            turn = Turn.RUN
        match turn:
            case Turn.RUN:
                await self._run(task, message)
            case Turn.WAIT:
                self.counts["repeated"] += 1
                if (end := self._ends.get(task)) is not None:
                    await end.wait()
            case Turn.AGAIN:
                self.counts["repeated"] += 1
                self._offer(task, *self.ledger.answer(task))
            case Turn.SILENT:
                self.counts["repeated"] += 1
        connection.acknowledge(message)

    async def _run(self, task: str, message: Incoming) -> None:
        """From the message to its answer, and the answer to the broker."""
        end = self._ends[task] = asyncio.Event()
        try:
            answer = await self._answer(task, message)
            address = (message.response, message.correlation)
            self.ledger.ended(time.monotonic(), task, (answer, *address), len(answer.payload))
            await self._publish(task, answer, *address)
        except asyncio.CancelledError:
            self.ledger.given_up(task)
            raise
        finally:
            del self._ends[task]
            end.set()

    async def _answer(self, task: str, message: Incoming) -> Answer:
        settings = self.node.settings.mqtt
        began = time.monotonic()
        self.counts["tasks"] += 1
        try:
            if len(self._works) > HELD_MAX or self._held > settings.tasks_max * settings.message_bytes_max:
                raise Refused(f"{len(self._works)} messages, {self._held} bytes, are in hand", retry_after_s=1.0)
            asked = requests.parse(
                self.topics,
                message,
                task,
                default_s=self.node.settings.routing.default_deadline_s,
                bytes_max=settings.message_bytes_max,
            )
            self.tell(Taken(task, asked.deadline_s))
            await self._in_time(asked, began, self._turns.acquire())
            try:
                answer = await self._infer(asked, began)
            finally:
                self._turns.release()
            if len(answer.payload) > settings.message_bytes_max:
                raise InvalidInput(
                    f"the answer has {len(answer.payload)} bytes; {settings.message_bytes_max} are sent",
                    hint="accept application/x-npy, or raise mqtt.message_bytes_max",
                )
        except MeshError as error:
            self.counts[error.code] += 1
            return requests.failure(task, error)
        except Exception:
            log.exception("task %s from the broker", task)
            self.counts["mesh_error"] += 1
            return requests.failure(task, MeshError("an error of the agent; its log has more"))
        self.counts["ok"] += 1
        return answer

    async def _infer(self, asked: Asked, began: float) -> Answer:
        submitting.check_belongs(self.node)
        manifest = self.node.catalog.resolve(asked.model)
        inputs: Mapping[str, Array]
        match asked.kind:
            case "npy":
                inputs = {requests.only_input(manifest.inputs, "npy"): requests.read_npy(asked.payload)}
            case "json":
                inputs = requests.read_json(asked.payload)
            case _:
                if asked.kind != "npz":
                    requests.only_input(manifest.inputs, asked.kind)
                rows = [{"name": it.name, "dtype": it.dtype, "shape": list(it.shape)} for it in manifest.inputs]
                inputs = await self._in_time(
                    asked, began, self.decoding.open(asked.kind, asked.payload, rows, manifest.metadata)
                )
        left_s = asked.deadline_s - (time.monotonic() - began)
        if left_s <= 0:
            raise DeadlineExceeded("the message expired before it was begun")
        submitted, outputs = await submitting.infer(
            self.node, asked.model, inputs, timeout_s=left_s, task=asked.task, trace=asked.trace, **asked.options
        )
        return requests.answer(asked, submitted, outputs, f"{manifest.name}:{manifest.version}")

    async def _in_time(self, asked: Asked, began: float, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(asked.deadline_s - (time.monotonic() - began)):
                return await work
        except TimeoutError as error:
            raise DeadlineExceeded("the message expired while it waited for others") from error

    # --- answers ---

    def _offer(self, task: str, answer: Answer, response: str, correlation: bytes) -> None:
        """Send a kept answer, unless it is on its way: then do not wait for the next try."""
        if (poke := self._pokes.get(task)) is not None:
            poke.set()
        elif task not in self._ends:
            self._start(self._publish(task, answer, response, correlation))

    async def _publish(self, task: str, answer: Answer, response: str, correlation: bytes) -> None:
        """Until the broker has it; where nobody listens, it is offered for a while beside."""
        breaks = 0
        while breaks < BREAKS_MAX:
            connection = await self.uplink.wait()
            try:
                heard = await self._send(connection, answer, response, correlation)
            except (aiomqtt.MqttError, ValueError) as error:
                log.info("the answer of task %s was not taken: %s", task, error)
                breaks += 1
                if self.uplink.connection is connection:
                    await asyncio.sleep(UNHEARD_PAUSE_S)  # it is about to be noticed
                continue
            if heard:
                self.ledger.settled(time.monotonic(), task, self.uplink.session)
            else:
                self._start(self._insist(task, answer, response, correlation))
            return
        self.counts["undelivered"] += 1
        log.warning("the answer of task %s, %d bytes, is not taken by the broker", task, len(answer.payload))

    async def _insist(self, task: str, answer: Answer, response: str, correlation: bytes) -> None:
        if task in self._pokes:
            return
        poke = self._pokes[task] = asyncio.Event()
        end, pause_s = time.monotonic() + UNHEARD_S, UNHEARD_PAUSE_S
        try:
            while (now := time.monotonic()) < end:
                try:
                    async with asyncio.timeout(min(pause_s, end - now)):
                        await poke.wait()
                except TimeoutError:
                    pause_s = min(2 * pause_s, UNHEARD_PAUSE_MAX_S)
                poke.clear()
                try:
                    if await self._send(await self.uplink.wait(), answer, response, correlation):
                        self.ledger.settled(time.monotonic(), task, self.uplink.session)
                        return
                except aiomqtt.MqttError as error:
                    log.debug("the answer of task %s: %s", task, error)
            self.counts["unheard"] += 1
        finally:
            del self._pokes[task]

    async def _send(self, connection: Connection, answer: Answer, response: str, correlation: bytes) -> bool:
        return await connection.send(
            response,
            answer.payload,
            content_type=answer.content_type,
            correlation=correlation,
            properties=answer.properties,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._works.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task from the broker: %r", error)

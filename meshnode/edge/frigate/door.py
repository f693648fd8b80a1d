"""Frigate's `zmq` detector protocol on this node: a frame in, 20 x 6 numbers out in time, or no answer at all.

Frigate takes a tensor of zeros for "nothing there", so none is ever made up: a frame that the mesh did not answer in
time gets no answer, and several of them an alarm (`meshnode events`, the log). Its plugin asks for the model when it
starts and after each frame without an answer, and one that is told "not loaded" at its start stays blind until somebody
restarts it. So the question means "may frames come?": it waits a while for the detector to be in memory somewhere, and
is denied only where frames could never be answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import numpy as np
from msgspec import structs

from meshnode import detections
from meshnode.catalog.manifest import Manifest
from meshnode.edge import auditing, submitting
from meshnode.edge.adding import AddModel, add
from meshnode.edge.frigate import asked
from meshnode.edge.frigate.alarm import Alarm, Blind, Seeing
from meshnode.edge.frigate.listening import Listening
from meshnode.edge.node import Node
from meshnode.errors import (
    ConfigError,
    DeadlineExceeded,
    ExecutionFailed,
    HomeError,
    InvalidInput,
    MeshError,
    ModelNotFound,
    ModelRefused,
    PermissionDenied,
    ProtocolError,
)
from meshnode.trust.files import write_atomic
from meshnode.wire import tensors

log = logging.getLogger(__name__)
OPEN_MAX = 32
"""Messages that are being answered; more are dropped…"""
EACH_MAX = 4
"""…as are more of one connection. A detector of Frigate has one, and waits for its answer."""
MODEL_WAIT_S = 8.0
"""A question for the model waits so long for it to be ready. Frigate waits 30 s, but restarts a detector after 10 s."""
WARM_S = 30.0
"""A detector may take so long to come into memory."""
WARM_EVERY_S = 1.0
QUIET_S = 60.0
"""Messages that nothing can be made of are logged so often."""
FOR_GOOD = (InvalidInput, ModelRefused, ExecutionFailed)
"""What changes only with the model, or with what Frigate sends."""


class FrigateDoor:
    """See the module's docstring."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._settings = node.settings.frigate
        self._listening = Listening(node.home, self._settings)
        self._open: dict[asyncio.Task[None], bytes] = {}
        self._serving: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._warmed_at = float("-inf")
        self._adding = asyncio.Lock()
        self._shape: tuple[int, ...] = ()
        self._quiet_until = float("-inf")
        self.alarm = Alarm()
        self.refused = 0
        """Messages that nothing could be made of."""

    @property
    def address(self) -> str:
        """Where it listens, with the port that was found."""
        return self._listening.address

    async def start(self) -> None:
        """Raises ConfigError, HomeError, ListenError."""
        if not self._settings.model:
            raise ConfigError("frigate.listen is set and frigate.model is not", hint="name a detector of the mesh")
        self._listening.open()
        log.info("Frigate is answered on %s with %s", self.address, self._settings.model)
        self._serving = asyncio.ensure_future(self._serve())

    async def stop(self) -> None:
        """What is being answered is given up."""
        tasks = [it for it in (self._serving, self._warming, *self._open) if it is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()

    # --- messages ---

    async def _serve(self) -> None:
        socket = self._listening.socket
        assert socket is not None
        while True:
            parts = await socket.recv_multipart(copy=False)
            sender = parts[0].bytes
            if len(self._open) >= OPEN_MAX or list(self._open.values()).count(sender) >= EACH_MAX:
                self._refuse("more messages at once than are answered")
                continue
            task = asyncio.ensure_future(self._answer(sender, [it.buffer for it in parts[1:]], time.monotonic()))
            self._open[task] = sender
            task.add_done_callback(self._open.pop)

    async def _answer(self, sender: bytes, parts: list[memoryview], came_at: float) -> None:
        """A request is an empty part, and what Frigate said."""
        try:
            if not parts or len(parts[0]):
                raise ProtocolError("not a request")
            said = asked.read(parts[1:])
        except ProtocolError as error:
            self._refuse(str(error))
            return
        try:
            answer = await self._answer_to(said, came_at)
        except Exception as error:
            log.exception("while a message of Frigate was answered")
            self._missed(ExecutionFailed(f"a fault in this door: {error!r}"))  # cameras are as blind by it
            return
        if answer is not None and (socket := self._listening.socket) is not None:
            await socket.send_multipart([sender, b"", *answer])

    async def _answer_to(self, said: asked.Asked, came_at: float) -> list[bytes] | None:
        match said:
            case asked.Frame(tensor):
                return await self._frame(tensor, came_at)
            case asked.ModelAsked():
                return await self._model_asked()
            case asked.ModelGiven():
                return await self._model_given(said)

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if (now := time.monotonic()) >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            log.warning("a message at the Frigate door was not taken: %s (%d so far)", why, self.refused)

    # --- frames ---

    async def _frame(self, tensor: np.ndarray[Any, Any], came_at: float) -> list[bytes] | None:
        """None when there is no answer in time."""
        until = came_at + self._settings.answer_s
        self._shape = tensor.shape
        try:
            table = await self._detect(tensor, until)
            if time.monotonic() > until:
                raise DeadlineExceeded(f"it took longer than {self._settings.answer_s:g} s")
        except MeshError as error:
            self._missed(error)
            self._warm()
            return None
        self._tell(self.alarm.answered())
        return asked.rows(detections.padded(table))

    async def _detect(self, tensor: np.ndarray[Any, Any], until: float) -> detections.Rows:
        it = self._settings
        manifest = self._manifest()
        left_s = max(0.001, until - time.monotonic())
        # The version may be another one than that of the manifest, while a new one is tried: inputs are alike.
        _, outputs = await submitting.infer(
            self._node, it.model, {manifest.inputs[0].name: tensor}, timeout_s=left_s, zone=it.zone or None
        )
        name = it.output or (next(iter(outputs)) if len(outputs) == 1 else "")
        if name not in outputs:
            raise InvalidInput(
                f"the outputs of {it.model} are {', '.join(outputs)}", hint="name the one to read as [frigate] output"
            )
        height, width = picture(tensor.shape)
        return detections.read(
            outputs[name],
            it.layout,
            height=height,
            width=width,
            units=it.units,
            threshold=it.threshold,
            overlap=it.overlap,
        )

    def _manifest(self) -> Manifest:
        manifest = self._node.catalog.resolve(self._settings.model)
        if len(manifest.inputs) != 1:
            raise InvalidInput(f"{manifest.name} has {len(manifest.inputs)} inputs; a detector for Frigate has one")
        return manifest

    def _missed(self, error: MeshError, *, hopeless: bool = False) -> None:
        why = f"{error} ({error.hint})" if error.hint else str(error)
        log.debug("a frame of Frigate has no answer: %s", why)
        self._tell(self.alarm.unanswered(f"{self._settings.model}: {why}", hopeless=hopeless))

    def _tell(self, news: Blind | Seeing | None) -> None:
        me, name, events = self._node.keeper.id, self._node.settings.name or "this node", self._node.events
        match news:
            case Blind(why):
                log.error("cameras are blind: Frigate gets no answers: %s", why)
                events.note("cameras blind", me, name, why)
                self._node.alarms["cameras"] = why
            case Seeing(unanswered):
                log.warning("cameras see again: Frigate gets answers; %d frames had none", unanswered)
                events.note("cameras see", me, name, f"{unanswered} frames had no answer")
                self._node.alarms.pop("cameras", None)

    # --- the model ---

    def _warm(self) -> asyncio.Task[None]:
        """Have the detector in memory somewhere: a frame's own time is too short for that, and would never cause it."""
        if self._warming is None or (self._warming.done() and time.monotonic() - self._warmed_at > WARM_EVERY_S):
            self._warmed_at = time.monotonic()
            self._warming = asyncio.ensure_future(self._run_once())
            self._warming.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._warming

    async def _run_once(self) -> None:
        """Raises MeshError."""
        manifest = self._manifest()
        wanted = manifest.inputs[0]
        seen = self._shape if len(self._shape) == len(wanted.shape) else (1, *(0,) * len(wanted.shape[1:]))
        shape = [dim if isinstance(dim, int) else like for dim, like in zip(wanted.shape, seen, strict=True)]
        if not all(shape) or wanted.dtype not in tensors.DTYPES:
            return  # of any size, and none was seen yet: the first frame without an answer says which
        blank = np.zeros(shape, tensors.DTYPES[wanted.dtype])
        zone = self._settings.zone or None
        await submitting.infer(self._node, self._settings.model, {wanted.name: blank}, timeout_s=WARM_S, zone=zone)

    async def _model_asked(self) -> list[bytes]:
        """See the module's docstring."""
        try:
            self._manifest()
            if not self.alarm.on:
                await asyncio.wait_for(asyncio.shield(self._warm()), MODEL_WAIT_S)
        except ModelNotFound as error:
            self._missed(error, hopeless=True)
            return asked.about_model(asked=True, there=False, loaded=False)
        except FOR_GOOD as error:
            self._missed(error, hopeless=True)
            return asked.about_model(asked=True, there=True, loaded=False)
        except (MeshError, TimeoutError) as error:
            late = DeadlineExceeded(f"not in memory after {MODEL_WAIT_S:g} s")
            self._missed(error if isinstance(error, MeshError) else late, hopeless=True)
        return asked.about_model(asked=True, there=True, loaded=True)

    async def _model_given(self, it: asked.ModelGiven) -> list[bytes]:
        """Only where the settings allow it, and never in the place of a model that the mesh has."""
        try:
            async with self._adding:
                await self._add(it)
            await asyncio.wait_for(asyncio.shield(self._warm()), MODEL_WAIT_S)
        except (MeshError, TimeoutError) as error:
            log.warning("the model %s that Frigate sent is not taken: %s", ascii(it.name), error)
            return asked.about_model(asked=False, there=False, loaded=False)
        return asked.about_model(asked=False, there=True, loaded=True)

    async def _add(self, it: asked.ModelGiven) -> None:
        limit, name = self._settings.upload_bytes_max, self._settings.model.partition(":")[0]
        if len(it.data) > limit:
            raise PermissionDenied(
                f"it has {len(it.data)} bytes, and [frigate] upload_bytes_max is {limit}",
                hint=f"`meshnode model add FILE --name {name}` on this machine brings it in",
            )
        try:
            self._node.catalog.resolve(name)
        except ModelNotFound:
            pass
        else:
            raise PermissionDenied(f"the mesh has a model {name}, and this door replaces none")
        path = self._node.home / "frigate" / "model.onnx"
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            await asyncio.to_thread(write_atomic, path, bytes(it.data))
        except OSError as error:
            raise HomeError(f"{path} cannot be written: {error}") from error
        outcome = "refused"
        args = AddModel(str(path), name, zone=self._settings.zone or None)
        try:
            await add(self._node, args)
            outcome = "ok"
        finally:
            auditing.asked(self._node.book, "model.add", {**structs.asdict(args), "by": "frigate"}, outcome)
            path.unlink(missing_ok=True)


def picture(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a frame: [1, height, width, channels] or [1, channels, height, width]."""
    if len(shape) != 4:
        raise InvalidInput(f"a frame of {list(shape)}; four dimensions were expected")
    return (shape[2], shape[3]) if shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4) else (shape[1], shape[2])

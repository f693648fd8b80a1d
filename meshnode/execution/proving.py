"""Finding out how a model may be run: asks the worker, tells the queue. See `proof` and `width` for the how."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from meshnode.errors import MeshError
from meshnode.execution import control
from meshnode.execution.control import Proved, Wide
from meshnode.execution.events import Proven, Widened
from meshnode.execution.job import ModelFile
from meshnode.execution.process import WorkerProcess
from meshnode.wire.messages import TensorSpec

log = logging.getLogger(__name__)

PROOF_S = 1.0
"""The proof that tasks of a model may run as one takes no longer; a model that needs more gains nothing by it."""
WIDTH_S = 2.0
"""Measuring what threads bring takes no longer; a model that needs more is run on one thread each."""


@dataclass(slots=True)
class Prover:
    """`busy` is how many proofs are under way: a death of the worker may be theirs."""

    process: WorkerProcess
    busy: int = 0

    async def judge(self, model: ModelFile, inputs: tuple[TensorSpec, ...]) -> Proven:
        """What the queue is to know; a model that fails in its proof runs task by task."""
        self.busy += 1
        try:
            why_not = await self.why_not(model, inputs)
        except MeshError as error:
            why_not = str(error)
        finally:
            self.busy -= 1
        log.info("model %s %s", model.digest[:12], f"runs task by task: {why_not}" if why_not else "runs tasks as one")
        return Proven(model.digest, not why_not)

    async def why_not(self, model: ModelFile, inputs: tuple[TensorSpec, ...]) -> str:
        """Why tasks with inputs like these may not run as one, or "". Raises what a run raises."""
        id = self.process.next_id()
        message = control.Prove(id, model.digest, str(model.path), inputs, PROOF_S)
        answer, _ = await self.process.ask(id, message)
        assert isinstance(answer, Proved)
        return answer.why_not

    async def widen(self, model: ModelFile, inputs: tuple[TensorSpec, ...]) -> tuple[Widened, int]:
        """Whether a run on all threads pays, and the memory that it takes to be ready for that."""
        self.busy += 1
        try:
            id = self.process.next_id()
            message = control.Widen(id, model.digest, str(model.path), inputs, WIDTH_S)
            answer, _ = await self.process.ask(id, message)
        except MeshError as error:
            log.info("model %s runs on one thread: %s", model.digest[:12], error)
            return Widened(model.digest, ok=False), 0
        finally:
            self.busy -= 1
        assert isinstance(answer, Wide)
        one, all_ = answer.narrow_s * 1000, answer.wide_s * 1000
        log.info("model %s takes %.1f ms on one thread and %.1f on all", model.digest[:12], one, all_)
        return Widened(model.digest, answer.kept, answer.wide_s), answer.memory_bytes if answer.kept else 0

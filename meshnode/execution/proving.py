"""Finding out whether tasks of a model may run as one: asks the worker, tells the queue. See `proof` for the how."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from meshnode.errors import MeshError
from meshnode.execution import control
from meshnode.execution.control import Proved
from meshnode.execution.events import Proven
from meshnode.execution.job import ModelFile
from meshnode.execution.process import WorkerProcess
from meshnode.wire.messages import TensorSpec

log = logging.getLogger(__name__)

PROOF_S = 1.0
"""The proof that tasks of a model may run as one takes no longer; a model that needs more gains nothing by it."""


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

"""What a run takes on one thread and on all of them: measured in the worker, on inputs of the same shapes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from meshnode.errors import InvalidInput, MeshError
from meshnode.execution.proof import random_like
from meshnode.execution.session import Session
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import STRING

SEED = 11
TRIES = 4
"""Of each, in turn; the first warms up, and the quickest counts, which others disturbed least."""


def seconds(sessions: Sequence[Session], inputs: Sequence[TensorSpec], limit_s: float) -> list[float]:
    """Of one run of each. Raises what a run raises, InvalidInput where there is nothing to try."""
    if any(spec.dtype == STRING for spec in inputs):
        raise InvalidInput("there are no random texts to try")
    rng = np.random.default_rng(SEED)
    feed = {spec.name: random_like(rng, spec.dtype, spec.shape, positive=True) for spec in inputs}
    options = ort.RunOptions()
    ended = threading.Timer(limit_s, setattr, (options, "terminate", True))
    ended.start()
    try:
        taken: list[list[float]] = [[] for _ in sessions]
        for _ in range(TRIES):
            for session, times in zip(sessions, taken, strict=True):
                began = time.perf_counter()
                session.run(feed, (), options)
                times.append(time.perf_counter() - began)
        return [min(times[1:]) for times in taken]
    except MeshError as error:
        raise InvalidInput(f"random inputs: {error}") from error
    finally:
        ended.cancel()

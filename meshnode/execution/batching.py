"""Tasks that run as one: which may, their tensors put one after the other, and the answer cut apart again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from meshnode.errors import ProtocolError
from meshnode.execution.events import Offer
from meshnode.execution.job import Job
from meshnode.wire import tensors
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import ALIGN, STRING, Buffer

_PAD = bytes(ALIGN)


def offer_of(job: Job, *, keyed: bool) -> Offer:
    """The job as the queue sees it; only with a key can it run together with others."""
    return Offer(
        job.task,
        job.model.digest,
        job.deadline,
        job.priority,
        alone=job.deaths > 0,
        foreign=job.foreign,
        key=key_of(job) if keyed and not job.deaths else None,
        nbytes=len(job.body),
        max_wait_s=job.max_wait_s,
    )


def key_of(job: Job) -> Hashable | None:
    """What tasks must have in common to run as one: the model, the outputs asked for, the inputs but for their rows.

    None for a task that cannot: without a leading dimension that all its inputs share, with strings, one that must not
    run twice (a batch that fails is run again), or one whose description is wrong, which it is to be told alone.
    """
    if job.once or not job.inputs:
        return None
    rows = job.inputs[0].shape[:1]
    if not rows or rows[0] < 1:
        return None
    for spec in job.inputs:
        if spec.shape[:1] != rows or spec.dtype == STRING:
            return None
    try:
        if tensors.layout(job.inputs)[-1][1] > len(job.body):
            return None
    except ProtocolError:
        return None
    return job.model.digest, tuple([(spec.name, spec.dtype, spec.shape[1:]) for spec in job.inputs]), job.outputs


def rows_of(jobs: Sequence[Job]) -> tuple[int, ...]:
    """The leading dimension of each."""
    return tuple([job.inputs[0].shape[0] for job in jobs])


def stack(jobs: Sequence[Job], rows: Sequence[int]) -> tuple[tuple[TensorSpec, ...], list[Buffer]]:
    """The inputs of jobs with one key as those of one job: specs, and the parts of the body."""
    places = [tensors.layout(job.inputs) for job in jobs]
    total = sum(rows)
    specs: list[TensorSpec] = []
    parts: list[Buffer] = []
    for i, first in enumerate(jobs[0].inputs):
        pieces = [job.body[place[i][0] : place[i][1]] for job, place in zip(jobs, places, strict=True)]
        nbytes = sum(map(len, pieces))
        specs.append(TensorSpec(first.name, first.dtype, (total, *first.shape[1:]), nbytes))
        parts += pieces
        parts.append(_PAD[: -nbytes % ALIGN])
    return tuple(specs), parts


def cut(specs: Sequence[TensorSpec], body: Buffer, rows: Sequence[int]) -> list[tuple[tuple[TensorSpec, ...], bytes]]:
    """The outputs of a batch, each job's own. Raises ProtocolError when they do not have the rows that went in."""
    total = sum(rows)
    view = memoryview(body).cast("B")
    places = tensors.layout(specs)
    for spec, (_, end) in zip(specs, places, strict=True):
        if spec.shape[:1] != (total,) or spec.dtype == STRING or end > len(view):
            raise ProtocolError(f"output {spec.name!r} of a batch of {total} rows has shape {list(spec.shape)}")
    answers = []
    before = 0
    for count in rows:
        own: list[TensorSpec] = []
        parts: list[Buffer] = []
        for spec, (begin, _) in zip(specs, places, strict=True):
            row_bytes = spec.nbytes // total
            nbytes = count * row_bytes
            if parts and (padding := -own[-1].nbytes % ALIGN):
                parts.append(_PAD[:padding])
            own.append(TensorSpec(spec.name, spec.dtype, (count, *spec.shape[1:]), nbytes))
            parts.append(view[begin + before * row_bytes : begin + before * row_bytes + nbytes])
        answers.append((tuple(own), b"".join(parts)))
        before += count
    return answers

"""A task as routing sees it."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.catalog.manifest import Manifest
from meshnode.wire.messages import NodeId, Objective, Plan, Priority, Submit

EXACT_PROVIDER = "CPUExecutionProvider"
"""Where results are the same on every machine of one kind."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for, and within which bounds. `provider` is the only one that will do; empty for any.

    Of a pipeline: `stage` is which one, from 0; `onward` says that whoever runs it submits others after it; `on_behalf`
    is whose task it is, where this node goes on with that of another.
    """

    task: str
    manifest: Manifest
    input_bytes: int
    priority: Priority
    zone: str | None
    node: str | None
    provider: str = ""
    objective: Objective = "tail"
    stage: int = 0
    onward: bool = False
    on_behalf: NodeId | None = None

    @classmethod
    def of(cls, request: Submit | Plan, manifest: Manifest) -> Wanted:
        """Of a client's request."""
        return cls(
            task=request.task if isinstance(request, Submit) else "0" * 32,
            manifest=manifest,
            input_bytes=sum(spec.nbytes for spec in request.inputs),
            priority=request.priority,
            zone=request.zone,
            node=request.node,
            provider=EXACT_PROVIDER if request.exact else "",
            objective=request.objective,
            onward=isinstance(request, Submit) and bool(request.then),
        )

"""A task as routing sees it."""

from __future__ import annotations

from msgspec import Struct

from meshnode.catalog.manifest import Manifest
from meshnode.wire.messages import NodeId, Objective, Plan, Priority, Submit

EXACT_PROVIDER = "CPUExecutionProvider"
"""Where results are the same on every machine of one kind."""


class Wanted(Struct, frozen=True):
    """What is asked for, and within which bounds. `provider` is the only one that will do; empty for any.

    Of a pipeline: `stage` is which one, from 0; `onward` says that whoever runs it submits others after it; `on_behalf`
    is whose task it is, where this node goes on with that of another; `beyond` are the zones that the models of the
    stages after it are bound to, whose results come back the same way.
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
    beyond: tuple[str, ...] = ()

    @property
    def zones(self) -> tuple[str, ...]:
        """What the task and its model are bound to: it runs inside all of them."""
        return self.manifest.bound if self.zone is None else (self.zone, *self.manifest.bound)

    @property
    def way(self) -> tuple[str, ...]:
        """The zones that no member between here and whoever runs it may lie outside of."""
        return (*self.zones, *self.beyond) if self.beyond else self.zones

    @classmethod
    def of(
        cls, request: Submit | Plan, manifest: Manifest, default_zone: str = "", beyond: tuple[str, ...] = ()
    ) -> Wanted:
        """Of a client's request; `default_zone` is for one that names none."""
        return cls(
            task=request.task if isinstance(request, Submit) else "0" * 32,
            manifest=manifest,
            input_bytes=sum(spec.nbytes for spec in request.inputs),
            priority=request.priority,
            zone=request.zone if request.zone is not None else default_zone or None,
            node=request.node,
            provider=EXACT_PROVIDER if request.exact else "",
            objective=request.objective,
            onward=isinstance(request, Submit) and bool(request.then),
            beyond=beyond,
        )

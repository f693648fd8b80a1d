"""What the policy says about tasks: asked where they are submitted, and again where they would run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnode.catalog.manifest import Manifest
from meshnode.trust.policy import Quota
from meshnode.wire.messages import NodeId


@dataclass(frozen=True, slots=True)
class Permits:
    """Without a policy all is allowed.

    Attributes:
        own: raises PermissionDenied when this node's clients may not submit a task of that model.
        submitter: raises PermissionDenied when a node may not submit here.
        model: raises PermissionDenied when a model may not run here.
        default_zone: for tasks of this node's clients that name none; "" for anywhere.
        mesh_zone: for tasks of anybody that name none.
        quota: what one submitter gets of this node.
    """

    own: Callable[[Manifest], None] = lambda _: None
    submitter: Callable[[NodeId], None] = lambda _: None
    model: Callable[[Manifest], None] = lambda _: None
    default_zone: Callable[[], str] = str
    mesh_zone: Callable[[], str] = str
    quota: Callable[[], Quota] = Quota

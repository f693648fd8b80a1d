"""What the protocol can be asked, whichever way it is asked: the one thing behind its doors of HTTP and gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshnode.catalog.manifest import Manifest
from meshnode.edge import auditing, models
from meshnode.edge.flagging import unflagged
from meshnode.edge.node import Node
from meshnode.edge.openinference import describing, tensors
from meshnode.edge.openinference.cold import Cold, NotYet
from meshnode.edge.openinference.parameters import Wishes
from meshnode.edge.openinference.statistics import Statistics
from meshnode.edge.openinference.tensors import Piece
from meshnode.edge.submitting import check_belongs, infer_bytes
from meshnode.errors import DeadlineExceeded, InvalidInput, MeshError, ModelNotFound, NoCapacity
from meshnode.wire.messages import Digest, Submitted

CONFIGURED = ("config", "file:")
"""What Triton lets a client give along with a model to be loaded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a task: which model it was, what it brought, and what to say of it."""

    model: str
    version: int
    outputs: Sequence[Piece]
    submitted: Submitted


class Inference:
    """See the module's docstring."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._cold = Cold(node)
        self._statistics = Statistics()
        self._unloaded: set[Digest] = set()
        """What a client took out of memory, and nobody asked for since: the protocol calls it unavailable."""

    async def stop(self) -> None:
        """End what goes on beside requests."""
        await self._cold.stop()

    # --- running ---

    async def infer(
        self,
        model: str,
        version: str,
        inputs: Sequence[Piece],
        outputs: tuple[str, ...],
        wishes: Wishes,
        *,
        limit_s: float | None = None,
        trace: str = "",
    ) -> Answer:
        """One task; `limit_s` is what its client has, `trace` the context that it gave. It ends when its caller does.

        Raises MeshError.
        """
        began = time.monotonic()
        manifest = self.find(model, version)
        body = tensors.joined(inputs)
        given = [it for it in (wishes.timeout_s, limit_s) if it is not None]
        timeout_s = min(given, default=self._node.settings.http.timeout_s)
        name = f"{model}:{version}" if version else model
        place = wishes.node, wishes.zone
        try:
            await self._cold.check(manifest, timeout_s, *place)
            answer, brought = await infer_bytes(
                self._node,
                name,
                [spec for spec, _ in inputs],
                body,
                timeout_s=timeout_s,
                outputs=outputs,
                priority=wishes.priority,
                zone=wishes.zone,
                node=wishes.node,
                trace=trace,
            )
        except (DeadlineExceeded, NoCapacity) as error:
            self._statistics.failed((manifest.name, manifest.version), time.monotonic() - began)
            if isinstance(error, NotYet):
                raise
            raise await self._cold.instead(error, manifest, *place) from error
        except MeshError:
            self._statistics.failed((manifest.name, manifest.version), time.monotonic() - began)
            raise
        if answer.model != manifest.digest:
            manifest = self._node.catalog.of_digest(Digest(answer.model))  # a version that is on trial
        self._cold.ran(manifest.digest)
        self._unloaded.discard(manifest.digest)
        self._statistics.answered(
            (manifest.name, manifest.version),
            time.time_ns() // 1_000_000,
            time.monotonic() - began,
            answer.queue_s,
            answer.run_s,
            answer.batch,
        )
        return Answer(manifest.name, manifest.version, tensors.split(answer.outputs, brought), answer)

    def told(self, answer: Answer) -> dict[str, Any]:
        """Who ran a task, where the settings allow it to be said."""
        if not self._node.settings.http.tell_nodes:
            return {}
        return {"meshnode_node": answer.submitted.name, "meshnode_attempts": max(1, len(answer.submitted.attempts))}

    # --- looking ---

    def find(self, model: str, version: str = "") -> Manifest:
        """Raises ModelNotFound."""
        if version and not (version.isascii() and version.isdigit()):
            raise ModelNotFound(f"no version {version[:40]!r} of {model[:128]!r}: versions are numbers")
        return self._node.catalog.resolve(f"{model}:{int(version)}" if version else model)

    def ready(self) -> bool:
        """Whether some node would run something."""
        try:
            check_belongs(self._node)
        except MeshError:
            return False
        return bool(self._node.execution.providers) or any(
            it.usable for it in self._node.membership.view() if it.id != self._node.keeper.id
        )

    def why_not(self, manifest: Manifest) -> str:
        """Why a model is not ready; empty when it is."""
        digest = manifest.digest
        try:
            check_belongs(self._node)
            unflagged(self._node, manifest)
        except MeshError as error:
            return str(error)
        if self._cold.warming(digest):
            return "it is on its way into memory"
        if digest in self._unloaded:
            return "unloaded"
        if self._node.store.has(digest) or any(
            held.digest == digest
            for member in self._node.membership.view()
            if member.usable and member.advert is not None
            for held in member.advert.models
        ):
            return ""
        return "no node that is up has it"

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        """Raises ModelNotFound."""
        manifest = self.find(model, version)
        return describing.metadata(manifest, [it.version for it in self._versions(manifest.name)])

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """All models and versions; only those that are ready, when asked so."""
        rows = []
        for manifest in self._node.catalog.manifests():
            why = self.why_not(manifest)
            state = "READY" if not why else "LOADING" if self._cold.warming(manifest.digest) else "UNAVAILABLE"
            if not ready or not why:
                version = str(manifest.version)
                rows.append({"name": manifest.name, "version": version, "state": state, "reason": why})
        return rows

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Of one version, of all of a name, or of all. Raises ModelNotFound."""
        if not model:
            found = list(self._node.catalog.manifests())
        else:
            manifest = self.find(model, version)
            found = [manifest] if version else self._versions(manifest.name)
        return {"model_stats": [self._statistics.document((it.name, it.version)) for it in found]}

    def _versions(self, name: str) -> list[Manifest]:
        return [it for it in self._node.catalog.manifests() if it.name == name]

    # --- in and out of memory ---

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Have a model in memory, on the node that `parameters` name, or where the mesh would run it.

        Raises MeshError.
        """
        if any(key.startswith(CONFIGURED) for key in parameters):
            raise InvalidInput(
                "a model and its configuration do not come by this protocol", hint="`meshnode model add FILE` adds one"
            )
        node, manifest = _node(parameters), self.find(model)
        with auditing.noted(self._node.book, "model.load", {"model": model, "node": node}):
            await self._cold.load(unflagged(self._node, manifest), node)
        self._unloaded.discard(manifest.digest)

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Take all versions of a model out of the memory of every node, or of the one that is named.

        Raises MeshError.
        """
        wanted, newest = _node(parameters), self.find(model)
        found = self._versions(newest.name) if model.lower() == newest.name else [newest]
        members = [
            (manifest, member)
            for manifest in found
            for member in self._node.membership.view()
            if (wanted is None and self._holds(member, manifest.digest)) or wanted in (member.id, member.name)
        ]
        if wanted is not None and not members:
            raise InvalidInput(f"no node {wanted!r} in this mesh", hint="`meshnode status` lists the nodes")
        with auditing.noted(self._node.book, "model.unload", {"model": model, "node": wanted}):
            await asyncio.gather(*(models.unload(self._node, *it) for it in members))
        self._unloaded.update(it.digest for it in found)

    def _holds(self, member: Any, digest: Digest) -> bool:
        if member.id == self._node.keeper.id:
            return True
        return member.usable and member.advert is not None and any(it.digest == digest for it in member.advert.models)


def _node(parameters: Mapping[str, Any]) -> str | None:
    node = parameters.get("node")
    if node is None or (isinstance(node, str) and 0 < len(node) <= 128):
        return node
    raise InvalidInput(f"node: {node!r:.100} is no name")


def of(node: Node) -> Inference:
    """The one of a node, made when it is not there."""
    if node.inference is None:
        node.inference = Inference(node)
    return node.inference

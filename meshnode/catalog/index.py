"""The models of the mesh by name: the manifests that the trust set holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import structs

from meshnode.catalog.manifest import Manifest, from_map, resolve
from meshnode.errors import MeshError, ModelNotFound
from meshnode.wire.messages import Digest, NodeId

log = logging.getLogger(__name__)


class ModelStatement(Protocol):
    """What is needed of a `model` statement."""

    @property
    def id(self) -> bytes:
        """Its id."""
        ...

    @property
    def body(self) -> Mapping[str, Any]:
        """The manifest's map."""
        ...


@dataclass(slots=True)
class _Steered:
    """The version that a name means, and the one that a share of the tasks gets to try it."""

    version: int
    trial: int | None
    share_permille: int
    owed: int = 0


@dataclass(slots=True)
class Catalog:
    """Made anew whenever the trust set changed."""

    _manifests: tuple[Manifest, ...] = ()
    _by_digest: dict[Digest, Manifest] = field(default_factory=dict)
    _by_name: dict[str, Manifest] = field(default_factory=dict)
    _by_version: dict[tuple[str, int], Manifest] = field(default_factory=dict)
    _statements: dict[tuple[str, int, Digest], bytes] = field(default_factory=dict)
    _steered: dict[str, _Steered] = field(default_factory=dict)

    def refresh(self, statements: Iterable[tuple[ModelStatement, NodeId]]) -> None:
        """Read the statements that hold, oldest first, with their publishers.

        Of two with one name and version the older has the name; the other is still found by its digest. Of two with
        one digest the older says how the files travel, so that all nodes cut them into the same pieces.
        """
        read: list[tuple[bytes, Manifest]] = []
        bounds: dict[Digest, set[str]] = {}
        for statement, publisher in statements:
            try:
                manifest = from_map(statement.body, publisher)
            except MeshError as error:
                log.warning("a model of node %s is left out: %s", publisher[:8], error)
                continue
            read.append((statement.id, manifest))
            bounds.setdefault(manifest.digest, set()).update(manifest.bound)
        found: dict[tuple[str, int], Manifest] = {}
        self._statements = {}
        self._by_digest = {}
        for statement_id, one in read:
            bound = tuple(sorted(bounds[one.digest]))
            manifest = one if one.bound == bound else structs.replace(one, bound=bound)
            self._by_digest.setdefault(manifest.digest, manifest)
            key = (manifest.name, manifest.version)
            found.setdefault(key, manifest)
            self._statements.setdefault((*key, manifest.digest), statement_id)
        self._by_version = found
        self._manifests = tuple(found[key] for key in sorted(found))
        self._by_name = {manifest.name: manifest for manifest in self._manifests}  # sorted: the newest version stays

    def manifests(self) -> tuple[Manifest, ...]:
        """All models, by name and version."""
        return self._manifests

    def resolve(self, wanted: str) -> Manifest:
        """As `newest`, but a name alone means the version that was steered, where one was. Raises ModelNotFound."""
        steered = self._steered.get(wanted) or self._steered.get(wanted.lower())
        return (steered and self.find(wanted.lower(), steered.version)) or self.newest(wanted)

    def newest(self, wanted: str) -> Manifest:
        """`name`, `name:version` or a digest, in any case: names are kept in lower case. Raises ModelNotFound."""
        named = self._by_name.get(wanted) or self._by_digest.get(Digest(wanted))
        return named or resolve(self._manifests, wanted.lower())

    def steer(self, name: str, version: int, trial: int | None = None, share_permille: int = 0) -> None:
        """Tasks of `name` get this version, not the newest; and a share of them, where there is one, the trial's."""
        was = self._steered.get(name)
        self._steered[name] = _Steered(version, trial, share_permille, was.owed if was is not None else 0)

    def unsteer(self, names: Iterable[str]) -> None:
        """These names mean their newest version again."""
        for name in names:
            self._steered.pop(name, None)

    def steered(self) -> frozenset[str]:
        """The names that mean a certain version."""
        return frozenset(self._steered)

    def route(self, wanted: str) -> Manifest:
        """What a task that names `wanted` is to run: as `resolve`, but a share of them gets the version on trial."""
        steered = self._steered.get(wanted)
        if steered is not None and steered.trial is not None:
            # Every so-manieth: as exact as a share can be, and nothing to seed.
            steered.owed += steered.share_permille
            if steered.owed >= 1000:
                steered.owed -= 1000
                return self.find(wanted, steered.trial) or self.resolve(wanted)
        return self.resolve(wanted)

    def of_digest(self, digest: Digest) -> Manifest:
        """Raises ModelNotFound."""
        manifest = self._by_digest.get(digest)
        if manifest is None:
            raise ModelNotFound(f"no model {digest[:12]} in this mesh, as this node knows it")
        return manifest

    def find(self, name: str, version: int) -> Manifest | None:
        """The model of that name and version."""
        return self._by_version.get((name, version))

    def bound(self, digest: Digest) -> tuple[str, ...]:
        """The zones that a model is bound to."""
        manifest = self._by_digest.get(digest)
        return manifest.bound if manifest is not None else ()

    def knows(self, digest: Digest) -> bool:
        """Whether any model has these files."""
        return digest in self._by_digest

    def next_version(self, name: str, digest: Digest) -> int:
        """The version that these files have under this name, or would get."""
        mine = [m for m in self._manifests if m.name == name]
        same = [m.version for m in mine if m.digest == digest]
        return same[-1] if same else max((m.version for m in mine), default=0) + 1

    def statement_of(self, manifest: Manifest) -> bytes:
        """The id of the statement that made a model known."""
        return self._statements[manifest.name, manifest.version, manifest.digest]

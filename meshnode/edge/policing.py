"""The policy at the doors: the mesh's document and this node's own file, asked before anything is done.

The file is looked at again when it changed. One that cannot be read keeps the agent from starting; later it is said,
and what held before goes on.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from meshnode.catalog.manifest import Manifest, from_map
from meshnode.edge.node import Node
from meshnode.edge.publishing import signer
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import ConfigError, InvalidInput, PermissionDenied, ProtocolError
from meshnode.tasks.permits import Permits
from meshnode.trust import policy, publishing
from meshnode.trust.keeper import Keeper
from meshnode.trust.policy import Model, Policy, Quota, Rules, Who
from meshnode.wire.messages import Digest, NodeId

log = logging.getLogger(__name__)
FILE = "policy.toml"
LOOK_S = 1.0
HINT = "`meshnode policy show` prints the rules and where each comes from"


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`text` is a policy in TOML."""

    text: str


class Policing:
    """What is allowed here; made anew when statements came or the file changed. Raises ConfigError for a bad file."""

    def __init__(self, home: Path, keeper: Keeper) -> None:
        self._file = home / FILE
        self._keeper = keeper
        self._seen: object = None
        self._look_at = 0.0
        self._signers: dict[Digest, set[str]] = {}
        self.mesh = self.local = Policy()
        self._rules = Rules()
        try:
            self._look()
        except InvalidInput as error:
            raise ConfigError(f"{self._file}: {error}", hint=error.hint) from error
        self.refresh()

    def refresh(self) -> None:
        """Statements may be others."""
        self.mesh = policy.holding(self._keeper.statements.policies())
        self._rules = policy.stricter(self.mesh, self.local)
        self._mesh_rules = policy.stricter(self.mesh, Policy())
        keys = publishing.publishers(self._keeper.statements.publishers())
        self._signers = {}
        for statement in self._keeper.statements.models() if keys else ():
            if "mark" in statement.body:
                with suppress(ProtocolError):
                    manifest = from_map(statement.body, self._keeper.statements.publisher(statement))
                    if who := signer(keys, manifest):
                        self._signers.setdefault(manifest.digest, set()).add(who)

    @property
    def rules(self) -> Rules:
        """What holds now."""
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_S
            try:
                if self._look():
                    self.refresh()
            except InvalidInput as error:
                log.error("%s is not followed, what it said before is: %s", self._file, error)
        return self._rules

    def _look(self) -> bool:
        try:
            stat = self._file.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return False
            text = self._file.read_text("utf-8")
        except FileNotFoundError:
            seen, text = (0, 0), ""
            if self._seen == seen:
                return False
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"it cannot be read: {error}") from error
        self._seen = seen
        self.local = policy.read(text)
        return True

    # --- asked before something is done ---

    def check_submitter(self, who: NodeId) -> None:
        """Raises PermissionDenied when a node may not submit."""
        rules = self.rules
        if rules.submit and (rule := rules.refuses_submitter(self._node(who))):
            raise PermissionDenied(f"node {self._called(who)} may not submit tasks here: {rule}", hint=HINT)

    def check_publisher(self, who: NodeId) -> None:
        """Raises PermissionDenied when a node may not publish."""
        rules = self.rules
        if rules.publish and (rule := rules.refuses_publisher(self._node(who))):
            raise PermissionDenied(f"node {self._called(who)} may not publish models here: {rule}", hint=HINT)

    def check_model(self, manifest: Manifest) -> None:
        """Raises PermissionDenied when a model may not run."""
        rules = self.rules
        if rules.models and (rule := rules.refuses_model(self.model(manifest))):
            raise PermissionDenied(f"model {manifest.name}:{manifest.version} may not run here: {rule}", hint=HINT)

    def permits(self) -> Permits:
        """For those who deal with tasks."""

        def own(manifest: Manifest) -> None:
            self.check_submitter(self._keeper.id)
            rules = self._mesh_rules
            if rules.models and (rule := rules.refuses_model(self.model(manifest))):
                raise PermissionDenied(f"model {manifest.name}:{manifest.version} may not run: {rule}", hint=HINT)

        return Permits(
            own=own,
            submitter=self.check_submitter,
            model=self.check_model,
            default_zone=lambda: self.rules.default_zone,
            mesh_zone=lambda: self.rules.mesh_zone,
            quota=lambda: self.rules.quota,
        )

    def publishes(self, who: NodeId) -> bool:
        """Whether what a node published counts here."""
        return not self.rules.publish or not self.rules.refuses_publisher(self._node(who))

    def model(self, manifest: Manifest) -> Model:
        """A model as rules see it."""
        publisher = NodeId(manifest.publisher)
        signers = frozenset(self._signers.get(manifest.digest, ()))
        return Model(manifest.digest, manifest.size, publisher, self._called(publisher), signers)

    def _node(self, who: NodeId) -> policy.Node:
        grant = self._keeper.statements.grant(who, time.time())
        if grant is None:
            return policy.Node(who, "", frozenset(), "")
        return policy.Node(who, grant.name, grant.roles, grant.zones[0] if grant.zones else "")

    def _called(self, who: NodeId) -> str:
        grant = self._keeper.statements.grant(who)
        return who[:8] if grant is None else grant.name


# --- documents ---


def _lines(rules: Rules) -> list[JSON]:
    rows = []
    for what, conditions in (("submit", rules.submit), ("publish", rules.publish), ("models", rules.models)):
        for source, it in conditions:
            given = {name: value for name in it.__struct_fields__ if (value := getattr(it, name)) not in ((), 0, "any")}
            rows += [{"rule": f"{what}.{name}", "value": value, "from": source} for name, value in given.items()]
    return rows


def _document(policing: Policing) -> JSON:
    rules, mesh, local = policing.rules, policing.mesh, policing.local
    rows = _lines(rules)
    ours, theirs = "policy.toml of this node", f"the mesh's policy, version {mesh.version}"
    for name in Quota.__struct_fields__:
        if value := getattr(rules.quota, name):
            mine = getattr(local.quota, name) == value and getattr(mesh.quota, name) != value
            rows.append({"rule": f"quota.{name}", "value": value, "from": ours if mine else theirs})
    if rules.default_zone:
        mine = rules.default_zone != mesh.default_zone
        rows.append({"rule": "default_zone", "value": rules.default_zone, "from": ours if mine else theirs})
    return {"version": mesh.version, "local": local != Policy(), "rules": rows}


async def _show(node: Node, _: Nothing) -> JSON:
    return _document(node.policing)


async def _check(node: Node, args: Text) -> JSON:
    """What it would refuse, if it were the mesh's: by member and by model."""
    rules = policy.stricter(policy.read(args.text, node.policing.mesh.version + 1), node.policing.local)
    members, now = [], time.time()
    for grant in node.keeper.statements.members():
        if node.keeper.statements.grant(grant.node, now) is None:
            continue
        who = policy.Node(grant.node, grant.name, grant.roles, grant.zones[0] if grant.zones else "")
        submit = (
            "its grant lacks the role `submitter`" if "submitter" not in grant.roles else rules.refuses_submitter(who)
        )
        publish = (
            "its grant lacks the role `publisher`" if "publisher" not in grant.roles else rules.refuses_publisher(who)
        )
        members.append({"id": grant.node, "name": grant.name, "submit": submit or None, "publish": publish or None})
    models = [
        {"name": m.name, "version": m.version, "refused": rules.refuses_model(node.policing.model(m)) or None}
        for m in node.catalog.manifests()
    ]
    return {"members": members, "models": models}


async def _set(node: Node, args: Text) -> JSON:
    new = policy.read(args.text, node.policing.mesh.version + 1)
    if new.submit != Who() and not [it for it in (await _check(node, args))["members"] if it["submit"] is None]:
        raise InvalidInput("no member could submit anything any more", hint="see `meshnode policy check FILE`")
    statement = node.keeper.say("policy", new.to_map(), admin="sign the policy")
    node.trust.publish([statement.data])
    node.trust.learnt([statement])
    return _document(node.policing)


VERBS: Verbs = {
    "policy.show": (Nothing, _show),
    "policy.check": (Text, _check),
    "policy.set": (Text, _set),
}

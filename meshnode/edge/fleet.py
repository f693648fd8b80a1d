"""Blueprints at the door: what would change, what is said, how far it is, and what a peer hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import structs

from meshnode.edge import zoning
from meshnode.edge.node import Node
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import InvalidInput, MeshError
from meshnode.execution.job import ModelFile
from meshnode.fleet.blueprint import Blueprint, Held, Trial, Want, holding, read
from meshnode.fleet.duties import Duties
from meshnode.fleet.placement import Site, seats, trial_seats, unfit
from meshnode.fleet.steward import Steward
from meshnode.links.link import Reply
from meshnode.membership.view import Member
from meshnode.wire.fleet import FleetAsk, FleetRow, FleetRows
from meshnode.wire.messages import Digest, NodeId

ASK_S = 3.0
REASONS_MAX = 20


class Apply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`text` is the blueprint in TOML."""

    text: str
    dry_run: bool = False


class Name(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a blueprint."""

    name: str


# --- what is there ---


def held(node: Node) -> dict[str, Held]:
    """The blueprints that hold, removed ones too; read anew when the trust set is another."""
    statements = node.keeper.statements
    if node.fleet.read[0] != statements.root_hash:
        node.fleet.read = statements.root_hash, holding(statements.blueprints())
    return node.fleet.read[1]


def live(node: Node) -> list[Blueprint]:
    """Those that want something."""
    return [it.now for it in held(node).values() if it.now.wants]


def sites(node: Node) -> list[Site]:
    """The nodes as placement sees them."""
    return [_site(node, member) for member in node.membership.view()]


def _site(node: Node, member: Member) -> Site:
    advert, is_self = member.advert, member.id == node.keeper.id
    grant = node.keeper.statements.grant(member.id, time.time())
    if advert is None:
        return Site(member.id, member.name, alive=False)
    holds = {Digest(model.digest): model.loaded for model in advert.models}
    declined = frozenset(Digest(digest) for digest in advert.declined)
    if is_self:  # fresher than what was said last
        loaded = {model.digest for model in node.execution.loaded()}
        holds = {digest: digest in loaded for digest in node.store.digests()}
        declined = frozenset(node.fleet.duties.declined)
    return Site(
        member.id,
        member.name,
        alive=is_self or member.state in ("alive", "suspect"),
        works=grant is not None and "worker" in grant.roles and bool(advert.providers),
        zone=zoning.granted(node, member.id),
        barred=frozenset(m.digest for m in node.catalog.manifests() if not zoning.may_have(node, member.id, m.digest)),
        labels=advert.labels,
        providers=advert.providers,
        memory_bytes=advert.memory_total,
        draining=advert.draining,
        holds=holds,
        declined=declined,
    )


def steer(node: Node) -> None:
    """Have names mean what the blueprints say."""
    wants = {want.model: want for blueprint in live(node) for want in blueprint.wants}
    node.catalog.unsteer(node.catalog.steered() - wants.keys())
    for want in wants.values():
        trial, canary = want.trial, want.canary
        share = canary.share_permille if canary is not None else 0
        node.catalog.steer(want.model, want.version, None if trial is None else trial.version, share)


def steward(self_id: NodeId, node: Callable[[], Node], soon: Callable[[], None]) -> Steward:
    """What does this node's duties; `soon` tells others what it has. The node is made after it."""

    async def provide(digest: Digest, loaded: bool) -> None:
        it = node()
        manifest = it.catalog.of_digest(digest)
        if loaded:
            it.policing.check_model(manifest)
        path = await it.fetcher.ensure(manifest)
        if loaded:
            await it.execution.load(ModelFile(digest, path))
        soon()

    def release(digest: Digest) -> None:
        node().execution.unload(digest)
        soon()

    return Steward(Duties(self_id), lambda: live(node()), lambda: sites(node()), provide, release, soon)


# --- what is said ---


async def apply(node: Node, args: Apply) -> JSON:
    """Sign and spread a blueprint, or only say what it would do; the plan. Raises InvalidInput, PermissionDenied."""
    name, wants = read(args.text, node.catalog.newest)
    known = held(node)
    for blueprint in live(node):
        if blueprint.name != name and (twice := {w.model for w in blueprint.wants} & {w.model for w in wants}):
            raise InvalidInput(
                f"blueprint {blueprint.name!r} says already where {', '.join(sorted(twice))} lives",
                hint="one blueprint a model; `meshnode blueprint list` shows them",
            )
    before = known.get(name)
    wants = tuple(_tried(want, before) for want in wants)
    if before is not None and before.now.wants == wants:
        return {"changed": False, **_document(node, before.now)}
    blueprint = Blueprint(name, before.now.revision + 1 if before is not None else 1, wants)
    document = {"changed": True, **_document(node, blueprint, before.now if before is not None else None)}
    if not args.dry_run:
        declare(node, blueprint)
    return document


def _tried(want: Want, before: Held | None) -> Want:
    """A new version of a model that has a canary is tried beside the old one first."""
    old = next((it for it in before.now.wants if it.model == want.model), None) if before is not None else None
    if old is None or want.canary is None or old.digest == want.digest:
        return want
    if old.trial is not None and old.trial.digest == want.digest:
        return structs.replace(want, version=old.version, digest=old.digest, trial=old.trial)
    trial = Trial(want.version, want.digest)
    return structs.replace(want, version=old.version, digest=old.digest, trial=trial)


def declare(node: Node, blueprint: Blueprint) -> None:
    """Sign it, and tell everybody. Raises PermissionDenied without the admin key."""
    statement = node.keeper.say("blueprint", blueprint.to_map(), admin="sign a blueprint")
    node.trust.publish([statement.data])
    node.trust.learnt([statement])


async def remove(node: Node, args: Name) -> JSON:
    """End a blueprint; what it placed may go. Raises InvalidInput, PermissionDenied."""
    it = _named(node, args.name)
    declare(node, Blueprint(args.name, it.now.revision + 1, ()))
    return {"name": args.name, "revision": it.now.revision + 1}


async def _rollback(node: Node, args: Name) -> JSON:
    it = _named(node, args.name)
    plain = [_settled(blueprint.wants) for blueprint in it.before if blueprint.wants]
    if any(want.trial is not None for want in it.now.wants):
        wants = _settled(it.now.wants)  # what was before the trial is what holds beside it
    elif (earlier := next((wants for wants in plain if wants != it.now.wants), None)) is not None:
        wants = earlier
    else:
        raise InvalidInput(f"blueprint {args.name!r} says nothing else in any of its revisions")
    blueprint = Blueprint(args.name, it.now.revision + 1, wants, "rolled back by hand")
    document = _document(node, blueprint, it.now)
    declare(node, blueprint)
    return document


def _settled(wants: Sequence[Want]) -> tuple[Want, ...]:
    return tuple(structs.replace(want, trial=None) for want in wants)


def _named(node: Node, name: str) -> Held:
    it = held(node).get(name)
    if it is None or not it.now.wants:
        names = ", ".join(blueprint.name for blueprint in live(node)) or "none"
        raise InvalidInput(f"no blueprint {name!r} in this mesh", hint=f"there is {names}")
    return it


async def _list(node: Node, _: Nothing) -> JSON:
    return [_document(node, blueprint) for blueprint in live(node)]


async def _show(node: Node, args: Name) -> JSON:
    it = _named(node, args.name)
    document = _document(node, it.now)
    for row, want in zip(document["models"], it.now.wants, strict=True):
        await _add_troubles(node, row, want)
    return document | {"history": [{"revision": b.revision, "note": b.note} for b in it.before]}


async def _add_troubles(node: Node, row: JSON, want: Want) -> None:
    """Ask those who are to have the model and do not say so why."""
    digests = [Digest(want.digest), *([Digest(want.trial.digest)] if want.trial is not None else [])]
    for seat in row["seats"]:
        if seat["there"]:
            continue
        try:
            rows = await ask(node, seat["node"], digests)
        except MeshError as error:
            seat["state"], seat["reason"] = "unknown", str(error)
        else:
            worst = next((it for it in rows if it.reason), rows[0])
            seat["state"], seat["reason"] = worst.state, worst.reason


# --- documents ---


def _document(node: Node, blueprint: Blueprint, before: Blueprint | None = None) -> JSON:
    places = sites(node)
    models = [_want(node, want, places, before) for want in blueprint.wants]
    gone = {want.model for want in before.wants} - {want.model for want in blueprint.wants} if before else set()
    return {
        "name": blueprint.name,
        "revision": blueprint.revision,
        "note": blueprint.note,
        "converged": all(it["converged"] for it in models),
        "models": models,
        "gone": sorted(gone),
    }


def _want(node: Node, want: Want, places: list[Site], before: Blueprint | None) -> JSON:
    by_id = {site.id: site for site in places}
    chosen, trying = seats(want, places), set(trial_seats(want, places))
    old = next((it for it in before.wants if it.model == want.model), None) if before is not None else None
    had = set(seats(old, places)) if old is not None else set()
    rows = [_seat(want, by_id[one], trying, new=one not in had) for one in chosen]
    missing = max(0, want.replicas - len(chosen)) if want.replicas else int(not chosen)
    manifest = node.catalog.find(want.model, want.version)
    coming = (want.trial.digest if want.trial is not None else want.digest) if trying else want.digest
    sizes = {m.digest: m.size for m in node.catalog.manifests()}
    fetching = [
        row
        for row in rows
        if Digest(coming) not in by_id[row["node"]].holds and (want.trial is None or row["node"] in trying)
    ]
    return {
        "model": want.model,
        "version": want.version,
        "digest": want.digest,
        "known": manifest is not None,
        "replicas": want.replicas or "all",
        "trial": _trial(node, want),
        "seats": rows,
        "leaves": sorted(by_id[one].name for one in had - set(chosen)),
        "missing": missing,
        "left_out": [
            {"node": site.id, "name": site.name, "reason": reason}
            for site in places
            if (reason := unfit(want, Digest(want.digest), site))
        ][:REASONS_MAX]
        if missing
        else [],
        "fetch_bytes": sizes.get(Digest(coming), 0) * len(fetching),
        "converged": missing == 0 and want.trial is None and all(row["there"] for row in rows),
    }


def _trial(node: Node, want: Want) -> JSON:
    """`why` is known where the trial is driven."""
    if want.trial is None:
        return None
    why = node.fleet.trials.get((want.model, want.trial.version), "")
    return {"version": want.trial.version, "everywhere": want.trial.everywhere, "why": why}


def _seat(want: Want, site: Site, trying: set[NodeId], *, new: bool) -> JSON:
    wanted = [Digest(want.digest)]
    if want.trial is not None and site.id in trying:
        wanted.append(Digest(want.trial.digest))
    there = all(digest in site.holds and (site.holds[digest] or not want.loaded) for digest in wanted)
    return {"node": site.id, "name": site.name, "new": new, "trying": site.id in trying, "there": there}


# --- between agents ---


def rows(node: Node, request: FleetAsk) -> Reply:
    """What a peer hears."""
    return Reply(FleetRows(rows=tuple(own_row(node, Digest(digest)) for digest in request.models)), ())


def own_row(node: Node, digest: Digest) -> FleetRow:
    """This node's."""
    duty, tally = node.fleet.duties.known.get(digest), node.serving.tallies.of(digest)
    state, reason = ("none", "") if duty is None else (duty.state, duty.reason)
    return FleetRow(digest, state, reason[:512], tally.runs, tally.failed, tally.run_s)


async def ask(node: Node, who: NodeId, digests: Sequence[Digest]) -> tuple[FleetRow, ...]:
    """A node's rows. Raises MeshError."""
    if who == node.keeper.id:
        return tuple(own_row(node, digest) for digest in digests)
    link = await node.pool.link(who, node.membership.addresses(who))
    received = await link.call(FleetAsk(models=tuple(digests)), timeout_s=ASK_S)
    assert isinstance(received.message, FleetRows)
    return received.message.rows


VERBS: Verbs = {
    "blueprint.apply": (Apply, apply),
    "blueprint.list": (Nothing, _list),
    "blueprint.show": (Name, _show),
    "blueprint.remove": (Name, remove),
    "blueprint.rollback": (Name, _rollback),
}

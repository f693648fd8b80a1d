"""The local door: what programs of the same user may ask of the agent, over its Unix socket.

Tasks come as `Submit` and `Plan`; everything else is an `Ask` with a verb and arguments, answered by a JSON document:

    status {} · models {} · model.show {model} · model.add {path, name?, version?, zone?, signature?}
    model.remove {model} · model.flag {model, reason?} · model.clear {model} · members {} · zone {node, zone?}
    invite {expires_s?, role?, zone?, uses?, hardware?} · invites {} · accept {node} · join {token}
    revoke {node, reason?} · leave {} · ps {} · ping {node, count?} · speaks {}
    model.pull/load/unload {model, node?} · model.moved {model?, node?, path?} · model.pin {model, replicas?, node?}
    model.unpin {model} · blueprint.apply {text, dry_run?} · blueprint.list {} · blueprint.show/remove/rollback {name}
    policy.show {} · policy.check {text} · policy.set {text}
    admin.list {} · admin.add/remove {node} · admin.rotate/lock/unlock/export {passphrase?}
    admin.import/forget {text, passphrase} · renew {node?, for_s?} · rotate {}
    publisher.add {name, key} · publisher.remove {name} · publisher.list {}
    events {after?} · note {event, why?}
    doctor {peer?} · version {} · stop {} · pause {duration_s?} · resume {} · drain {} · why {task?} · work {}
    dashboard {}

Arguments are checked by type before anything happens.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.edge import (
    adding,
    admitting,
    auditing,
    documents,
    flagging,
    fleet,
    glances,
    models,
    officers,
    policing,
    publishing,
    renewal,
    zoning,
)
from meshnode.edge.admitting import Accept, NewInvite, Revoke, Token
from meshnode.edge.doctor import examine, examine_peer
from meshnode.edge.node import Node
from meshnode.edge.submitting import check_belongs
from meshnode.edge.verb import JSON, Nothing, Verbs
from meshnode.errors import InvalidInput, MeshError
from meshnode.links.link import Incoming, Reply
from meshnode.tasks.finding import find_member
from meshnode.wire.messages import Ask, Document, Plan, Submit


class DoctorFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`peer` is a name or an id; without it the whole machine is looked at."""

    peer: str | None = None


class ModelName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name`, `name:version` or a digest."""

    model: str


class FlagModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reason` is for people."""

    model: str
    reason: str = ""


class PauseFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Without `duration_s`, until `resume`."""

    duration_s: float | None = None


class WhichTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task's id or the beginning of one; the last task when it is empty."""

    task: str = ""


class After(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events after this number."""

    after: int = 0


class Noted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program of the user wants to stand among the events; such as `camera yard`, and what it sees."""

    event: Annotated[str, Meta(min_length=1, max_length=64)]
    why: Annotated[str, Meta(max_length=256)] = ""


@dataclass(frozen=True, slots=True)
class LocalDoor:
    """Answers the requests of local clients."""

    node: Node

    async def handle(self, incoming: Incoming) -> Reply:
        """Raises MeshError, which the link sends as the answer."""
        request = incoming.request
        match request:
            case Submit():
                check_belongs(self.node)
                return await self.node.dispatcher.submit(request, incoming.body)
            case Plan():
                check_belongs(self.node)
                wanted = self.node.dispatcher.wanted(request, self.node.catalog.resolve(request.model))
                return _document(await self.node.dispatcher.chooser.plan(wanted, request.deadline_s))
            case Ask():
                return _document(await self._ask(request))
        raise InvalidInput(f"{type(request).__name__} is not a request of local clients")

    async def _ask(self, ask: Ask) -> JSON:
        known = VERBS.get(ask.verb)
        if known is None:
            raise InvalidInput(f"this agent knows no verb {ask.verb!r}", hint="is the agent older than this command?")
        shape, act = known
        try:
            args = msgspec.convert(ask.args, shape)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{ask.verb}: {error}") from error
        outcome = "cancelled"
        try:
            document = await act(self.node, args)
            outcome = "ok"
        except MeshError as error:
            outcome = error.code
            raise
        finally:
            auditing.asked(self.node.book, ask.verb, ask.args, outcome)
        return document


def _document(value: JSON) -> Reply:
    return Reply(Document(), (msgspec.json.encode(value),))


async def _status(node: Node, _: Nothing) -> JSON:
    return await documents.status(node)


async def _models(node: Node, _: Nothing) -> JSON:
    return documents.models(node)


async def _model_show(node: Node, args: ModelName) -> JSON:
    manifest = node.catalog.resolve(args.model)
    return documents.model(node, manifest)


async def _model_remove(node: Node, args: ModelName) -> JSON:
    manifest = node.catalog.newest(args.model)
    statement = node.keeper.remove_model(node.catalog.statement_of(manifest))
    node.trust.publish([statement.data])
    node.trust.learnt([statement])
    return {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}


async def _model_flag(node: Node, args: FlagModel) -> JSON:
    manifest = node.catalog.resolve(args.model)
    flagging.flag(node, manifest, args.reason)
    return {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}


async def _model_clear(node: Node, args: ModelName) -> JSON:
    manifest = node.catalog.resolve(args.model)
    cleared = flagging.clear(node, manifest)
    return {"name": manifest.name, "version": manifest.version, "digest": manifest.digest, "cleared": cleared}


async def _members(node: Node, _: Nothing) -> JSON:
    return documents.members(node)


async def _leave(node: Node, _: Nothing) -> JSON:
    await node.control.leave()
    return {}


async def _doctor(node: Node, args: DoctorFor) -> JSON:
    if args.peer is None:
        return await examine(node)
    return await examine_peer(node, find_member(node.membership.view(), args.peer))


async def _events(node: Node, args: After) -> JSON:
    return node.events.after(args.after)


async def _note(node: Node, args: Noted) -> JSON:
    if not args.event.isprintable() or not args.why.isprintable():
        raise InvalidInput("an event is one line of printable characters")
    node.events.note_of_program(args.event, node.settings.name or "this node", args.why)
    return {}


async def _pause(node: Node, args: PauseFor) -> JSON:
    node.owner.pause(args.duration_s)
    return node.owner.document()


async def _resume(node: Node, _: Nothing) -> JSON:
    node.owner.resume()
    return node.owner.document()


async def _drain(node: Node, _: Nothing) -> JSON:
    """A pause that hands back what waits, and ends when nothing of others runs any more."""
    node.execution.patient = True
    handed_back = node.serving.hand_back("it is drained")
    node.owner.pause(None)
    while node.serving.runs.tasks:  # noqa: ASYNC110 - watched for as long as a run takes: an event would tell no more
        await asyncio.sleep(0.02)
    return node.owner.document() | {"handed_back": handed_back}


async def _version(node: Node, _: Nothing) -> JSON:
    return {"version": node.version, "id": node.keeper.id}


async def _stop(node: Node, _: Nothing) -> JSON:
    node.control.stop()
    return {}


async def _why(node: Node, args: WhichTask) -> JSON:
    return node.dispatcher.chooser.explaining.why(args.task)


async def _work(node: Node, _: Nothing) -> JSON:
    counters = msgspec.to_builtins(node.dispatcher.means.counters)
    return {**node.dispatcher.recent.document(time.monotonic()), "open": node.dispatcher.open, "since_start": counters}


VERBS: Verbs = {
    "status": (Nothing, _status),
    "models": (Nothing, _models),
    "model.show": (ModelName, _model_show),
    "model.add": (adding.AddModel, adding.add),
    "model.remove": (ModelName, _model_remove),
    "model.flag": (FlagModel, _model_flag),
    "model.clear": (ModelName, _model_clear),
    "invite": (NewInvite, admitting.invite),
    "invites": (Nothing, admitting.listed),
    "accept": (Accept, admitting.accept),
    "join": (Token, admitting.join),
    "members": (Nothing, _members),
    "revoke": (Revoke, admitting.revoke),
    "leave": (Nothing, _leave),
    "doctor": (DoctorFor, _doctor),
    "events": (After, _events),
    "note": (Noted, _note),
    "pause": (PauseFor, _pause),
    "resume": (Nothing, _resume),
    "why": (WhichTask, _why),
    "work": (Nothing, _work),
    "drain": (Nothing, _drain),
    "version": (Nothing, _version),
    "stop": (Nothing, _stop),
    **fleet.VERBS,
    **glances.VERBS,
    **models.VERBS,
    **officers.VERBS,
    **policing.VERBS,
    **publishing.VERBS,
    **renewal.VERBS,
    **zoning.VERBS,
}

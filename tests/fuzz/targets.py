"""The table of all decoders: bytes in, and a value or one typed error out. Nothing else may happen.

`test_targets` runs all of them with a few hundred mutants each and replays what is kept in `corpus/`; `scripts/fuzz`
runs them for as long as wanted, guided by coverage. Whatever decodes in `meshnode` has to be named in `of` of a target
or, with the reason, in `ELSEWHERE`: `test_targets` looks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshnode.audit.chain import Broken
from meshnode.errors import (
    ConfigError,
    HomeError,
    InvalidInput,
    MeshError,
    ModelNotFound,
    ModelRefused,
    PermissionDenied,
    ProtocolError,
    TokenRefused,
)
from meshnode.wire.terms import UNREADABLE
from tests.fuzz import home, outside, seeds, signed, wire
from tests.fuzz.mutating import Form

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """One reader of strange bytes.

    Args:
        reads: raises one of `errors`, or returns; anything else that it raises is a defect.
        of: the modules whose decoding it is.
    """

    name: str
    reads: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]
    form: Form
    of: tuple[str, ...]

    def __call__(self, data: bytes) -> bool:
        """Whether it was a value; False for an error that may be."""
        try:
            self.reads(data)
        except self.errors:
            return False
        return True

    def kept(self) -> list[Path]:
        """Inputs that the fuzzer found worth keeping, and those that once were a defect."""
        return sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())


P, D, INV = ProtocolError, PermissionDenied, InvalidInput
TABLE: tuple[Target, ...] = (
    # between agents
    Target("frames", wire.frames, (P,), seeds.frames, "bytes", ("wire.frames", "wire.flow")),
    Target("hello", wire.hello, (P,), seeds.messages, "msgpack", ("wire.messages",)),
    Target("requests", wire.request, (P,), seeds.messages, "msgpack", ("wire.messages", "wire.tasks", "wire.stages")),
    Target("replies", wire.reply, (P,), seeds.messages, "msgpack", ("wire.messages", "wire.looks", "wire.fleet")),
    Target("errors", wire.error, (P,), seeds.errors, "msgpack", ("wire.messages", "errors", "links.link")),
    Target("batches", wire.batch, (P,), seeds.batches, "msgpack", ("wire.batches", "membership.answers")),
    Target("tensors", wire.tensors, (P,), seeds.tensors, "bytes", ("wire.tensors",)),
    Target("packets", wire.packet, (P,), seeds.packets, "msgpack", ("membership.updates",)),
    Target("tables", wire.table, (P,), seeds.tables, "msgpack", ("membership.entropy",)),
    Target("sealed", wire.sealed, (P,), seeds.sealed, "bytes", ("trust.sealing",)),
    Target("adverts", wire.advert, (P,), seeds.adverts, "msgpack", ("membership.advert",)),
    Target("bitmaps", wire.bitmap, (), seeds.bitmaps, "bytes", ("catalog.rarity",)),
    Target("mdns", outside.mdns, (), seeds.mdns, "bytes", ("membership.multicast",)),
    # trust
    Target("statements", signed.statement, (P, D), seeds.statements, "msgpack", ("trust.form", "trust.statements")),
    Target(
        "bodies",
        signed.body,
        (P, D),
        seeds.bodies,
        "msgpack",
        ("trust.standing", "trust.policy", "trust.batch", "fleet.blueprint", "catalog.manifest", "trust.office"),
    ),
    Target("tokens", signed.token, (TokenRefused,), seeds.tokens, "text", ("trust.invites",)),
    Target("payloads", signed.payload, (TokenRefused,), seeds.payloads, "bytes", ("trust.invites",)),
    Target("joins", signed.join, (MeshError,), seeds.joins, "msgpack", ("trust.joining", "trust.redeeming")),
    Target("certificates", signed.certificate, (D,), seeds.certificates, "bytes", ("trust.identity",)),
    # programs that are not ours
    Target("local", outside.local, (P, INV), seeds.local, "msgpack", ("edge.local", "wire.messages")),
    Target(
        "http", outside.http, (INV,), seeds.http, "json", ("edge.openinference.document", "edge.openinference.tensors")
    ),
    Target("heads", outside.heads, (D, INV), seeds.heads, "text", ("edge.http.guard", "edge.tracing", "edge.http.oip")),
    Target("grpc", outside.grpc, (INV,), seeds.grpc, "bytes", ("edge.grpc.infer", "edge.grpc.messages")),
    Target("mqtt", outside.mqtt, (INV, P), seeds.mqtt, "json", ("edge.mqtt.requests", "edge.mqtt.topics")),
    Target("records", outside.record, (P, D), seeds.records, "msgpack", ("edge.mqtt.sealing",)),
    Target("pictures", outside.picture, (INV,), seeds.pictures, "bytes", ("edge.pictures", "edge.mqtt.decoder")),
    Target("frigate", outside.frigate, (P,), seeds.frigate, "json", ("edge.frigate.asked",)),
    # what workers say
    Target("workers", outside.worker, (P,), seeds.workers, "msgpack", ("execution.control",)),
    Target(
        "decoders", outside.decoder, (P, INV, EOFError, *UNREADABLE), seeds.decoders, "json", ("edge.mqtt.decoding",)
    ),
    # files
    Target("onnx", home.onnx, (ModelRefused,), seeds.onnx, "bytes", ("catalog.scan", "catalog.protobuf")),
    Target("blueprints", home.blueprint, (INV, ModelNotFound), seeds.blueprints, "text", ("fleet.blueprint",)),
    Target("policies", home.policy, (INV,), seeds.policies, "text", ("trust.policy",)),
    Target("config", home.config, (ConfigError,), seeds.config, "text", ("config", "toml", "edge.mqtt.broker")),
    Target("settings", home.settings, (ConfigError,), seeds.config, "text", ("service.settings",)),
    Target("marks", home.mark, (INV,), seeds.marks, "json", ("trust.publishing",)),
    Target("keys", home.key, (HomeError,), seeds.keys, "text", ("trust.adminkey", "trust.identity")),
    Target(
        "states",
        home.state,
        (HomeError, ModelRefused),
        seeds.states,
        "msgpack",
        (
            *("trust.files", "trust.homefiles", "trust.tokenbook", "membership.remembered", "membership.peersfile"),
            *("owner.switch", "catalog.contents", "catalog.judge"),
        ),
    ),
    Target("audit", home.audit, (Broken,), seeds.audit, "json", ("audit.chain", "audit.book")),
)
NAMED = {target.name: target for target in TABLE}

ELSEWHERE = {
    "agent": "hands the decoders of `wire.messages` to its links",
    "membership.datagrams": "opens by `trust.sealing` and reads by `membership.updates`",
    "testing": "reads what an agent of ours printed",
    "execution.worker": "reads by `execution.control` and `wire.tensors`, from its own agent",
    "tasks.agreement": "reads by `wire.tensors`",
    "edge.submitting": "reads by `wire.tensors`",
    "edge.grpc.door": "the small messages, by protobuf itself, whose one error is an answer there",
    "edge.publishing": "hex whose form `trust.publishing` or its own struct has checked",
    "edge.admitting": "hex of a person, which it checks",
    "edge.dashboard.routes": "one short text of JSON; see tests/edge/dashboard",
    "edge.frigate.listening": "a key that ZeroMQ has checked",
    "execution.devices": "text of the GPU's driver",
    "execution.process": "the end of what a worker printed, with what is no text replaced",
    "links.local": "the kernel's word about a socket",
    "links.sockets": "the kernel's word about a socket",
    "links.yielding": "the kernel's word about a socket",
    "cli": "a person's own files and what an agent of his answered",
    "client": "what an agent of the same user answered, by `wire.messages` and `wire.tensors`",
    "sim": "no bytes from outside",
}
"""Modules that decode and are no target, with the reason; a package stands for what is in it."""

"""Where the fuzzer begins: golden bytes of `protocols/vectors`, and what our own encoders make."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import zeroconf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from zeroconf.asyncio import AsyncServiceInfo

from meshnode.audit.chain import Chain
from meshnode.catalog import contents, judge
from meshnode.catalog.manifest import File, Manifest, Tensor
from meshnode.edge.grpc.messages import of
from meshnode.edge.mqtt.sealing import Again, Here, Taken
from meshnode.errors import Attempt, Refused
from meshnode.execution import control
from meshnode.execution.control import Place, TensorInfo
from meshnode.fleet.blueprint import Blueprint, Canary, Trial, Want
from meshnode.membership import advert as adverts_
from meshnode.membership import entropy, multicast, updates
from meshnode.membership.remembered import packed_peers
from meshnode.trust import adminkey, form, identity, invites, policy, publishing
from meshnode.trust.invites import BatchToken
from meshnode.wire import tensors as tensors_
from meshnode.wire.frames import Type, pack
from meshnode.wire.messages import TensorSpec, encode_error
from tests.catalog import zoo
from tests.fuzz import home, outside, signed
from tests.fuzz.signed import INVITE, KINDS, MEMBER, OTHER, TOWN
from tests.fuzz.wire import ANN, BOB, EPOCH, HELLO, pair
from tests.fuzz.wire import TOWN as MESH
from tests.trust.cast import NOW

ROOT = Path(__file__).parents[2]
DIGEST = "89abcdef" * 8
TASK = "0123456789abcdef" * 2
SPEC = TensorSpec("x", "float", (1, 2), 8)


def golden(name: str) -> list[bytes]:
    """The bytes of a file of vectors."""
    rows: list[dict[str, Any]] = json.loads((ROOT / "protocols" / "vectors" / f"{name}.json").read_text())
    return [bytes.fromhex(row["hex"]) for row in rows if "hex" in row]


def _packed(*values: Any) -> list[bytes]:
    return [msgpack.packb(value) for value in values]


# --- between agents ---


def frames() -> list[bytes]:
    """A conversation, its pieces and the golden frames."""
    talk = (
        pack(Type.REQ, 1, b"head", b"body", 4)
        + pack(Type.REQ, 3, b"head", b"begin", 40)
        + pack(Type.CREDIT, 3, aux=1 << 20)
        + pack(Type.DATA, 3, b"", bytes(35))
        + pack(Type.PING, 0, aux=7)
        + pack(Type.CANCEL, 3)
        + pack(Type.ERR, 1, b"\x80")
        + pack(Type.DATA, 5, b"", bytes(9))
        + pack(Type.GOAWAY, 0)
        + pack(Type.CLOSE, 0, b"\x80")
    )
    return [
        *(b"\x01" + it for it in golden("frames")),
        *(bytes([step]) + talk for step in (1, 3, 13)),
        b"\0" + HELLO + talk,
    ]


def messages() -> list[bytes]:
    """One of each."""
    return golden("messages")


def errors() -> list[bytes]:
    """As they travel."""
    full = Refused(
        "full", hint="wait", attempts=[Attempt(ANN.id, "ann", "refused", 0.25, "full", 1)], retry_after_s=0.5
    )
    full.stage = 2
    return [
        encode_error(full.to_wire()),
        encode_error({"code": "revoked", "message": "out", "statement": b"s"}),
        b"\x80",
    ]


def batches() -> list[bytes]:
    """None, some, long ones."""
    return [msgspec.msgpack.encode(it) for it in ([], [b"a", bytes(32)], [bytes(4096)] * 3)]


def tensors() -> list[bytes]:
    """Specs and bodies of each kind."""
    made = []
    arrays: list[dict[str, Any]] = [
        {"x": np.ones((1, 2), np.float32)},
        {"x": np.zeros((0, 4), np.int64), "y": np.array(3.5)},
        {"t": np.array(["", "hé"], object)},
        {"b": np.ones((3,), bool), "c": np.ones((2, 2), np.complex64)},
    ]
    for each in arrays:
        specs, parts = tensors_.encode(each)
        head = msgspec.msgpack.encode(specs)
        made.append(len(head).to_bytes(2, "little") + head + b"".join(parts))
    return made


def _told() -> tuple[updates.AnyUpdate, ...]:
    sign, key = ANN.key.sign, ANN.spki[-32:]
    other = identity.id_bytes(BOB.id)
    return (
        updates.alive(sign, key, 5, 1, 3, born=9, twin=2),
        updates.suspect(sign, other, 5, 1, identity.id_bytes(ANN.id)),
        updates.dead(sign, other, 5, 1, identity.id_bytes(ANN.id)),
        updates.left(sign, key, 5, 2, "stop"),
    )


def packets() -> list[bytes]:
    """One of each with updates of each kind."""
    told = _told()
    some: list[updates.AnyPacket] = [
        *(updates.Ping(1, told, 5), updates.Ack(2, told[:1], 6), updates.Nack(4), updates.Gossip(told)),
        updates.PingReq(3, identity.id_bytes(BOB.id), 400, told[:2]),
    ]
    return [updates.encode(it) for it in some]


def tables() -> list[bytes]:
    """Rows and news."""
    row = entropy.Summary(bytes(range(32)), 3, 4, 5, 1, 6)
    told = tuple(entropy.Told(0.5, it) for it in _told())
    return [
        b"r" + entropy.encode(entropy.Rows(b"\x01\x02", (row, row))),
        b"n" + entropy.encode(entropy.News(told, (bytes(32),))),
    ]


def sealed() -> list[bytes]:
    """From Ann to Bob."""
    ann, _ = pair()
    return [ann.seal(BOB.id, data) for data in packets()]


def adverts() -> list[bytes]:
    """Whole, and for the member that lies only what is signed."""
    it = adverts_.Advert(
        addresses=(("192.0.2.1", 7433),),
        software="1",
        zone="eu",
        labels={"rack": "3"},
        cpu=adverts_.Cpu("cpu", 4, 3.5),
        memory_total=1 << 33,
        gpus=(),
        providers=("CPUExecutionProvider",),
        slots=2,
        models=(adverts_.Held(DIGEST, True, 0.01),),
        power=adverts_.PowerState("mains", None),
        id=ANN.id,
        name="ann",
        key=ANN.spki[-32:],
        boot=EPOCH,
        version=1,
        epoch=EPOCH,
        epoch_key=pair()[0].public,
    )
    return [adverts_.seal(it, ANN.key.sign), b"s" + msgspec.msgpack.encode(it)]


def bitmaps() -> list[bytes]:
    """Too short, right, too long."""
    return [b"\x09\0" + bytes(n) for n in (0, 1, 2, 9)]


def mdns() -> list[bytes]:
    """An announcement and a goodbye of this mesh, as zeroconf writes them, and a question."""
    label = "0123456789abcdef"
    info = AsyncServiceInfo(
        multicast.SERVICE,
        f"{label}.{multicast.SERVICE}",
        port=7433,
        properties={"v": "1", "t": multicast.mesh_tag(MESH, multicast.today())},
        parsed_addresses=["192.0.2.7", "fe80::1", "2001:db8::7"],
        server=f"{label}.local.",
    )
    made = []
    for ttl in (120, 0):
        packet = zeroconf.DNSOutgoing(0x8400)  # type: ignore[attr-defined]
        packet.add_answer_at_time(info.dns_pointer(override_ttl=ttl), 0)
        for record in (info.dns_service(), info.dns_text(), *info.dns_addresses()):
            packet.add_answer_at_time(record, 0)
        made += packet.packets()
    question = zeroconf.DNSOutgoing(0)  # type: ignore[attr-defined]
    question.add_question(zeroconf.DNSQuestion(multicast.SERVICE, 12, 1))  # type: ignore[attr-defined]
    return [*made, *question.packets()]


# --- trust ---


def statements() -> list[bytes]:
    """Golden ones, and some of the town."""
    return [*golden("statements"), TOWN.genesis, TOWN.grants(MEMBER), TOWN.adds(MEMBER), TOWN.revokes(OTHER)]


def manifest() -> Manifest:
    """A model of one file."""
    file = File("model.onnx", 5000, bytes(32), bytes(32))
    inputs = (Tensor("x", "tensor(float)", ("batch", 64, None)),)
    return Manifest("digits", 1, (file,), inputs, inputs, 1 << 20, metadata={"a": "b"}, run_us=7, publisher=MEMBER.id)


def bodies() -> list[bytes]:
    """Of each kind, said by an admin and by a member."""
    end = {"invite": bytes(32), "kept": bytes(16)}
    key = {"key": BOB.spki, "root": BOB.root, "expires_at": NOW + 9, "uses": 3, "hardware": [bytes(32)]}
    bound = {"roles": ["worker"], "zones": ["eu"]}
    want = Want(
        *("digits", 2, DIGEST, 2, "eu", {"rack": "1"}, "CPUExecutionProvider"),
        canary=Canary(),
        trial=Trial(3, DIGEST),
    )
    document_ = policy.read('default_zone = "eu"\n[submit]\nroles = ["submitter"]\n[quota]\ntasks_s = 3\n', 7)
    by_kind: dict[str, dict[str, Any]] = {
        "admin_add": {"key": BOB.spki, "root": BOB.root, "node": BOB.id},
        "admin_remove": {"key": BOB.spki, "kept": bytes(32)},
        "grant": form.grant_body(OTHER.id, "n", ("worker",), ("eu",), NOW + 9, final=True, was=BOB.id),
        "revoke": form.revoke_node_body(OTHER.id, "lost"),
        "publisher": {"name": "acme", "key": BOB.spki},
        "policy": document_.to_map(),
        "model": manifest().to_map(),
        "blueprint": Blueprint("shop", 1, (want,), "note").to_map(),
        "flag": form.flag_body(DIGEST, "it kills"),
        "invite_key": key | bound,
        "invite_end": end,
        "redeem": {"invite": bytes(32), "node": BOB.id, "name": "bob", "at_ms": NOW * 1000, "hardware": b""},
    }
    assert by_kind.keys() == set(KINDS), "a kind has no seed"
    return [bytes([2 * at + who]) + msgpack.packb(by_kind[kind]) for at, kind in enumerate(KINDS) for who in (0, 1)]


BATCH = BatchToken(TOWN.mesh, bytes(range(32)), NOW, NOW + 600, (("192.0.2.7", 7433), ("2001:db8::7", 7433)))


def tokens() -> list[bytes]:
    """Both kinds."""
    return [invites.mint(INVITE).encode(), invites.mint_batch(BATCH).encode(), b"mesh1-"]


def payloads() -> list[bytes]:
    """What is in them, without the checksum."""
    return [invites._payload(text.decode()) for text in tokens()[:2]]


def joins() -> list[bytes]:
    """What both sides of the join port say."""
    ask = {"v": 1, "invite": bytes(8), "spki": BOB.spki, "name": "bob", "proof": bytes(32), "possession": bytes(64)}
    answer = {"leaf": signed.leaf(), "statements": [TOWN.genesis], "peers": [[BOB.id, [["192.0.2.1", 7433]]]]}
    return _packed({"v": 1, "nonce": bytes(32)}, ask, answer, {"error": Refused("no", retry_after_s=1.0).to_wire()})


def certificates() -> list[bytes]:
    """A member's, an admin's."""
    return [signed.leaf(), TOWN.admin.root, MEMBER.spki]


# --- programs that are not ours ---


def local() -> list[bytes]:
    """One of each request, and a verb with what it might be given."""
    verbs = [
        {"t": "ask", "verb": verb, "args": {"model": "m", "name": "n", "path": "p"}} for verb in outside.VERB_NAMES
    ]
    return [*_packed(*verbs), *golden("messages")[-20:]]


def http() -> list[bytes]:
    """JSON, and JSON with tensors behind it."""
    row = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    flat = {"inputs": [{**row, "data": [1, 2.5]}], "id": "7", "parameters": {"timeout": 5, "binary_data_output": True}}
    texts = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["é"]]}]}
    more = {"outputs": [{"name": "y", "parameters": {"binary_data": True}}], "parameters": {"zone": "eu"}}
    behind = {"inputs": [{**row, "parameters": {"binary_data_size": 8}}, {**row, "name": "y", "data": [[3, 4]]}]}
    bools = {"inputs": [{"name": "b", "datatype": "BOOL", "shape": [0], "data": []}, {**row, "data": [1e300, 1]}]}
    return [
        *(json.dumps(it).encode() for it in (flat, texts | more, bools, {"inputs": []})),
        json.dumps(behind | more).encode() + np.arange(2, dtype=np.float32).tobytes(),
    ]


def heads() -> list[bytes]:
    """Good ones and others."""
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    return [
        f"localhost:8080\nhttp://localhost:8080\nBearer token\n{trace}\n70".encode(),
        b"[::1]:80\nhttp://[::1]:80\nbearer token\nff-0-0-0\n",
        b"evil.example\nnull\nBasic x\n\n-1",
    ]


def grpc() -> list[bytes]:
    """Tensors raw and in their own fields, with parameters."""
    made = []
    for raw in (True, False):
        it = of("ModelInferRequest")(model_name="m", id="7")
        it.parameters["timeout"].int64_param = 1_500_000
        for name, datatype in (("x", "FP32"), ("t", "BYTES")):
            row = it.inputs.add(name=name, datatype=datatype, shape=[1])
            row.parameters["a"].string_param = "b"
            if not raw:
                field = "fp32_contents" if datatype == "FP32" else "bytes_contents"
                getattr(row.contents, field).append(1.0 if datatype == "FP32" else b"a")
        if raw:
            it.raw_input_contents.extend([bytes(4), b"\x01\0\0\0a"])
        it.outputs.add(name="y").parameters["z"].bool_param = True
        made.append(it.SerializeToString())
    return made


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def mqtt() -> list[bytes]:
    """Arrays and JSON."""
    arrays = (np.ones((2, 3), np.float32), np.array(1), np.asfortranarray(np.ones((2, 2), ">i2")), np.zeros((0, 9)))
    return [*map(_npy, arrays), *http()[:3], b"meshnode/town/infer/m"]


def records() -> list[bytes]:
    """Golden ones as anybody leaves them, and the contents that a member signs."""
    contents_ = (Here((("192.0.2.1", 7433),)), Taken(TASK, 1.5), Again(TASK, ANN.id))
    kinds = {Here: 0x30, Taken: 0x31, Again: 0x32}
    return [
        *(b"!" + it for it in golden("mqtt")),
        *(bytes([kinds[type(it)]]) + msgspec.msgpack.encode(it) for it in contents_),
    ]


def pictures() -> list[bytes]:
    """Small ones of the formats that a stranger may send, and an archive."""
    made = []
    for mode, kind in (("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("RGB", "JPEG"), ("L", "JPEG")):
        for head in (0, 8 + 1, 4):
            file = io.BytesIO()
            Image.new(mode, (8, 8)).save(file, kind)
            made.append(bytes([head]) + file.getvalue())
    archive = io.BytesIO()
    np.savez(archive, x=np.arange(3), y=np.ones((2, 2), np.float32))
    return [*made, b"\0" + archive.getvalue()]


def frigate() -> list[bytes]:
    """A frame, and both about models."""
    heads_ = (
        {"shape": [1, 2, 2, 3], "dtype": "uint8", "model_type": "ssd"},
        {"model_request": True, "model_name": "yolo.onnx"},
        {"model_data": True, "model_name": "yolo.onnx"},
    )
    bodies_ = (b"\n" + bytes(12), b"", b"\nfile")
    return [json.dumps(head).encode() + body for head, body in zip(heads_, bodies_, strict=True)]


def workers() -> list[bytes]:
    """One of each, both ways."""
    info = (TensorInfo("x", "tensor(float)", ("n", 2, None)),)
    place, specs = Place(64, 8), (SPEC,)
    back: Iterable[control.FromWorker] = (
        control.Up("CPUExecutionProvider", "1.31", ("a",), "A", ("files",), (("b", "c"),)),
        *(control.Loaded(DIGEST), control.Optimised(DIGEST), control.Unloaded(4), control.Proved(5, "why")),
        *(control.Ran(1, specs, 0.5, bytes(8)), control.Ran(1, specs, 0.5, place=place, loaded_bytes=7)),
        control.Described(2, info, info, 1 << 20, 0.5, {"a": "b"}),
        *(control.Wide(6, 0.5, 0.25, True, 9), control.Failed(3, "execution_failed", "no", "hint")),
    )
    there: Iterable[control.ToWorker] = (
        control.Run(1, DIGEST, "/m", specs, ("y",), bytes(8), None, (64,), (1,), True),
        *(control.Load(1, DIGEST, "/m"), control.Probe(2, "/m", 1.0), control.Prove(3, DIGEST, "/m", specs, 1.0)),
        *(control.Widen(4, DIGEST, "/m", specs, 1.0), control.Unload(5, DIGEST)),
        *(control.Terminate(1), control.Free((64,))),
    )
    encode = msgspec.msgpack.encode
    return [*(encode(it) for it in back), *(b">" + encode(it) for it in there)]


def decoders() -> list[bytes]:
    """A tensor, an error. The length before the JSON is found anew by no mutation: it is cut in the middle of both."""
    specs, parts = tensors_.encode({"x": np.ones((1, 2), np.float32)})
    made = []
    for said, rest in (({"specs": specs}, b"".join(parts)), ({"error": "no", "hint": "x"}, b"")):
        head = msgspec.json.encode(said)
        made.append(len(head).to_bytes(4, "big") + head + rest)
    return made


# --- files ---


def onnx() -> list[bytes]:
    """The beasts of the zoo that are small."""
    made = [it.make() for it in (*zoo.REFUSED, *zoo.REFUSED_TENSORS, *zoo.TAKEN)]
    return [it for it in made if 0 < len(it) <= 4096]


def blueprints() -> list[bytes]:
    """With all that can be said."""
    return [
        b'name = "shop"\n[[models]]\nmodel = "digits"\nreplicas = 2\nzone = "eu"\nmemory = "2 GiB"\nkeep = "disk"\n'
        b'labels = { rack = "1" }\n[models.canary]\nshare = 0.1\nfor = "5m"\nerrors = 0.01\nslower = 1.5\n',
        b'name = "shop"\n[[models]]\nmodel = "a:1"\nreplicas = "all"\nprovider = "CPUExecutionProvider"\nnode = "x"\n',
        *(path.read_bytes() for path in sorted((ROOT / "models").rglob("*.toml"))),
    ]


def policies() -> list[bytes]:
    """With all that can be said."""
    return [
        b'default_zone = "eu"\n[submit]\nroles = ["submitter"]\nnodes = ["lab"]\nzones = ["eu"]\n'
        b'[publish]\nnodes = ["lab"]\n[models]\nmax_bytes = "2 GiB"\nallow = "signed"\n'
        b'[quota]\nconcurrent = 3\ntasks_s = 9\ncompute_s_minute = 5\nbytes_s = "10 MB"\n',
        b'[models]\ndigests = ["' + DIGEST.encode() + b'"]\n',
    ]


def config() -> list[bytes]:
    """Of several parts."""
    return [
        b'profile = "wan"\nname = "lab"\nlisten = "[::]:7433"\nzone = "eu"\nlabels = { a = "b" }\nmanners = "free"\n'
        b'[discovery]\nmdns = false\nseeds = ["a:1", "[fe80::1%eth0]:2"]\npoll_s = 1\n'
        b'[mqtt]\nurl = "mqtt://user@host:1883"\n[execution]\nconcurrency = 2\n[links]\nframe_bytes = 65536\n',
        b"[catalog]\npiece_bytes = 4096\n[routing]\nquote_timeout_s = 0.5\n",
    ]


def marks() -> list[bytes]:
    """One."""
    signature = MEMBER.key.sign(publishing.message("m", 1, DIGEST, "eu")).hex()
    return [msgspec.json.encode(publishing.Signature("m", 1, DIGEST, MEMBER.spki.hex(), signature, "eu"))]


def keys() -> list[bytes]:
    """Sealed, plain, another kind's."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    return [adminkey.seal(key, "a passphrase").encode(), adminkey.pem(key).encode(), b"-----BEGIN PRIVATE KEY-----\n"]


def states() -> list[bytes]:
    """One of each, with and without its checksum."""
    file = File("model.onnx", 5000, bytes(32), bytes(32))
    row = {"key": bytes(32), "roles": ["worker"], "zones": ["eu"], "expires_at": NOW + 9, "wrong": 1}
    closed = {"tag": bytes(8), "why": "used", "at": NOW, "told_until": NOW + 9}
    book = {"mesh": TOWN.mesh, "node": MEMBER.id, "port": 7, "open": [row], "closed": [closed]}
    by_name: dict[str, bytes] = {
        "trust": msgpack.packb({"leaf": signed.leaf(), "statements": [TOWN.genesis, TOWN.grants(MEMBER)]}),
        "boot": b"17",
        "peers": packed_peers([(BOB.id, [("192.0.2.1", 7433)])], NOW),
        "invites": msgpack.packb(book),
        "pause": b'{"until":1800000009.5}',
        contents.LIST: msgspec.msgpack.encode(contents.Contents((file,), 4096, (bytes(32),))),
        judge.VERDICT: msgspec.msgpack.encode(home.scan(zoo.PLAIN)),
    }
    made = [bytes([2 * at + 1]) + by_name[name] for at, name in enumerate(home.STATES)]
    return [*made, *(bytes([it[0] - 1]) + b"MNS1" + it[1:] for it in made)]


def audit() -> list[bytes]:
    """Three lines and a seal."""
    chain = Chain()
    lines = [chain.line(NOW, "start", {"a": 1}), chain.line(NOW, "task", {"by": ANN.id})]
    lines.append(chain.sealed(NOW, MEMBER.spki, MEMBER.key.sign))
    return [b"".join(lines), lines[0], b"".join(lines)[:-4]]

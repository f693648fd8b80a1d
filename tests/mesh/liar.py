"""A member of a real mesh, with certificate, grant and links, that lies in what it asks, answers, signs and sends."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, get_args

import msgspec

from meshnode.config import LAN
from meshnode.errors import MeshError, ProtocolError
from meshnode.links.link import Incoming, Link, Reply
from meshnode.membership import advert as adverts
from meshnode.membership import entropy, updates
from meshnode.membership.trustsync import TrustKeeping
from meshnode.trust import form
from meshnode.trust.keeper import Keeper
from meshnode.wire import batches, messages
from meshnode.wire.messages import NodeId
from tests.membership.members import Mate
from tests.mesh import lies
from tests.mesh.lies import Map

MEMBERSHIP = (messages.StreamPing, messages.ViewAsk, messages.ViewRows, messages.ViewNews, messages.AdvertPull)
TRUST = (messages.TrustSync, messages.TrustPush)
QUICK_S = 0.0001
"""What it says that a task takes there: it is always the soonest."""
TASK = "0123456789abcdef" * 2


def structs_of(union: Any) -> list[type[msgspec.Struct]]:
    """The messages of a union, by tag."""
    flat: dict[str, type[msgspec.Struct]] = {}
    for it in get_args(union):
        for cls in get_args(it) or (it,):
            flat[str(cls.__struct_config__.tag)] = cls
    return [flat[tag] for tag in sorted(flat)]


class Liar(Mate):
    """See the module's docstring. It keeps its membership alive by the truth, every other time."""

    def __init__(self, keeper: Keeper, seed: int) -> None:
        super().__init__(keeper, "liar", LAN.membership, seed)
        self.rng = Random(seed)
        self.told: Counter[str] = Counter()
        """How often the others answered with what."""
        self.lied: Counter[str] = Counter()
        """Answers of its own that were lies, by message."""
        self.words: list[Any] = []
        self.digest = "0" * 64
        self._answers: dict[str, Iterator[Map]] = {}
        self._turn, self._refusals = itertools.count(), itertools.count()
        self._trust = TrustKeeping(keeper, self.pool.links, lambda _: None)

    # --- what it asks ---

    def requests(self) -> Iterator[tuple[Map, bytes]]:
        """All that a peer can be asked, with each field a lie, and a body that is none or noise."""
        for cls in structs_of(messages.PeerRequest):
            right = self._mine(lies.golden(str(cls.__struct_config__.tag)))
            for lie in lies.of_message(cls, right, self.words, self.rng):
                yield lie, self.rng.choice((b"", b"", bytes(8), self.rng.randbytes(40)))
        yield from self.bodies()

    def bodies(self) -> Iterator[tuple[Map, bytes]]:
        """Tables, ids and statements that are lies themselves."""
        for told in self._told():
            news = msgspec.msgpack.encode([[told], []])
            for tag in ("view_news", "stream_ping"):
                yield {"t": tag}, news
        summary = [bytes(range(32)), 2**32 - 1, 2**32 - 1, 2**61, 3, 2**32 - 1]
        for row in lies.of_row(entropy.Summary, summary, self.words, self.rng):
            yield {"t": "view_rows"}, msgspec.msgpack.encode([bytes(range(256)), [row]])
        yield {"t": "advert_pull"}, batches.pack_batch([self.id.encode()] * 20_000)
        yield {"t": "advert_pull"}, batches.pack_batch([b"\xff" * 52, b""])
        yield {"t": "trust_sync"}, batches.pack_batch([self.rng.randbytes(32) for _ in range(5_000)])
        for statement in self.statements():
            yield {"t": "trust_push"}, batches.pack_batch([statement])

    def statements(self) -> Iterator[bytes]:
        """Of each kind, signed with its own key: some are not its to say, none of them may change anybody else."""
        others = [it for it in self.words if form.is_node_id(it) and it != self.id]
        far = 2**53
        grant = {"node": self.id, "name": "liar", "roles": ["admin", "operator"], "zones": ["eu"], "expires_at": far}
        key = {"key": self.keeper.spki, "root": b"no certificate", "expires_at": far, "uses": 2000, "hardware": []}
        said: list[tuple[str, Map]] = [
            *(("revoke", {"node": other, "reason": lies.NASTY}) for other in others),
            *(("revoke", {"statement": id}) for id in self.keeper.statements.ids()),
            *(("grant", {**grant, "node": other, "zones": [], "roles": []}) for other in others),
            ("grant", grant),
            ("admin_add", {"key": self.keeper.spki, "root": b"no certificate", "node": self.id}),
            *(("admin_remove", {"key": key_, "kept": b""}) for key_ in self.keeper.statements.admins()),
            ("publisher", {"name": "acme", "key": self.keeper.spki}),
            ("policy", {"version": far, "submit": {"roles": ["nobody"]}, "default_zone": "nowhere"}),
            ("blueprint", {"name": "shop", "revision": far, "wants": []}),
            ("invite_key", key | {"roles": ["admin"], "zones": []}),
            ("invite_end", {"invite": bytes(32), "kept": b""}),
            *(
                ("redeem", {"invite": bytes(32), "node": it, "name": "x", "at_ms": far, "hardware": b""})
                for it in others
            ),
            ("flag", {"digest": self.digest, "reason": lies.NASTY}),
            ("model", {"name": "echo", "version": 2**31, "files": []}),
            ("model", {"name": lies.NASTY, "zone": "nowhere"}),
        ]
        for kind, body in said:
            for at in (0, far):
                try:
                    yield form.make_statement(
                        *(kind, body),
                        mesh=self.keeper.statements.mesh_id,
                        issuer=self.keeper.spki,
                        sign=self.keeper.key.sign,
                        issued_at=at,
                        nonce=self.rng.randbytes(16),
                    )
                except ProtocolError:
                    continue

    async def ask(self, link: Link, message: Map, body: bytes) -> None:
        """Ask one thing, and count what came of it."""
        try:
            received = await link.call(message, (body,) if body else (), timeout_s=5.0)  # type: ignore[arg-type]
            self.told[type(received.message).__name__] += 1
        except MeshError as error:
            self.told[error.code] += 1

    # --- what it answers ---

    async def _handle(self, incoming: Incoming) -> Reply:
        request = incoming.request
        honest = next(self._turn) % 2
        if isinstance(request, TRUST):
            return await self._trust.handle(incoming)
        if isinstance(request, MEMBERSHIP) and honest:
            return await super()._handle(incoming)
        match request:
            case messages.QuoteAsk() | messages.Infer() if self.rng.random() < 0.1:
                raise _Refusal(next(self._refusals))
            case messages.QuoteAsk():
                reply = self._lie("quote", {"backlog_s": 0.0, "service_s": QUICK_S, "slots": 4})
                return Reply(reply, ())  # type: ignore[arg-type]
            case messages.Infer():
                outputs = [["y", "float", list(request.inputs[0].shape), request.inputs[0].nbytes]]
                right = {"outputs": outputs, "model": request.model, "node": self.id, "queue_s": 0.0, "run_s": QUICK_S}
                body = bytes(incoming.body)
                reply = self._lie("inferred", right | {"checksum": zlib.crc32(body)})
                return Reply(reply, (body,))  # type: ignore[arg-type]
            case messages.AdvertPull():
                return Reply(messages.Adverts(), (batches.pack_batch(list(self.adverts())),))
        tag = self.rng.choice([str(cls.__struct_config__.tag) for cls in structs_of(messages.PeerReply)])
        if self.rng.random() < 0.2:
            raise _Refusal(next(self._refusals))
        body = self.rng.choice((b"", self.rng.randbytes(50), msgspec.msgpack.encode([list(self._told())[:3], []])))
        return Reply(self._lie(tag, self._mine(lies.golden(tag))), (body,))  # type: ignore[arg-type]

    def _lie(self, tag: str, right: Map) -> Map:
        """The next lie about this answer, of which there is always one more."""
        cls = next(cls for cls in structs_of(messages.PeerReply) if cls.__struct_config__.tag == tag)
        right = {"t": tag, **right}
        told = self._answers.get(tag)
        lie = None if told is None else next(told, None)
        if lie is None:
            self._answers[tag] = lies.of_message(cls, right, self.words, self.rng)
            lie = next(self._answers[tag])
        self.lied[tag] += 1
        # What is asked differs from time to time: only the field that is a lie is kept of the one made before.
        first = lies.golden(tag) if tag not in ("quote", "inferred") else right
        return {**right, **{k: v for k, v in lie.items() if k not in right or v != first.get(k)}} | {"t": tag}

    def adverts(self) -> Iterator[bytes]:
        """Its own with each field a lie, and of others with its signature."""
        own = self.membership._adverts.get(self.id)
        assert own is not None
        plain: Map = msgspec.to_builtins(own, builtin_types=(bytes,))
        others = [it for it in self.words if form.is_node_id(it) and it != self.id]
        made = [*({**plain, "id": other, "version": 2**32 - 1} for other in others)]
        made += [{**it, "version": 2**32 - 2} for it in lies.of_message(adverts.Advert, plain, self.words, self.rng)]
        self.rng.shuffle(made)
        for it in made[:200]:
            body = msgspec.msgpack.encode(it)
            yield msgspec.msgpack.encode([body, self.keeper.key.sign(adverts.DOMAIN + body)])

    # --- what it sends ---

    def datagrams(self) -> Iterator[bytes]:
        """The content of each packet, with each field of it and of what it tells a lie."""
        right: dict[type[msgspec.Struct], Sequence[Any]] = {
            updates.Ping: [1, 7, [], 0],
            updates.Ack: [2, 7, [], 0],
            updates.PingReq: [3, 7, bytes(range(32)), 400, []],
            updates.Nack: [4, 7, []],
            updates.Gossip: [5, []],
        }
        assert set(get_args(updates.AnyPacket)) == set(right), "a packet that nobody lies in"
        for cls, row in right.items():
            for lie in lies.of_row(cls, row, self.words, self.rng):
                yield msgspec.msgpack.encode(lie)
        for told in self._told():
            yield msgspec.msgpack.encode([5, [told[1]]])

    def _told(self) -> Iterator[list[Any]]:
        """Updates with a time, each field of them a lie, and signed as well as it can."""
        sign, me = self.keeper.key.sign, self.raw
        others = [it for it in self.words if isinstance(it, bytes) and len(it) == 32 and it != me]
        for other in others:
            for gen, inc in ((0, 0), (2**32 - 1, 2**32 - 1), (1, 2**31)):
                for about in (updates.suspect, updates.dead):
                    yield [0.0, msgspec.to_builtins(about(sign, other, gen, inc, me), builtin_types=(bytes,))]
                for update in (updates.alive(sign, other, gen, inc, 1), updates.left(sign, other, gen, inc, "stop")):
                    yield [1e9, msgspec.to_builtins(update, builtin_types=(bytes,))]
        word = msgspec.to_builtins(self.core.oneself.word, builtin_types=(bytes,))
        for row in lies.of_row(updates.Alive, word, self.words, self.rng):
            yield [0.0, row]

    def throw(self, at: Mapping[NodeId, tuple[str, int]], plain: bytes) -> None:
        """Seal it for each of these nodes, and send it."""
        for node, address in at.items():
            if self.membership.datagrams.knows(node):
                self.tap.sendto(self.membership.datagrams._sealer.seal(node, plain), address)

    def _mine(self, golden: Map) -> Map:
        """A golden message about this mesh: its model, its nodes."""
        swapped = {"a" * 52: self.words[0], "89abcdef" * 8: self.digest}
        return {key: swapped.get(value, value) if isinstance(value, str) else value for key, value in golden.items()}


class _Refusal(MeshError):
    """An error whose fields are lies, number `turn` of them."""

    def __init__(self, turn: int) -> None:
        super().__init__("no")
        self.turn = turn

    def to_wire(self) -> dict[str, Any]:
        wrong: list[Map] = [
            *({"attempts": it} for it in (7, [[1]], [["a", "b", "c", "soon", "e"]], [["", "", "", 1e308, "", 10**18]])),
            *({"retry_after_s": it} for it in ("soon", 1e300, -1e300, [], 0)),
            *({"stage": it} for it in ("x", -1, 2**63)),
            {"code": 7, "message": 7, "hint": []},
        ]
        codes = ("refused", "nonsense", "revoked", "unknown_task", "result_lost", "no_capacity")
        code = codes[self.turn // len(wrong) % len(codes)]
        return {"code": code, "message": lies.NASTY, **wrong[self.turn % len(wrong)]}

"""The door for other agents: over real links, who may ask what."""

from __future__ import annotations

import ast
import hashlib
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest

from meshnode.edge import peers
from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, MeshError, ModelNotFound, NoNodeInZone, PermissionDenied, TransferFailed
from meshnode.links.link import Link
from meshnode.trust import form, identity
from meshnode.wire import tensors
from meshnode.wire.batches import pack_batch, unpack_batch
from meshnode.wire.messages import (
    AdvertPull,
    Ask,
    Infer,
    PeerRequest,
    PieceAsk,
    PieceListAsk,
    Quote,
    QuoteAsk,
    StreamPing,
    TrustSync,
    ViewNews,
    ViewRows,
    Vitals,
    VitalsAsk,
)
from tests.edge.living import ask, founder, joiner, workers
from tests.edge.test_local import ECHO
from tests.waiting import until

TASK = "1" * 32


def to(node: Node, other: Node) -> Link:
    link = node.pool.get(other.keeper.id)
    assert link is not None
    return link


async def with_echo(ann: Node, bob: Node) -> str:
    """The model on ann's disk, known on both; its digest."""
    added = await ask(ann.home, "model.add", {"path": ECHO, "name": "echo"})
    await until(lambda: bob.catalog.manifests(), "bob knows the model")
    return str(added["digest"])


def test_every_request_has_its_case() -> None:
    """What a link decodes as a request of a peer is answered by this door, and nothing else is."""
    cases = [it.cls for it in ast.walk(ast.parse(inspect.getsource(peers))) if isinstance(it, ast.MatchClass)]
    assert {cls.__name__ for cls in get_args(PeerRequest)} == {it.id for it in cases if isinstance(it, ast.Name)}


async def test_a_peer_sees_load_and_gets_quotes(pair: tuple[Node, Node]) -> None:
    """What it says at this moment; the model that it would have to fetch is in the quote."""
    ann, bob = pair
    digest = await with_echo(ann, bob)
    assert isinstance((await to(ann, bob).call(StreamPing())).message, ViewNews)
    vitals: Any = (await to(ann, bob).call(VitalsAsk())).message
    assert isinstance(vitals, Vitals)
    assert (0, 0) == (vitals.in_flight, vitals.tasks_done)
    quote: Any = (await to(ann, bob).call(QuoteAsk(task=TASK, model=digest, deadline_s=5.0))).message
    assert isinstance(quote, Quote)
    assert bob.catalog.resolve("echo").size == quote.fetch_bytes
    there: Any = (await to(bob, ann).call(QuoteAsk(task=TASK, model=digest, deadline_s=5.0))).message
    assert 0 == there.fetch_bytes


async def test_pieces_of_known_models_are_given_and_nothing_else(pair: tuple[Node, Node]) -> None:
    """They verify against the signed manifest; pieces and files that there are not, and other models, are refused."""
    ann, bob = pair
    digest = await with_echo(ann, bob)
    link = to(bob, ann)
    manifest = bob.catalog.resolve("echo")
    hashes = bytes((await link.call(PieceListAsk(model=digest, file=0))).body)
    piece = bytes((await link.call(PieceAsk(model=digest, file=0, piece=0))).body)
    assert manifest.files[0].pieces == hashlib.sha256(hashes).digest()
    assert hashes == hashlib.sha256(piece).digest()
    for wrong in (PieceAsk(model=digest, file=0, piece=1), PieceAsk(model=digest, file=7, piece=0)):
        with pytest.raises(MeshError) as caught:
            await link.call(wrong)
        assert caught.value.code in (TransferFailed.code, InvalidInput.code, "protocol_error"), caught.value
    with pytest.raises(ModelNotFound):
        await link.call(PieceAsk(model="f" * 64, file=0, piece=0))
    await ask(ann.home, "model.remove", {"model": "echo"})
    with pytest.raises(ModelNotFound):
        await link.call(PieceListAsk(model=digest, file=0))


async def test_a_worker_without_the_role_submitter_gets_nothing_run(tmp_path: Path) -> None:
    """It may still serve; its own tasks are refused by every peer."""
    async with founder(tmp_path / "ann") as first, joiner(tmp_path / "bob", first.node, role="worker") as second:
        ann, bob = first.node, second.node
        digest = await with_echo(ann, bob)
        specs, parts = tensors.encode({})
        infer = Infer(task=TASK, attempt=1, model=digest, deadline_s=5.0, inputs=specs)
        for request, body in ((infer, parts), (QuoteAsk(task=TASK, model=digest, deadline_s=5.0), ())):
            with pytest.raises(PermissionDenied, match="may not submit") as caught:
                await to(bob, ann).call(request, body)
            assert "--role submitter" in caught.value.hint
        assert isinstance((await to(ann, bob).call(QuoteAsk(task=TASK, model=digest, deadline_s=5.0))).message, Quote)
    assert [] == workers()


async def test_a_submitter_s_machine_is_given_no_work(tmp_path: Path) -> None:
    """A member that was invited to submit only is never chosen, also when it is named."""
    async with founder(tmp_path / "ann") as first, joiner(tmp_path / "bob", first.node, role="submitter") as second:
        ann, bob = first.node, second.node
        await with_echo(ann, bob)
        assert "worker" in first.node.keeper.statements.members()[0].roles
        assert ann.dispatcher.chooser.knowing.may_work(ann.keeper.id)
        assert not ann.dispatcher.chooser.knowing.may_work(bob.keeper.id)
        assert not bob.dispatcher.chooser.knowing.may_work(bob.keeper.id)
    assert [] == workers()


async def test_the_zone_of_the_grant_counts_and_not_the_one_that_is_claimed(tmp_path: Path) -> None:
    """A node that was invited into `us` cannot call itself `eu` to get what is bound there."""
    async with (
        founder(tmp_path / "ann", zone="eu") as first,
        joiner(tmp_path / "bob", first.node, zone="us/east") as second,
    ):
        ann, bob = first.node, second.node
        digest = await with_echo(ann, bob)
        member = ann.membership.member(bob.keeper.id)
        assert member is not None
        assert member.advert is not None
        assert "us/east" == member.advert.zone
        with pytest.raises(NoNodeInZone, match="us/east"):
            await to(ann, bob).call(QuoteAsk(task=TASK, model=digest, deadline_s=5.0, zone="eu"))
        await to(ann, bob).call(QuoteAsk(task=TASK, model=digest, deadline_s=5.0, zone="us"))
    assert [] == workers()


async def test_a_member_without_a_grant_may_only_talk_about_trust(pair: tuple[Node, Node]) -> None:
    """Its grant is taken back while the link stands: no load, no pieces, no tasks; it may still learn why."""
    ann, bob = pair
    digest = await with_echo(ann, bob)
    grant = ann.keeper.statements.grant(bob.keeper.id)
    assert grant is not None
    admin: Any = ann.keeper.admin_key
    body = form.revoke_statement_body(grant.statement)
    ann.keeper.state("revoke", body, admin, identity.public_der(admin))
    link = to(bob, ann)
    for request in (
        VitalsAsk(),
        QuoteAsk(task=TASK, model=digest, deadline_s=1.0),
        PieceAsk(model=digest, file=0, piece=0),
        PieceListAsk(model=digest, file=0),
        Infer(task=TASK, attempt=1, model=digest, deadline_s=1.0, inputs=()),
    ):
        with pytest.raises(PermissionDenied, match="has no grant"):
            await link.call(request)
    received = await link.call(TrustSync(), (pack_batch(sorted(bob.keeper.statements.ids())),))
    assert unpack_batch(received.body, item_bytes_max=1 << 16)


async def test_adverts_are_given_as_their_owners_signed_them(pair: tuple[Node, Node]) -> None:
    """Of the nodes that were asked for and are known; strangers' ids are simply not in the answer."""
    ann, bob = pair
    ids = [ann.keeper.id.encode(), b"z" * 52, "é".encode()]
    received = await to(bob, ann).call(AdvertPull(), (pack_batch(ids),))
    (data,) = unpack_batch(received.body, item_bytes_max=1 << 16)
    assert ann.membership._adverts.bytes_of(ann.keeper.id) == data
    received = await to(bob, ann).call(AdvertPull(), (pack_batch(ids[:1] * 20_000),))
    assert [data] == unpack_batch(received.body, item_bytes_max=1 << 16), "each once, however often it was asked for"


async def test_what_is_for_local_clients_is_not_for_peers(pair: tuple[Node, Node]) -> None:
    """`stop` over a peer's link is no request there; the link and the agent go on."""
    ann, bob = pair
    with pytest.raises(MeshError, match="not a valid request"):
        await to(bob, ann).call(Ask(verb="stop"))
    with pytest.raises(MeshError):
        await to(bob, ann).call(ViewRows(), (b"\xc1",))
    assert isinstance((await to(bob, ann).call(StreamPing())).message, ViewNews)

"""Many that fetch one model at once: each gives what it has, and all are done soon after one would be."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.catalog import transfer
from meshnode.catalog.fellows import FRESH_S, NAMED_MAX, Fellows
from meshnode.catalog.fetch import Fetcher
from meshnode.catalog.giving import Giver
from meshnode.catalog.manifest import piece_count
from meshnode.catalog.pieces import Stop
from meshnode.catalog.rarity import Rarity, pack, unpack
from meshnode.catalog.rate import Rate
from meshnode.catalog.steps import AskHave, AskPiece, Failed, GiveUp, HaveCame, Holders, NoHave, OnDisk
from meshnode.catalog.store import Store
from meshnode.catalog.transfer import HAVE_S, STALL_S, Transfer
from meshnode.errors import TransferFailed
from meshnode.wire.messages import Digest, NodeId, PieceAsk, PieceListAsk
from tests.catalog.making import PIECE, SETTINGS, A, B, C, D, manifest_of, plain, tree, with_data
from tests.catalog.swarm import Town
from tests.catalog.test_transfer import First, Model, model

PIECES = 200
PIECE_S = 0.042
"""1 MiB at 200 Mbit/s: the figure of the page on transfers is for a model of 200 MB."""


@pytest.mark.parametrize("seed", range(5))
def test_seven_at_once_take_hardly_longer_than_one(seed: int) -> None:
    """From one source over equal wires: at most 1.6 times one copy, and the source sends far less than seven."""
    town = Town(model(PIECES * PIECE), 7, seed, piece_s=PIECE_S)
    assert town.run() <= 1.6 * PIECES * PIECE_S
    assert sum(town.source.sent.values()) <= 1.6 * PIECES


def test_one_alone_takes_one_copy() -> None:
    """Asking around costs nothing where nobody else is."""
    town = Town(model(PIECES * PIECE), 1, 1, piece_s=PIECE_S)
    assert town.run() <= 1.05 * PIECES * PIECE_S
    assert {1} == set(town.source.sent.values())


def test_the_source_may_die_once_each_piece_has_left_it() -> None:
    """What the others have together is enough."""
    town = Town(model(PIECES * PIECE), 4, 3, piece_s=PIECE_S)
    step = 0.0
    while len(town.source.sent) < PIECES:
        step += 0.5
        town.run(step)
    town.run(step + 40 * PIECE_S)  # what was asked for has arrived
    town.source.dead = True
    assert town.run() < float("inf")


def test_when_a_piece_died_with_its_only_holder_all_give_up() -> None:
    """Nobody waits for ever for what nobody has; the error says that it is gone."""
    town = Town(model(PIECES * PIECE), 3, 3, piece_s=PIECE_S)
    town.run(10 * PIECE_S)
    town.source.dead = True
    with pytest.raises(TransferFailed, match="cannot be fetched"):
        town.run(600.0)


def fetching(it: Model, *whole: NodeId) -> Transfer:
    """All pieces are missing, and the holders have just been asked what they have."""
    core = Transfer(C, it.manifest, SETTINGS, First(1))
    core.handle(0.0, Holders(whole))
    core.handle(0.0, it.list_came(whole[0]))
    return core


def bits(count: int, *indexes: int) -> bytes:
    flags = np.zeros(count, np.bool_)
    flags[list(indexes)] = True
    return pack(flags)


def test_the_rarest_goes_first_and_a_fellow_is_asked_only_for_what_it_has() -> None:
    """B has the first three: from the source the others are asked, from B one of those."""
    it = model(6 * PIECE)
    core = fetching(it, A)
    effects = core.handle(0.0, HaveCame(A, bits(6, *range(6)), bits(6), (B,)))
    assert [AskHave(B)] == effects
    core.handle(0.0, HaveCame(B, bits(6, 0, 1, 2), bits(6), ()))
    asked = [effect for effect in core.handle(0.0, OnDisk(0, ())) if isinstance(effect, AskPiece)]
    assert {3, 4, 5} <= {ask.index for ask in asked if ask.holder == A}
    assert {0, 1, 2} >= {ask.index for ask in asked if ask.holder == B}
    assert {ask.holder for ask in asked} == {A, B}
    assert 6 == len({ask.index for ask in asked})


def test_what_the_source_has_given_away_counts_as_there() -> None:
    """It is with somebody soon; the one that nobody was given goes first."""
    core = fetching(model(6 * PIECE), A)
    core.handle(0.0, HaveCame(A, bits(6, *range(6)), bits(6, 0, 1, 2, 3, 4), ()))
    first = next(effect for effect in core.handle(0.0, OnDisk(0, ())) if isinstance(effect, AskPiece))
    assert 5 == first.index


def test_holders_are_asked_again_what_they_have() -> None:
    """About twice a second, never while a question is open, and one that does not know the question stays a holder."""
    core = Transfer(C, model(2 * PIECE).manifest, SETTINGS, random.Random(1))
    assert AskHave(A) in core.handle(0.0, Holders((A,)))
    assert AskHave(A) not in core.handle(9.0, Holders((A,)))
    assert AskHave(A) not in core.handle(9.0, NoHave(A))
    due = core.next_deadline()
    assert due is not None
    assert 9.0 < due <= 9.0 + 1.25 * HAVE_S
    assert AskHave(A) in core.handle(due, Holders((A,)))


def test_fellows_that_lack_the_same_are_waited_for_and_not_for_ever() -> None:
    """The source is gone; the fellow may come by the rest, and after a while it is given up."""
    it = model(2 * PIECE)
    core = fetching(it, A)
    core.handle(0.0, HaveCame(A, bits(2, 0, 1), bits(2), (B,)))
    core.handle(0.0, HaveCame(B, bits(2, 0), bits(2), ()))
    assert [AskPiece(A, 0, 1)] == core.handle(0.0, OnDisk(0, (0,)))
    core.handle(0.1, Holders(()))
    core.handle(0.2, Failed(A, 0, 1, "connection reset"))
    assert not [it for it in core.handle(STALL_S - 1, Holders(())) if isinstance(it, GiveUp)]
    assert [GiveUp] == [type(it) for it in core.handle(STALL_S + 1, Holders(())) if not isinstance(it, AskHave)]


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(st.lists(st.booleans(), min_size=n, max_size=n), st.binary())))
def test_bitmaps_are_read_as_they_were_written_and_others_bounded(case: tuple[list[bool], bytes]) -> None:
    """A strange one gives no more pieces than there are, and no error."""
    flags, strange = np.array(case[0], np.bool_), case[1]
    assert flags.tolist() == unpack(pack(flags), len(flags)).tolist()
    assert len(flags) == len(unpack(strange, len(flags)))


def test_of_equals_each_is_drawn() -> None:
    """Or all would ask the source for the same piece."""
    rarity = Rarity(8, random.Random(1))
    rarity.wanted[:] = True
    assert set(range(8)) == {rarity.pick(None) for _ in range(200)}
    assert rarity.pick(np.zeros(8, np.bool_)) is None


def test_a_rate_lets_pass_what_it_says() -> None:
    """Ten pieces at one a second take nine seconds of waiting; an idle time is not saved up; 0 is no bound."""
    rate = Rate(1000.0)
    assert [0.0, *(n + 0.75 for n in range(9))] == [rate.wait_s(0.0, 1000) for _ in range(10)]
    assert 0.0 == Rate(1000.0).wait_s(50.0, 10**6)
    assert [0.0] * 3 == [Rate(0.0).wait_s(0.0, 10**9) for _ in range(3)]


def test_fellows_hear_of_each_other_while_they_ask() -> None:
    """Whoever asked lately is named to the others, at most so many, and forgotten with what it was given."""
    fellows, digest = Fellows(random.Random(1)), Digest("0" * 64)
    assert () == fellows.asked(0.0, digest, A)
    fellows.gave(digest, 7)
    assert (A,) == fellows.asked(1.0, digest, B)
    assert {7} == fellows.given(digest)
    assert (B,) == fellows.asked(FRESH_S + 0.5, digest, C)
    fellows.clean(99.0)
    assert set() == fellows.given(digest)
    for number in range(200):
        fellows.asked(100.0, digest, NodeId(str(number)))
    assert NAMED_MAX == len(fellows.asked(100.0, digest, A))


async def test_receivers_give_what_they_have_while_they_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real stores, a source with a narrow way out: the others bring each other part of it, and all of it is right."""
    monkeypatch.setattr(transfer, "HAVE_S", 0.05)  # the model is as small
    slow = replace(SETTINGS, upload_bytes_s=250_000.0)
    stores = {node: Store(tmp_path / node[0], SETTINGS) for node in (A, B, C, D)}
    for store in stores.values():
        store.open()
    manifest = manifest_of(await stores[A].add(with_data(tmp_path / "model", count=64_000)))
    givers = {node: Giver(stores[node], slow if node == A else SETTINGS, random.Random(1)) for node in stores}
    gave: Counter[NodeId] = Counter()

    def fetcher(me: NodeId) -> Fetcher:
        async def ask(node: NodeId, ask: PieceAsk | PieceListAsk) -> bytes:
            if isinstance(ask, PieceListAsk):
                return await givers[node].piece_list(manifest, ask.file)
            gave[node] += 1
            return await givers[node].piece(manifest, ask.file, ask.piece)

        async def ask_have(node: NodeId, _: Digest) -> tuple[bytes, tuple[NodeId, ...]]:
            return givers[node].have(manifest, me)

        return Fetcher(me, stores[me], SETTINGS, ask, ask_have, lambda _: [A], random.Random(me[0]))

    async with asyncio.timeout(30):
        await asyncio.gather(*(fetcher(node).ensure(manifest) for node in (B, C, D)))
    files = {node: tree(stores[node].folder / manifest.digest) for node in stores}
    assert all(files[A] == files[node] for node in (B, C, D))
    pieces = sum(piece_count(file, PIECE) for file in manifest.files)
    assert gave[A] < 2 * pieces
    assert gave[B] + gave[C] + gave[D] > pieces


async def test_a_piece_that_rotted_in_a_half_model_is_not_given(store: Store, tmp_path: Path) -> None:
    """It is read again and hashed before it goes; what is not here yet is refused as well."""
    source = Store(tmp_path / "source", SETTINGS)
    source.open()
    manifest = manifest_of(await source.add(plain(tmp_path / "m.onnx")))
    hashes = await source.piece_list(manifest.digest, 0, PIECE)
    partial = store.begin(manifest)
    assert [] == partial.held(0, [hashes[i : i + 32] for i in range(0, len(hashes), 32)], Stop())
    partial.write(0, 1, await source.piece(manifest.digest, 0, 1, PIECE))
    assert await source.piece(manifest.digest, 0, 1, PIECE) == await store.piece(manifest.digest, 0, 1, PIECE)
    with pytest.raises(TransferFailed, match="not here yet"):
        await store.piece(manifest.digest, 0, 0, PIECE)
    partial.folder.joinpath(manifest.files[0].path).write_bytes(bytes(2 * PIECE))
    with pytest.raises(TransferFailed, match="damaged"):
        await store.piece(manifest.digest, 0, 1, PIECE)
    assert set() == store.present(manifest.digest)

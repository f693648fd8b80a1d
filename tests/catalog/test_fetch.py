"""Fetching for real: stores on disk, holders that answer, lie, die or dawdle."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshnode.catalog.contents import Contents
from meshnode.catalog.fetch import Fetcher
from meshnode.catalog.manifest import Manifest, digest_of, piece_count
from meshnode.catalog.store import Store, Stored
from meshnode.catalog.verdict import Verdict
from meshnode.errors import ModelRefused, NoNodeInZone, PeerLost, ProtocolError, TransferFailed
from meshnode.wire.messages import Digest, NodeId, PieceAsk, PieceListAsk
from tests.catalog.conftest import SmallDisk
from tests.catalog.making import PIECE, SETTINGS, A, B, C, F, manifest_of, plain, tree, with_data
from tests.catalog.zoo import doubling
from tests.waiting import until

Twist = Callable[[PieceAsk | PieceListAsk, bytes], Awaitable[bytes]]


class Mesh:
    """Holders around one receiver: what each does with an answer can be twisted."""

    def __init__(self, source: Store, manifest: Manifest, *holders: NodeId) -> None:
        self.source = source
        self.manifest = manifest
        self.holders = list(holders)
        self.twists: dict[NodeId, Twist] = {}
        self.asked: Counter[tuple[NodeId, str]] = Counter()
        self.pieces: Counter[tuple[int, int]] = Counter()

    async def ask(self, node: NodeId, ask: PieceAsk | PieceListAsk) -> bytes:
        self.asked[node, type(ask).__name__] += 1
        piece_bytes = self.manifest.piece_bytes
        if isinstance(ask, PieceListAsk):
            data = await self.source.piece_list(Digest(ask.model), ask.file, piece_bytes)
        else:
            data = await self.source.piece(Digest(ask.model), ask.file, ask.piece, piece_bytes)
            self.pieces[ask.file, ask.piece] += 1
        twist = self.twists.get(node)
        return data if twist is None else await twist(ask, data)

    async def ask_have(self, _node: NodeId, _digest: Digest) -> tuple[bytes, tuple[NodeId, ...]]:
        """Holders of an older version: they do not know the question."""
        raise ProtocolError("not a valid request")

    def fetcher(self, store: Store, **settings: float) -> Fetcher:
        return Fetcher(
            F,
            store,
            replace(SETTINGS, **settings),
            self.ask,
            self.ask_have,
            lambda _: list(self.holders),
            random.Random(1),
        )


@pytest.fixture
async def mesh(tmp_path: Path) -> Mesh:
    """One model of two files and 17 pieces, held by one node."""
    source = Store(tmp_path / "source", SETTINGS)
    source.open()
    return Mesh(source, manifest_of(await source.add(with_data(tmp_path / "a", count=16_000))), A)


def assert_same(mesh: Mesh, store: Store) -> None:
    """The receiver has the source's files and nothing else."""
    digest = mesh.manifest.digest
    for file in mesh.manifest.files:
        given = (mesh.source.folder / digest / file.path).read_bytes()
        assert given == (store.folder / digest / file.path).read_bytes()
    assert [digest] == [path.name for path in store.folder.iterdir()]
    assert store.proven(digest)


async def test_a_model_comes_whole_from_a_holder(mesh: Mesh, store: Store) -> None:
    """Each piece moves once, and the file is where the answer says."""
    moved: list[tuple[int, int]] = []
    path = await mesh.fetcher(store).ensure(mesh.manifest, lambda done, total: moved.append((done, total)))
    assert store.path(mesh.manifest.digest) == path
    assert_same(mesh, store)
    assert {1} == set(mesh.pieces.values())
    assert (mesh.manifest.size, mesh.manifest.size) == moved[-1]
    again = Store(store.folder, SETTINGS)
    again.open()
    assert await again.verify(mesh.manifest.digest)


async def test_several_holders_share_the_work(mesh: Mesh, store: Store) -> None:
    """Everyone who has it gives some of it."""
    mesh.holders += [B, C]
    await mesh.fetcher(store).ensure(mesh.manifest)
    assert_same(mesh, store)
    assert {A, B, C} == {node for node, kind in mesh.asked if kind == "PieceAsk"}


async def test_who_wants_the_same_model_waits_for_the_same_transfer(mesh: Mesh, store: Store) -> None:
    """A hundred tasks make one fetch; one that gives up does not stop it."""
    fetcher = mesh.fetcher(store)
    waits = [asyncio.ensure_future(fetcher.ensure(mesh.manifest)) for _ in range(100)]
    await asyncio.sleep(0)
    waits[0].cancel()
    paths = await asyncio.gather(*waits[1:])
    assert 1 == len(set(paths))
    assert {1} == set(mesh.pieces.values())
    assert len(mesh.manifest.files) == mesh.asked[A, "PieceListAsk"]


async def test_a_liar_gets_nothing_onto_the_disk(mesh: Mesh, store: Store) -> None:
    """Its bytes are never written, it is asked no more, and an honest holder brings the model."""
    mesh.holders.append(B)

    async def lie(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        return data if isinstance(ask, PieceListAsk) else b"\xee" * len(data)

    mesh.twists[B] = lie
    await mesh.fetcher(store).ensure(mesh.manifest)
    assert_same(mesh, store)
    assert mesh.asked[B, "PieceAsk"] <= SETTINGS.pieces_in_flight


async def test_only_liars_end_in_an_error_that_names_them(mesh: Mesh, store: Store) -> None:
    """Nothing that could be taken for a model is left behind."""

    async def lie(_ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        return bytes(len(data))

    mesh.twists[A] = lie
    with pytest.raises(TransferFailed, match=f"{A[:8]}: its piece list"):
        await mesh.fetcher(store).ensure(mesh.manifest)
    assert not store.has(mesh.manifest.digest)


async def test_a_holder_that_dies_midway_is_replaced_by_another(mesh: Mesh, store: Store) -> None:
    """Its open pieces are asked from the one that lives; nothing comes twice that came once."""
    mesh.holders.append(B)
    answered = 0

    async def die(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        nonlocal answered
        answered += isinstance(ask, PieceAsk)
        if answered > 3:
            raise PeerLost("connection reset")
        return data

    mesh.twists[A] = die
    await mesh.fetcher(store).ensure(mesh.manifest)
    assert_same(mesh, store)


async def test_a_holder_that_says_nothing_costs_its_time_limit_only(mesh: Mesh, store: Store) -> None:
    """Silence is a failure after a while; the others go on meanwhile."""
    mesh.holders.append(B)

    async def hang(_ask: PieceAsk | PieceListAsk, _data: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    mesh.twists[B] = hang
    async with asyncio.timeout(20):
        await mesh.fetcher(store, piece_timeout_s=0.2).ensure(mesh.manifest)
    assert_same(mesh, store)


async def test_a_restart_goes_on_where_it_was(mesh: Mesh, store: Store) -> None:
    """The receiver is stopped midway; after it is back, what was written is not asked for again."""
    reached = asyncio.Event()
    limit = 7

    async def stop_after(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        if isinstance(ask, PieceAsk) and sum(mesh.pieces.values()) > limit:
            reached.set()
            await asyncio.Event().wait()
        return data

    mesh.twists[A] = stop_after
    fetcher = mesh.fetcher(store, pieces_in_flight=1)
    waiting = asyncio.ensure_future(fetcher.ensure(mesh.manifest))
    await asyncio.wait_for(reached.wait(), 20)
    await fetcher.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert limit + 1 == sum(mesh.pieces.values())

    mesh.twists.clear()
    again = Store(store.folder, SETTINGS)
    again.open()
    assert [] == again.digests()
    await mesh.fetcher(again).ensure(mesh.manifest)
    assert_same(mesh, again)
    twice = [piece for piece, times in mesh.pieces.items() if times > 1]
    assert 1 >= len(twice)


async def test_half_written_pieces_are_fetched_again(mesh: Mesh, store: Store) -> None:
    """What a crash left in the folder is only believed where it matches."""
    partial = store.begin(mesh.manifest)
    data = (mesh.source.folder / mesh.manifest.digest / "weights.bin").read_bytes()
    (partial.folder / "weights.bin").write_bytes(data[: PIECE + 100] + bytes(PIECE) + data[2 * PIECE + 100 :] + b"tail")
    (partial.folder / "stray").write_bytes(b"?")
    store.end(partial)
    await mesh.fetcher(store).ensure(mesh.manifest)
    assert_same(mesh, store)
    assert {1, 2} == {index for file, index in mesh.pieces if file == 1}


async def test_nobody_has_it(mesh: Mesh, store: Store) -> None:
    """Said at once, and tried again when asked again."""
    mesh.holders.clear()
    fetcher = mesh.fetcher(store)
    with pytest.raises(TransferFailed, match="no node that is up has it"):
        await fetcher.ensure(mesh.manifest)
    mesh.holders.append(A)
    await fetcher.ensure(mesh.manifest)
    assert_same(mesh, store)


async def test_a_copy_that_rotted_is_fetched_anew(mesh: Mesh, store: Store) -> None:
    """The first use after a start hashes; what does not match is replaced, and no task sees it."""
    await mesh.fetcher(store).ensure(mesh.manifest)
    path = store.folder / mesh.manifest.digest / "weights.bin"
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\xff\xff\xff\xff")
    again = Store(store.folder, SETTINGS)
    again.open()
    await mesh.fetcher(again).ensure(mesh.manifest)
    given = mesh.source.folder / mesh.manifest.digest / "weights.bin"
    assert given.read_bytes() == (again.folder / mesh.manifest.digest / "weights.bin").read_bytes()


async def test_a_manifest_that_contradicts_itself_is_fetched_once(mesh: Mesh, store: Store) -> None:
    """The pieces match and the file does not: the publisher's fault, and not worth the network again."""
    first, second = mesh.manifest.files
    wrong = replace_struct(mesh.manifest, (first, type(second)(second.path, second.size, bytes(32), second.pieces)))
    forged = Mesh(mesh.source, wrong, A)

    async def ask(node: NodeId, ask: PieceAsk | PieceListAsk) -> bytes:
        real = type(ask)(**{**{f: getattr(ask, f) for f in ask.__struct_fields__}, "model": mesh.manifest.digest})
        return await forged.ask(node, real)

    fetcher = Fetcher(F, store, SETTINGS, ask, forged.ask_have, lambda _: [A], random.Random(1))
    for _ in range(2):
        with pytest.raises(ModelRefused, match="contradicts itself"):
            await fetcher.ensure(wrong)
    assert {1} == set(forged.pieces.values())
    assert [] == list(store.folder.iterdir())


def replace_struct(manifest: Manifest, files: tuple[object, ...]) -> Manifest:
    return Manifest(manifest.name, 1, files, (), (), manifest.piece_bytes, publisher=A)  # type: ignore[arg-type]


async def test_what_is_bound_elsewhere_on_its_way_is_not_kept(mesh: Mesh, store: Store) -> None:
    """The answer changes while pieces come: the model does not appear, and none of it stays."""
    outside = False

    def may(_manifest: Manifest) -> None:
        if outside:
            raise NoNodeInZone("it is bound to zone 'eu'")

    async def bind(_ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        nonlocal outside
        outside = mesh.asked[A, "PieceAsk"] >= 16
        return data

    mesh.twists[A] = bind
    fetcher = Fetcher(F, store, SETTINGS, mesh.ask, mesh.ask_have, lambda _: [A], random.Random(1), may)
    with pytest.raises(NoNodeInZone, match="bound to zone"):
        await fetcher.ensure(mesh.manifest)
    assert mesh.asked[A, "PieceAsk"] >= 16
    assert [] == list(store.folder.iterdir())


async def test_no_byte_moves_when_the_disk_has_no_room(mesh: Mesh, tmp_path: Path) -> None:
    """The node says how much is missing; the task may go to another."""
    store = Store(tmp_path / "models", replace(SETTINGS, disk_reserve_bytes=2**60))
    store.open()
    with pytest.raises(TransferFailed, match="cannot keep the model") as caught:
        await mesh.fetcher(store).ensure(mesh.manifest)
    assert caught.value.retry_elsewhere
    assert "bytes free" in caught.value.hint
    assert not mesh.asked


async def test_models_on_their_way_share_the_free_space(mesh: Mesh, tmp_path: Path) -> None:
    """Two that would fit alone but not together: the second is refused before its first byte."""
    free = os.statvfs(tmp_path)
    store = Store(tmp_path / "models", replace(SETTINGS, disk_reserve_bytes=0))
    store.open()
    huge = free.f_bavail * free.f_frsize * 6 // 10
    manifests = [
        Manifest(name, 1, (type(mesh.manifest.files[0])("m", huge + i, bytes(32), bytes(32)),), (), (), 1 << 26)
        for i, name in enumerate("ab")
    ]
    store.begin(manifests[0])
    with pytest.raises(TransferFailed, match="being fetched"):
        await mesh.fetcher(store).ensure(manifests[1])


async def test_a_disk_that_fills_up_meanwhile_gets_its_space_back(
    mesh: Mesh, small_disk: SmallDisk, tmp_path: Path
) -> None:
    """No space left in the middle of a transfer: the task may go elsewhere, and the half model is taken away."""
    store = Store(small_disk.path / "models", SETTINGS)
    store.open()

    async def fill(_ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        if sum(mesh.pieces.values()) > 3:
            small_disk.fill()
        return data

    mesh.twists[A] = fill
    with pytest.raises(TransferFailed, match="cannot keep the model"):
        await mesh.fetcher(store, pieces_in_flight=1).ensure(mesh.manifest)
    assert [] == list(store.folder.iterdir())


async def test_a_model_larger_than_allowed_here_is_not_fetched(mesh: Mesh, tmp_path: Path) -> None:
    """A node's own limit sends the task elsewhere."""
    store = Store(tmp_path / "models", replace(SETTINGS, model_bytes_max=100))
    store.open()
    with pytest.raises(TransferFailed, match="100 are allowed here"):
        await mesh.fetcher(store).ensure(mesh.manifest)


async def test_a_bug_in_asking_ends_the_transfer(mesh: Mesh, store: Store) -> None:
    """No task waits for ever for an answer that cannot come."""

    async def break_(_ask: PieceAsk | PieceListAsk, _data: bytes) -> bytes:
        raise ZeroDivisionError

    mesh.twists[A] = break_
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(mesh.fetcher(store).ensure(mesh.manifest), 20)


async def test_pieces_of_a_model_of_one_file(store: Store, tmp_path: Path) -> None:
    """The common case, with a last piece that is short."""
    source = Store(tmp_path / "source", SETTINGS)
    source.open()
    mesh = Mesh(source, manifest_of(await source.add(plain(tmp_path / "m.onnx"))), A)
    await mesh.fetcher(store).ensure(mesh.manifest)
    assert_same(mesh, store)
    assert piece_count(mesh.manifest.files[0], PIECE) == len(mesh.pieces)


async def test_a_holder_that_comes_back_meanwhile_is_asked(mesh: Mesh, store: Store) -> None:
    """The only holder hangs; another comes up while the model is under way and brings it."""

    async def hang(_ask: PieceAsk | PieceListAsk, _data: bytes) -> bytes:
        mesh.holders.append(B)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    mesh.twists[A] = hang
    async with asyncio.timeout(30):
        await mesh.fetcher(store, piece_timeout_s=20.0).ensure(mesh.manifest)
    assert_same(mesh, store)


async def test_a_model_that_is_here_moves_no_byte(mesh: Mesh, store: Store) -> None:
    """After the first time neither a holder is asked nor progress told."""
    fetcher = mesh.fetcher(store)
    path = await fetcher.ensure(mesh.manifest)
    mesh.asked.clear()
    assert path == await fetcher.ensure(mesh.manifest, lambda *_: pytest.fail("nothing moves"))
    assert not mesh.asked


async def test_a_task_that_gives_up_leaves_the_transfer_running(mesh: Mesh, store: Store) -> None:
    """The only one that waited is cancelled: the model comes all the same, and the next task finds it."""
    gate = asyncio.Event()

    async def hold(_ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        await gate.wait()
        return data

    mesh.twists[A] = hold
    fetcher = mesh.fetcher(store)
    waiting = asyncio.ensure_future(fetcher.ensure(mesh.manifest))
    await until(lambda: mesh.asked, "the transfer has begun")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await until(lambda: store.has(mesh.manifest.digest), "the model came")
    await fetcher.ensure(mesh.manifest)
    assert {1} == set(mesh.pieces.values())


async def test_stopping_ends_all_transfers(mesh: Mesh, store: Store) -> None:
    """Whoever waits is told, and nothing is under way afterwards."""

    async def hang(_ask: PieceAsk | PieceListAsk, _data: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    mesh.twists[A] = hang
    fetcher = mesh.fetcher(store)
    waiting = asyncio.ensure_future(fetcher.ensure(mesh.manifest))
    await until(lambda: mesh.asked, "the transfer has begun")
    await fetcher.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_a_fetched_model_is_judged_before_it_appears(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher who scans nothing gets a hostile model into the mesh, and into nobody's store; it is fetched once."""
    monkeypatch.setattr("meshnode.catalog.judge.scan", lambda _: Verdict(0, 8, {}, (), 1, 1, 0, 1, 0, 0, {}))
    source = Store(tmp_path / "source", SETTINGS)
    source.open()
    (tmp_path / "bomb.onnx").write_bytes(doubling())
    mesh = Mesh(source, manifest_of(await source.add(tmp_path / "bomb.onnx")), A)
    monkeypatch.undo()
    fetcher = mesh.fetcher(store)
    for _ in range(2):
        with pytest.raises(ModelRefused, match="nodes"):
            await fetcher.ensure(mesh.manifest)
    assert 1 == mesh.asked[A, "PieceAsk"]
    assert {} == tree(store.folder)
    assert "nodes" in str(fetcher.refused(mesh.manifest))


async def test_a_fetched_model_reads_only_its_own_files(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that leaves out, or shortens, a file that the model reads is found out before the model is loaded."""
    source = Store(tmp_path / "source", SETTINGS)
    source.open()
    stored = await source.add(with_data(tmp_path / "a"))
    monkeypatch.setattr(Verdict, "check_files", lambda *_: None)
    (tmp_path / "a" / "weights.bin").write_bytes(bytes(100))
    short = await source.add(tmp_path / "a" / "big.onnx")
    monkeypatch.undo()
    mesh = Mesh(source, manifest_of(short), A)
    with pytest.raises(ModelRefused, match=r"up to byte 32000, and the file has 100"):
        await mesh.fetcher(store).ensure(mesh.manifest)
    alone = Stored(digest_of(stored.files[:1]), stored.path, stored.files[:1])
    held = source._known[stored.digest]
    source._known[alone.digest] = Contents(held.files[:1], held.piece_bytes, held.pieces[:1])
    (source.folder / alone.digest).symlink_to(stored.digest)
    mesh = Mesh(source, manifest_of(alone), A)
    with pytest.raises(ModelRefused, match="not among its files"):
        await mesh.fetcher(store).ensure(mesh.manifest)
    assert {} == tree(store.folder)

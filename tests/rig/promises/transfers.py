"""P13: a model that is cut, changed, wrong or slow on its way. P14: both ends killed while a large one is moving."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from meshnode.catalog.manifest import piece_count
from meshnode.catalog.store import Store
from meshnode.errors import MeshError, PeerLost
from meshnode.wire.messages import PieceAsk, PieceListAsk
from tests.catalog.making import SETTINGS, A, B, manifest_of, with_data
from tests.catalog.test_fetch import Mesh
from tests.mesh.carrying import PIECE, Journey
from tests.mesh.rig import rig
from tests.rig.promises.figures import Figure, at_most, none_of, told, true
from tests.rig.promises.town import Stage

Twist = Callable[[PieceAsk | PieceListAsk, bytes], Awaitable[bytes]]
FLOATS = 100_000
SLOW_S = 0.05
"""What a piece may take, with a holder that takes for ever."""


def keep(stage: Stage, full: bool) -> list[Figure]:
    """P13: with stores on disk and holders that break off, lie, have another model, or dawdle."""
    return asyncio.run(_all(stage, 99 if full else 9))


async def _all(stage: Stage, cuts: int) -> list[Figure]:
    folder = stage.fresh()
    source = Store(folder / "source", SETTINGS)
    source.open()
    mesh = Mesh(source, manifest_of(await source.add(with_data(folder / "a", count=FLOATS))), A)
    total = sum(piece_count(file, mesh.manifest.piece_bytes) for file in mesh.manifest.files)
    rng = random.Random(stage.seed)
    loaded, again = list[str](), list[str]()
    for n in range(1, cuts + 1):
        await _cut(mesh, folder / f"cut{n}", total * n // (cuts + 1), loaded, again)
    did = f"{total} pieces cut off after 1 to 99 % at {cuts} places, and had from another holder after a restart"
    figures = [
        none_of(did, "a model that was there before it was whole, or another afterwards", loaded),
        none_of(did, "pieces fetched twice", again),
    ]
    for name, twist in (("flips", _flips(rng)), ("swaps", _swaps), ("drips", _drips)):
        others, asked = list[str](), 0
        for n in range(cuts if name == "flips" else 3):
            mesh.twists, mesh.holders = {B: twist}, [A, B]
            mesh.asked.clear()
            store = Store(folder / f"{name}{n}", SETTINGS)
            store.open()
            await mesh.fetcher(store, piece_timeout_s=SLOW_S if name == "drips" else 20.0).ensure(mesh.manifest)
            if not _same(mesh, store):
                others.append(f"{name} {n}")
            asked = max(asked, mesh.asked[B, "PieceAsk"])
        did = f"beside an honest holder one that {WHAT[name]}"
        figures += [
            none_of(did, "models that are not the right one to the bit", others),
            at_most(did, "times that it was asked for a piece", asked, ASKED[name], ""),
        ]
    mesh.twists, mesh.holders = {A: _swaps, B: _flips(rng)}, [A, B]
    store, said = Store(folder / "liars", SETTINGS), "it was taken"
    store.open()
    try:
        await mesh.fetcher(store).ensure(mesh.manifest)
    except MeshError as error:
        said = error.code
    return [
        *figures,
        true("only liars", "transfer_failed, and no model", said == "transfer_failed" and not store.digests()),
    ]


ASKED = {"flips": SETTINGS.pieces_in_flight, "swaps": SETTINGS.pieces_in_flight, "drips": 3 * SETTINGS.pieces_in_flight}
"""A liar is given up at once; who is slow, after three times."""
WHAT = {
    "flips": "turns a bit of each piece",
    "swaps": "has other bytes under that digest",
    "drips": "never ends a piece",
}


async def _cut(mesh: Mesh, folder: Path, after: int, loaded: list[str], again: list[str]) -> None:
    """The holder dies after so many pieces and the receiver with it; both are there again, the holder as another."""
    came = Counter[tuple[int, int]]()
    mesh.holders = [A]

    async def breaks(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        if isinstance(ask, PieceAsk):
            if came.total() >= after:
                raise PeerLost("the holder is gone")
            came[ask.file, ask.piece] += 1
        return data

    async def counts(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        if isinstance(ask, PieceAsk):
            came[ask.file, ask.piece] += 1
        return data

    mesh.twists = {A: breaks}
    store = Store(folder, SETTINGS)
    store.open()
    try:
        await mesh.fetcher(store, pieces_in_flight=1).ensure(mesh.manifest)
        loaded.append(f"whole after {after} pieces")
    except MeshError:
        pass
    mesh.twists, mesh.holders = {B: counts}, [B]
    store = Store(folder, SETTINGS)
    store.open()
    if store.digests():
        loaded.append(f"there after {after} pieces")
    await mesh.fetcher(store, pieces_in_flight=1).ensure(mesh.manifest)
    again += [f"{piece} after {after}" for piece, times in came.items() if times > 1]
    if not _same(mesh, store):
        loaded.append(f"another after {after} pieces")


def _flips(rng: random.Random) -> Twist:
    async def twist(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
        if isinstance(ask, PieceListAsk):
            return data
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]

    return twist


async def _swaps(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
    return data[::-1]


async def _drips(ask: PieceAsk | PieceListAsk, data: bytes) -> bytes:
    if isinstance(ask, PieceAsk):
        await asyncio.sleep(3600)
    return data


def _same(mesh: Mesh, store: Store) -> bool:
    digest = mesh.manifest.digest
    return [digest] == store.digests() and all(
        (mesh.source.folder / digest / file.path).read_bytes() == (store.folder / digest / file.path).read_bytes()
        for file in mesh.manifest.files
    )


def killed(stage: Stage, full: bool) -> list[Figure]:
    """P14: receiver and source killed in turn while a model is moving; what was on the disk is not fetched again."""
    kills, nbytes, rate = (10, 200_000_000, 4e6) if full else (1, 12_000_000, 2e6)
    with rig(stage.fresh()) as it:
        journey = Journey(it, nbytes, rate)
        journey.run(kills)
        same = journey.same()
    moving = f"{nbytes / 1e6:g} MB on their way at {rate / 1e6:g} MB/s"
    did = f"{moving}; receiver and source killed (-9) in turn, {kills} times each"
    return [
        true(did, "the model is there, to the bit", same),
        at_most(did, "bytes fetched again that were on the disk, at most at a kill", max(journey.resent), PIECE, "B"),
        told(did, "at each kill", ", ".join(map(str, journey.resent))),
    ]

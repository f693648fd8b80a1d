"""The store: what it takes, what it refuses, and what it does with damage."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from msgspec import structs

from meshnode.catalog.intake import MODEL_FILE, Intake
from meshnode.catalog.judge import keep, kept
from meshnode.catalog.manifest import FILES_MAX, digest_of
from meshnode.catalog.pieces import Stop
from meshnode.catalog.store import LIST, Store
from meshnode.catalog.verdict import SCANNER, Verdict
from meshnode.errors import HomeError, ModelRefused, TransferFailed
from meshnode.wire.messages import Digest
from tests.catalog.conftest import SmallDisk
from tests.catalog.making import PIECE, SETTINGS, outside, plain, tree, weights, with_data
from tests.catalog.zoo import REFUSED, Beast, doubling


async def test_a_model_is_stored_under_its_digest(store: Store, tmp_path: Path) -> None:
    """Its files are copies of ours, read-only, and the digest is over their list."""
    source = plain(tmp_path / "my model.onnx")
    stored = await store.add(source)
    assert digest_of(stored.files) == stored.digest
    assert source.read_bytes() == stored.path.read_bytes()
    assert store.folder / stored.digest / MODEL_FILE == stored.path == store.path(stored.digest)
    assert 0o400 == stat.S_IMODE(stored.path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(stored.path.parent.stat().st_mode)
    assert store.has(stored.digest)
    assert store.proven(stored.digest)
    assert {stored.digest} == {path.name for path in store.folder.iterdir()}


async def test_external_data_comes_along(store: Store, tmp_path: Path) -> None:
    """The weights beside the model are part of it, under their own name; also when written as ./name."""
    stored = await store.add(with_data(tmp_path / "a"))
    assert [MODEL_FILE, "weights.bin"] == [file.path for file in stored.files]
    assert weights(8000).tobytes() == (stored.path.parent / "weights.bin").read_bytes()
    (tmp_path / "a" / "dot.onnx").write_bytes(outside("./weights.bin"))
    assert "weights.bin" == (await store.add(tmp_path / "a" / "dot.onnx")).files[1].path


async def test_the_progress_ends_at_all_bytes(store: Store, tmp_path: Path) -> None:
    """Each step is a piece further, through all files."""
    seen: list[tuple[int, int]] = []
    stored = await store.add(with_data(tmp_path / "a"), lambda done, total: seen.append((done, total)))
    size = sum(file.size for file in stored.files)
    assert (size, size) == seen[-1]
    assert sorted(seen) == seen
    assert size // PIECE <= len(seen)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../secret", "right beside"),
        ("/etc/hostname", "right beside"),
        ("sub/weights.bin", "right beside"),
        ("..", "right beside"),
        (".", "right beside"),
        ("./", "right beside"),
        (".hidden", "right beside"),
        ("-rf", "right beside"),
        ("a\\b", "right beside"),
        ("*/_ORT_MEM_ADDR_/*", "right beside"),
        ("nul\0byte", "right beside"),
        ("w" * 300, "right beside"),
        ("", "right beside"),
        ("nothing.bin", "missing"),
        ("link.bin", "is a link"),
        ("hard.bin", "hard link"),
        ("folder", "not a file"),
        ("pipe", "not a file"),
        (MODEL_FILE, "same name"),
    ],
)
async def test_external_data_must_be_an_ordinary_file_beside_the_model(
    store: Store, tmp_path: Path, location: str, says: str
) -> None:
    """No name in a model makes us read another file of this machine."""
    home = tmp_path / "user"
    home.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(40_000))
    (home / "link.bin").symlink_to(secret)
    (home / "hard.bin").hardlink_to(secret)
    (home / "folder").mkdir()
    os.mkfifo(home / "pipe")
    (home / MODEL_FILE).write_bytes(bytes(40_000))
    (home / "m.onnx").write_bytes(outside(location))
    with pytest.raises(ModelRefused, match=says):
        await store.add(home / "m.onnx")
    assert {} == tree(store.folder)


async def test_data_beyond_the_end_of_its_file_is_refused(store: Store, tmp_path: Path) -> None:
    """An offset, a length, or both that the file does not have."""
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    for entries in ({"offset": "0", "length": "1001"}, {"offset": "1001"}, {"offset": "4096", "length": str(2**62)}):
        (tmp_path / "m.onnx").write_bytes(outside("w.bin", 250, **entries))
        with pytest.raises(ModelRefused, match="1000"):
            await store.add(tmp_path / "m.onnx")
    assert {} == tree(store.folder)


async def test_too_many_files_are_refused_with_what_to_do(store: Store, tmp_path: Path) -> None:
    """An export with a file for each tensor is told how to become one."""
    model = onnx.load_from_string(outside("w0.bin", 1))
    for index in range(1, FILES_MAX + 1):
        model.graph.initializer.append(onnx.load_from_string(outside(f"w{index}.bin", 1)).graph.initializer[0])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused) as caught:
        await store.add(tmp_path / "m.onnx")
    assert str(FILES_MAX - 1) in str(caught.value)
    assert "one file" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "m.onnx is empty"),
        (b"\x18\0\0\0ORTM" + bytes(64), r"\.ort"),
        (os.urandom(5000), "m.onnx"),
        (b"not a model", "m.onnx"),
        (outside("w.bin")[:-30], "m.onnx"),
    ],
    ids=["empty", "ort", "random", "text", "truncated"],
)
async def test_what_is_no_model_leaves_nothing_behind(store: Store, tmp_path: Path, content: bytes, says: str) -> None:
    """Each bad file is refused with its name, and the store stays as it was."""
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelRefused, match=says):
        await store.add(tmp_path / "m.onnx")
    assert {} == tree(store.folder)


@pytest.mark.parametrize("name", ["nothing.onnx", "folder", "file/below", "loop", "n" * 300, "nul\0byte"])
async def test_a_path_that_is_no_file_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    """Missing, a folder, a loop of links, a name that no file can have."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelRefused):
        await store.add(tmp_path / name)
    assert {} == tree(store.folder)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    """The user hears that it is about the right to read."""
    source = plain(tmp_path / "m.onnx")
    source.chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ModelRefused, match="cannot be read: Permission denied"):
            Intake(source, tmp_path / "to", PIECE, 1 << 30, lambda _: None, None, Stop()).run()
    finally:
        os.seteuid(was)


async def test_a_file_that_changes_while_it_is_read_is_refused(store: Store, tmp_path: Path) -> None:
    """Half an old and half a new model is neither."""
    source = plain(tmp_path / "m.onnx")

    def grow(_done: int, _total: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(ModelRefused, match="changed"):
        await store.add(source, grow)
    assert {} == tree(store.folder)


async def test_a_model_above_the_limit_is_refused(tmp_path: Path) -> None:
    """The setting is named with both figures, external data included."""
    store = Store(tmp_path / "models", replace(SETTINGS, model_bytes_max=20_000))
    store.open()
    with pytest.raises(ModelRefused, match="20000"):
        await store.add(with_data(tmp_path / "a"))


async def test_no_byte_is_written_when_the_disk_has_no_room(tmp_path: Path) -> None:
    """The error says how much must be made free."""
    store = Store(tmp_path / "models", replace(SETTINGS, disk_reserve_bytes=2**60))
    store.open()
    with pytest.raises(HomeError, match="stay in reserve") as caught:
        await store.add(plain(tmp_path / "m.onnx"))
    assert "bytes free" in caught.value.hint
    assert {} == tree(store.folder)


async def test_a_disk_that_fills_up_meanwhile_is_an_error_and_no_model(small_disk: SmallDisk, tmp_path: Path) -> None:
    """No space left in the middle of the copy: a clear error, nothing left, and the store goes on."""
    store = Store(small_disk.path / "models", SETTINGS)
    store.open()
    small = await store.add(plain(tmp_path / "small.onnx", count=500))
    with pytest.raises(HomeError, match="cannot be stored") as caught:
        await store.add(plain(tmp_path / "m.onnx"), lambda done, _: small_disk.fill() if done == PIECE else None)
    assert "make room" in caught.value.hint
    assert [small.digest] == [path.name for path in store.folder.iterdir()]
    assert await store.verify(small.digest)


async def test_adding_twice_keeps_one_copy(store: Store, tmp_path: Path) -> None:
    """The same file at the same time, under two names, is one model."""
    one, two = plain(tmp_path / "a.onnx"), plain(tmp_path / "b.onnx")
    first, second = await asyncio.gather(store.add(one), store.add(two))
    assert first == second
    assert {first.digest} == {path.name for path in store.folder.iterdir()}


async def test_what_nobody_waits_for_any_more_ends(store: Store, tmp_path: Path) -> None:
    """A cancelled addition stops at the next piece and takes its copy away."""
    copying, go_on = threading.Event(), threading.Event()

    def hold(_done: int, _total: int) -> None:
        copying.set()
        go_on.wait(10)

    adding = asyncio.ensure_future(store.add(plain(tmp_path / "m.onnx"), hold))
    assert await asyncio.to_thread(copying.wait, 10)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    go_on.set()
    async with asyncio.timeout(10):
        while list(store.folder.iterdir()):  # noqa: ASYNC110 - a folder cannot be awaited
            await asyncio.sleep(0.005)
    assert [] == store.digests()


async def test_a_store_knows_its_models_after_a_restart(store: Store, tmp_path: Path) -> None:
    """What was whole is there again, unhashed until it is used; what was unfinished is gone."""
    stored = await store.add(with_data(tmp_path / "a"))
    (store.folder / f".adding-{'0' * 32}").mkdir()
    again = Store(store.folder, SETTINGS)
    again.open()
    assert [stored.digest] == again.digests()
    assert not again.proven(stored.digest)
    assert await again.verify(stored.digest)
    assert again.proven(stored.digest)
    assert [stored.digest] == [path.name for path in store.folder.iterdir()]


def _shorten(folder: Path) -> None:
    os.truncate(folder / MODEL_FILE, 10)


def _forge_list(folder: Path) -> None:
    (folder / LIST).write_bytes(b"nonsense")


def _link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder.parent / "elsewhere")
    (folder / "weights.bin").symlink_to(folder.parent / "elsewhere")


def _hard_link(folder: Path) -> None:
    (folder.parent / "elsewhere").hardlink_to(folder / "weights.bin")


def _lose(folder: Path) -> None:
    (folder / "weights.bin").unlink()


@pytest.mark.parametrize("harm", [_shorten, _forge_list, _link, _hard_link, _lose])
async def test_a_damaged_model_is_moved_aside_at_start(
    store: Store, tmp_path: Path, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as absent and is reported; the rest of the store is as before."""
    assert callable(harm)
    good = await store.add(plain(tmp_path / "m.onnx"))
    bad = await store.add(with_data(tmp_path / "a"))
    harm(bad.path.parent)
    again = Store(store.folder, SETTINGS)
    with caplog.at_level(logging.WARNING):
        again.open()
    assert [good.digest] == again.digests()
    assert (store.folder / f"{bad.digest}.damaged-1").is_dir()
    assert f"{bad.digest[:12]} is damaged" in caplog.text
    with pytest.raises(TransferFailed):
        again.path(bad.digest)


async def test_flipped_bits_are_found_before_the_first_use(store: Store, tmp_path: Path) -> None:
    """A disk that forgets makes no wrong answers: the copy is set aside, and can be had anew."""
    stored = await store.add(plain(tmp_path / "m.onnx"))
    _flip(stored.path)
    again = Store(store.folder, SETTINGS)
    again.open()
    assert again.has(stored.digest)
    assert not await again.verify(stored.digest)
    assert not again.has(stored.digest)
    assert stored.digest == (await again.add(tmp_path / "m.onnx")).digest
    assert await again.verify(stored.digest)


async def test_a_damaged_copy_is_replaced_by_a_good_one(store: Store, tmp_path: Path) -> None:
    """Adding a model whose copy here is damaged and not yet found out mends it."""
    stored = await store.add(plain(tmp_path / "m.onnx"))
    _flip(stored.path)
    again = Store(store.folder, SETTINGS)
    again.open()
    await again.add(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == again.path(stored.digest).read_bytes()


def _flip(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(PIECE + 5)
        byte = file.read(1)
        file.seek(PIECE + 5)
        file.write(bytes([byte[0] ^ 1]))


async def test_pieces_and_their_hashes_are_given_away(store: Store, tmp_path: Path) -> None:
    """The pieces make the file, their hashes make the list, and the manifest vouches for the list."""
    stored = await store.add(with_data(tmp_path / "a"))
    for number, file in enumerate(stored.files):
        for piece_bytes in (PIECE, 3 * PIECE):
            count = -(-file.size // piece_bytes)
            pieces = [await store.piece(stored.digest, number, i, piece_bytes) for i in range(count)]
            hashes = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
            assert file.sha256 == hashlib.sha256(b"".join(pieces)).digest()
            assert hashes == await store.piece_list(stored.digest, number, piece_bytes)
        assert file.pieces == hashlib.sha256(await store.piece_list(stored.digest, number, PIECE)).digest()


async def test_a_piece_that_is_not_here_is_an_error(store: Store, tmp_path: Path) -> None:
    """Another model, another file, another piece, a number beyond all bounds."""
    digest = (await store.add(plain(tmp_path / "m.onnx"))).digest
    for asked in ((Digest("0" * 64), 0, 0), (digest, 1, 0), (digest, 0, 9), (digest, 4096, 0), (digest, 0, 2**53)):
        with pytest.raises(TransferFailed):
            await store.piece(*asked, PIECE)
    with pytest.raises(TransferFailed):
        await store.piece_list(digest, 7, PIECE)


async def test_a_damaged_piece_is_not_given_away(store: Store, tmp_path: Path) -> None:
    """A holder finds its own damage and stops being a holder, before the receiver would call it a liar."""
    stored = await store.add(plain(tmp_path / "m.onnx"))
    _flip(stored.path)
    assert await store.piece(stored.digest, 0, 0, PIECE)
    with pytest.raises(TransferFailed, match="damaged"):
        await store.piece(stored.digest, 0, 1, PIECE)
    assert not store.has(stored.digest)


async def test_a_removed_model_is_gone(store: Store, tmp_path: Path) -> None:
    """No file of it stays."""
    stored = await store.add(with_data(tmp_path / "a"))
    store.remove(stored.digest)
    assert not store.has(stored.digest)
    assert {} == tree(store.folder)


def test_a_home_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    """A file where the folder should be is an error of the home, not a traceback."""
    (tmp_path / "models").touch()
    with pytest.raises(HomeError):
        Store(tmp_path / "models", SETTINGS).open()


async def test_a_verdict_is_kept_beside_the_model(store: Store, tmp_path: Path) -> None:
    """A start with the same scanner does not scan again; another scanner does, before the model is used."""
    digest = (await store.add(plain(tmp_path / "m.onnx"))).digest
    verdict = store.verdict(digest)
    assert verdict is not None
    assert 1 == verdict.nodes
    again = Store(store.folder, SETTINGS)
    again.open()
    assert verdict == again.verdict(digest)
    keep(store.folder / digest, structs.replace(verdict, scanner=SCANNER - 1, nodes=99))
    later = Store(store.folder, SETTINGS)
    later.open()
    assert later.verdict(digest) is None
    assert await later.verify(digest)
    assert verdict == later.verdict(digest) == kept(store.folder / digest)


async def test_a_model_that_a_newer_scanner_refuses_is_given_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What came here before the scanner did is judged before ONNX Runtime sees it, and goes with one message."""
    monkeypatch.setattr("meshnode.catalog.judge.scan", lambda _: Verdict(0, 8, {}, (), 1, 1, 0, 1, 0, 0, {}))
    (tmp_path / "bomb.onnx").write_bytes(doubling())
    digest = (await store.add(tmp_path / "bomb.onnx")).digest
    monkeypatch.undo()
    later = Store(store.folder, SETTINGS)
    later.open()
    with pytest.raises(ModelRefused, match="nodes"):
        await later.verify(digest)
    assert not later.has(digest)
    assert {} == tree(later.folder)
    assert 1 == len(caplog.records)


@pytest.mark.parametrize("beast", [it for it in REFUSED if it.make()], ids=lambda it: it.name)
async def test_nothing_of_a_hostile_file_stays(store: Store, tmp_path: Path, beast: Beast) -> None:
    """The whole zoo is refused when it is added, with a message, and leaves no file behind."""
    (tmp_path / "m.onnx").write_bytes(beast.make())
    with pytest.raises(ModelRefused, match=r"m\.onnx|external data"):
        await store.add(tmp_path / "m.onnx")
    assert {} == tree(store.folder)

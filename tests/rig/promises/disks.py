"""P10: a disk that is full. P11: files of a home that are damaged, anywhere in them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import meshnode
from meshnode.audit import book, chain
from meshnode.catalog.store import Store
from meshnode.cli.showpiece import weights_model
from meshnode.config import LAN
from meshnode.errors import HomeError, MeshError
from meshnode.membership.peersfile import PeersFile
from meshnode.membership.remembered import Remembered
from meshnode.owner.switch import Switch
from meshnode.trust import identity
from meshnode.trust.files import read_checked
from meshnode.trust.keeper import Keeper
from meshnode.trust.tokenbook import TokenBook
from tests.mesh.load import Load
from tests.mesh.rig import MODELS, Agent, Rig, rig, wait_for
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, tasks, true
from tests.rig.promises.town import Stage, wait

DISK = "20m"
ROOMY = "[catalog]\ndisk_reserve_bytes = 0\n"
"""So that it is the disk that says no, and not the agent who keeps a quarter of a gigabyte free."""
CHECKED = ("boot", "invites", "pause", "peers", "trust")


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "meshnode", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(stage: Stage, full: bool) -> list[Figure]:
    """P10: an agent whose home has no byte left goes on serving, says no clearly, and goes on when there is room."""
    if os.geteuid():
        return [Figure("nothing", "a disk of its own for a home", "-", "not tried: only root may mount", True)]
    folder = stage.fresh()
    with _small_disk(folder / "n0"), rig(folder) as it:
        (folder / "n0" / "config.toml").write_text(ROOMY)
        return _filled(it, folder, 20 if full else 1)


def _filled(it: Rig, folder: Path, seconds: float) -> list[Figure]:
    home = folder / "n0"
    agent = it.start("n0")
    agent.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    big = weights_model(folder / "big.onnx", 2_000_000)
    did = f"a home on a disk of {DISK}, full for {seconds:g} s"
    said: list[str] = []
    with Load(home, 50.0) as load, meshnode.Client(home=home) as client:
        wait_for(lambda: load.answered, within_s=60, why="the load runs")
        _fill(home / "filler")
        before = load.answered
        wait(seconds)
        for verb, args in (
            ("model.add", {"path": str(big), "name": "big"}),
            ("invite", {}),
            ("pause", {"duration_s": 0.01}),
        ):
            try:
                client.ask(verb, **args)
                said.append(f"{verb}: it worked")
            except MeshError as error:
                said.append(f"{verb}: {error.code}: {error} {error.hint}")
        served = load.answered - before
        (home / "filler").unlink()
        began = time.monotonic()
        client.ask("model.add", path=str(big), name="big")
        recovered_s = time.monotonic() - began
    unclear = [words for words in said if "home" not in words.partition(" ")[2] and "isk" not in words]
    agent.terminate()
    harmed = [path.name for path in home.iterdir() if path.name in CHECKED and read_checked(path) is None]
    harmed += [path.name for path in home.iterdir() if ".damaged" in path.name]
    again = it.start("n0", listen=agent.address)
    return [
        at_least(did, "tasks served meanwhile", served, 1),
        none_of(
            did, "of three that need the disk (a model, an invite, a pause) not refused with a clear error", unclear
        ),
        at_most(did, "a new model is in, once there is room, after", recovered_s, 5.0),
        none_of(did, "files that were harmed", harmed),
        true(did, "it starts again, with both models", 2 == len(again.json("model", "list"))),
        *tasks(did, [load]),
    ]


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as filler:
        for size in (65536, 4096, 1):
            try:
                while filler.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


STARTS_S = 5.0
KEYS = ("node.key", "admin.key", "trust")
"""What is never started over: damaged, it stops the start and stays as it is."""


def damaged(stage: Stage, full: bool) -> list[Figure]:
    """P11: each file of a home is turned over, cut and emptied at random places, and read as a start reads it."""
    folder = stage.fresh()
    home = folder / "n0"
    with rig(folder) as it:
        agent = it.start("n0")
        agent.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        with meshnode.Client(home=home) as client:
            client.ask("invite")
            client.ask("pause", duration_s=3600)
        agent.terminate()
    shutil.copytree(home, folder / "good", ignore=shutil.ignore_patterns("agent.sock", "agent.lock", "agent.log"))
    good, rng = folder / "good", random.Random(stage.seed)
    files = sorted(str(path.relative_to(good)) for path in good.rglob("*") if path.is_file())
    places = 200 if full else 10
    ends, wrong = Counter[str](), list[str]()
    for name in files:
        for _ in range(places):
            how = _damage(good, home, name, rng)
            try:
                ends[_read(good, home, name, how)] += 1
            except AssertionError as error:
                wrong.append(f"{name}, {how}: {error}")
    did = (
        f"each of {len(files)} files of a home damaged at {places} random places (a bit turned, cut, emptied, missing)"
    )
    shown = ", ".join(f"{count} {what}" for what, count in sorted(ends.items()))
    figures = [none_of(did, f"not found out, or found out wrongly; else {shown}", wrong)]
    return [*figures, *_started(folder, files, rng, full)]


def _damage(good: Path, home: Path, name: str, rng: random.Random) -> str:
    """A good home but for one file; what was done to it."""
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(good, home)
    path = home / name
    path.chmod(0o600)
    data = path.read_bytes()
    place = rng.randrange(len(data))
    ways = ["turned", "turned", "turned", "cut", "cut", "emptied"]
    if name != "trust":  # a home without it is one of a node that is in no mesh yet
        ways.append("missing")
    match rng.choice(ways):
        case "turned":
            bit = rng.randrange(8)
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            return f"bit {bit} of byte {place}"
        case "cut":
            path.write_bytes(data[:place])
            return f"cut after {place}"
        case "emptied":
            path.write_bytes(b"")
            return "emptied"
        case _:
            path.unlink()
            return "missing"


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _read(good: Path, home: Path, name: str, how: str) -> str:
    """Read the home as a start does; what came of the file. AssertionError when that is not as it has to be."""
    heard = _Heard()
    logging.getLogger("meshnode").addHandler(heard)
    root = logging.getLogger("meshnode")
    level, root.propagate = root.level, False
    try:
        keeper = Keeper.open(home)
        try:
            assert identity.load_key(good / "node.key").private_bytes_raw() == keeper.key.private_bytes_raw(), (
                "another key"
            )
            has_admin = keeper.admin_key is not None
            moved = not (home / "admin.key").exists()  # to a safe place: that is what a founder should do
            assert has_admin or moved or heard.said, "the admin's key is lost without a word"
            _others(home, keeper)
        finally:
            keeper.close()
    except HomeError as error:
        _refused(good, home, name, how, str(error))
        return "refused"
    finally:
        root.removeHandler(heard)
        root.propagate = True
        root.setLevel(level)
    assert len(heard.said) <= 1, f"{len(heard.said)} messages: {heard.said}"
    return "told" if heard.said else "harmless"


def _refused(good: Path, home: Path, name: str, how: str, said: str) -> None:
    """A start may be stopped by what cannot be made anew, with its name, and nothing has taken its place."""
    assert name in KEYS, f"the start was stopped: {said}"
    assert name in said, f"it says {said}"
    there = home / name
    assert not there.exists() or there.read_bytes() != (good / name).read_bytes(), "it was whole"
    assert "missing" != how or not there.exists(), "another was made in its place"


def _others(home: Path, keeper: Keeper) -> None:
    """The other files that an agent reads when it starts, and a model before its first use."""
    TokenBook(home / "invites", keeper.id).read(keeper.statements.mesh_id, time.time())
    PeersFile(home / "peers", bytes, time.monotonic).read(Remembered(64))
    Switch(home).load()
    store = Store(home / "models", LAN.catalog)
    store.open()
    for digest in store.digests():
        asyncio.run(store.verify(digest))
    record = book.Book(home / "audit", LAN.audit, keeper.spki, keeper.key.sign)
    record.start()
    record.note("start")
    record.stop()
    try:
        book.verify(home / "audit", identity.verify, frozenset({keeper.spki}))
    except chain.Broken as error:
        logging.getLogger("meshnode").warning("audit verify: %s", error)


def _started(folder: Path, files: list[str], rng: random.Random, full: bool) -> list[Figure]:
    """Whole agents on some of these homes."""
    good, home = folder / "good", folder / "n0"
    slow, wrong, count = 0.0, list[str](), 0
    chosen = [*files, *files] if full else [name for name in files if name in ("node.key", "boot")]
    with rig(folder) as it:
        for name in chosen:
            how = _damage(good, home, name, rng)
            began = time.monotonic()
            agent: Agent | None = None
            try:
                agent = it.start("n0", within_s=30)
            except AssertionError as error:
                if name not in KEYS:
                    wrong.append(f"{name}, {how}: {error}")
            else:
                count += 1
                slow = max(slow, time.monotonic() - began)
                agent.terminate()
            finally:
                if agent is not None and "Traceback" in agent.log():
                    wrong.append(f"{name}, {how}: a traceback in its log")
    did = f"{len(chosen)} whole agents started on such homes"
    return [
        none_of(did, "starts that failed for another reason than a key or the trust", wrong),
        at_most(did, f"slowest of the {count} that started", slow, STARTS_S),
    ]

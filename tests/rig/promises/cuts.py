"""P12: whoever writes is killed at any moment, and the power goes between any two steps: old or new, never a mix.

A process that is killed loses nothing that it gave to the kernel, so the kills try the order of the steps and what the
next start makes of it. What a disk has after a power cut is another matter: there the steps of a write are recorded
(`Steps`), and after each of them all that a disk may then hold is tried.

    python -m tests.rig.promises.cuts KILLS SEED        # one JSON document; forks, so it has no threads
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from meshnode.audit import book, chain
from meshnode.catalog.store import Store
from meshnode.cli.showpiece import weights_model
from meshnode.config import LAN
from meshnode.trust import identity
from meshnode.trust.files import read_checked, write_checked
from tests.rig.promises.figures import Figure, none_of, told, true
from tests.rig.promises.town import Stage

ROOT = Path(__file__).parents[3]
UP_TO_S = {"state": 0.02, "model": 1.0, "audit": 0.3}
"""The longest life of a writer."""
MODELS_MADE = 8
MEMORY = Path("/dev/shm")  # noqa: S108 - a kill is tried where a write takes no time but its own


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Writers of a state file, of the store and of the audit record, killed; and a disk that forgets."""
    kills = {"state": 300, "model": 100, "audit": 100} if full else {"state": 30, "model": 5, "audit": 3}
    command = [sys.executable, "-m", "tests.rig.promises.cuts", json.dumps(kills), str(stage.seed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    figures = list[Figure]()
    for kind, count in kills.items():
        did = f"{count} writers of {WHAT[kind]} killed (-9) at random moments"
        figures += [
            told(did, "writes begun that were told to be done", str(found[kind]["done"])),
            none_of(did, "neither old nor new, or lost although told to be done", found[kind]["wrong"]),
        ]
    did = "the power cut after each step of a write of a state file, and all that a disk may then have"
    return [
        *figures,
        none_of(did, f"of {found['cut']['states']} states of the disk: neither old nor new", found["cut"]["wrong"]),
        true(did, "the same check catches a writer that does not sync", bool(found["cut"]["planted"])),
    ]


WHAT = {"state": "a state file", "model": "the model store", "audit": "the audit record"}


# --- what the process of its own does ---


def payload(number: int) -> bytes:
    """Of the state file: as long as it likes, and known from the number."""
    return random.Random(number).randbytes(1 + number * 7919 % 100_000)


class _State:
    """A file that is written again and again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state"
        write_checked(self.path, payload(0))

    def write(self, begin: int, tell: Callable[[int], None]) -> None:
        for number in range(begin, sys.maxsize):
            write_checked(self.path, payload(number))
            tell(number)

    def look(self, told: int) -> tuple[int, str]:
        """The number that is there; what is wrong with it."""
        there = read_checked(self.path)
        for number in (told, told + 1):
            if there == payload(number):
                return number, ""
        return told, f"after {told} was told: {'nothing' if there is None else f'{len(there)} other bytes'}"


class _Models:
    """A store to which models are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.files = [weights_model(folder / f"{n}.onnx", 200_000 + 50_000 * n, seed=n) for n in range(MODELS_MADE)]

    def _store(self) -> Store:
        store = Store(self.folder, LAN.catalog)
        store.open()
        return store

    def write(self, begin: int, tell: Callable[[int], None]) -> None:
        store = self._store()
        for number in range(begin, begin + MODELS_MADE):
            asyncio.run(store.add(self.files[number % MODELS_MADE]))
            tell(number)
        signal.pause()

    def look(self, told: int) -> tuple[int, str]:
        store, wrong = self._store(), ""
        there = store.digests()
        for digest in there:
            if not asyncio.run(store.verify(digest)):
                wrong = f"{digest[:8]} is there and not whole"
        if len(there) < told % MODELS_MADE:
            wrong = f"{told} were told to be there, and there are {len(there)}"
        left = [it.name for it in self.folder.iterdir() if it.name not in there]
        for digest in there:
            store.remove(digest)
        return -(-(told + 1) // MODELS_MADE) * MODELS_MADE, wrong or ", ".join(left)


class _Audit:
    """A record to which lines are appended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "audit"
        self.key = identity.load_or_create_key(folder / "key")

    def _book(self) -> book.Book:
        it = book.Book(self.folder, LAN.audit, identity.public_der(self.key), self.key.sign)
        it.start()
        return it

    def write(self, begin: int, tell: Callable[[int], None]) -> None:
        it = self._book()
        for number in range(begin, sys.maxsize):
            it.note("task", number=number, pad="x" * (number % 1000))
            tell(number)
            time.sleep(0.001)

    def look(self, told: int) -> tuple[int, str]:
        self._book().stop()
        try:
            book.verify(self.folder, identity.verify, frozenset({identity.public_der(self.key)}))
        except chain.Broken as error:
            return told, str(error)
        return told, ""


def _tell(pipe: int, number: int) -> None:
    os.write(pipe, number.to_bytes(8, "big"))


def _kill_writers(subject: Any, kills: int, up_to_s: float, rng: random.Random) -> dict[str, Any]:
    wrong, done, last = list[str](), 0, 0
    for _ in range(kills):
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                subject.write(last + 1, partial(_tell, writing))
            finally:
                os._exit(1)
        os.close(writing)
        time.sleep(rng.uniform(0, up_to_s))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        told_last = int.from_bytes(said[len(said) - 8 :], "big") if said else last
        done += len(said) // 8
        last, why = subject.look(told_last)
        wrong += [why] if why else []
    return {"done": done, "wrong": wrong}


# --- what a disk may have ---


@dataclass
class Steps:
    """The steps of writing a file, and what a disk may have after each of them.

    A name counts on the disk once its folder was synced, bytes once their file was; before that it may be the old or
    the new name, and nothing, a part or all of the bytes.
    """

    folder: Path
    target: str
    kept: bytes
    """The content at the beginning, which is on the disk."""
    seen: set[bytes] = field(default_factory=set)
    _open: dict[int, Path] = field(default_factory=dict)
    _synced: dict[int, bytes] = field(default_factory=dict)
    _by_old_name: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_old_name = {self.kept}
        self._synced[(self.folder / self.target).stat().st_ino] = self.kept

    def may_have(self) -> set[bytes]:
        """What the target may hold if the power went now."""
        path = self.folder / self.target
        now = path.read_bytes()
        if self._synced.get(path.stat().st_ino) == now:
            return self._by_old_name | {now}
        return self._by_old_name | {b"", now[: len(now) // 2], now}

    @contextmanager
    def recording(self, *, deaf: bool = False) -> Iterator[None]:
        """Note each open, sync and rename; `deaf` does as if nobody synced."""
        real = os.open, os.fsync, os.replace

        def opened(path: Any, *rest: Any, **more: Any) -> int:
            fd = real[0](path, *rest, **more)
            self._open[fd] = Path(path)
            self._after()
            return int(fd)

        def synced(fd: int) -> None:
            real[1](fd)
            path = self._open[fd]
            if path.is_dir() and not deaf:
                self._by_old_name = set()
            elif not deaf:
                self._synced[path.stat().st_ino] = path.read_bytes()
            self._after()

        def replaced(*words: Any) -> None:
            real[2](*words)
            self._after()

        os.open, os.fsync, os.replace = opened, synced, replaced  # type: ignore[assignment]
        try:
            yield
        finally:
            os.open, os.fsync, os.replace = real

    def _after(self) -> None:
        self.seen |= self.may_have()


def _power(folder: Path, rng: random.Random, *, deaf: bool = False) -> dict[str, Any]:
    """Write a state file in steps; each state that the disk may have after one of them is read."""
    path, states, wrong = folder / "state", 0, list[str]()
    for number in range(20):
        old, new = rng.randbytes(rng.randrange(60_000)), rng.randbytes(rng.randrange(60_000))
        write_checked(path, old)
        before = path.read_bytes()
        steps = Steps(folder, "state", before)
        with steps.recording(deaf=deaf):
            write_checked(path, new)
        if steps.may_have() != {path.read_bytes()}:
            wrong.append(f"{number}: it was told to be done, and the disk may have the old one or less")
        for state in steps.seen:
            states += 1
            copy = folder / "copy"
            copy.write_bytes(state)
            if read_checked(copy) not in (old, new):
                wrong.append(f"{number}: {len(state or b'')} bytes that are neither")
    return {"states": states, "wrong": wrong}


def main() -> None:
    """See the module's docstring."""
    kills, rng = json.loads(sys.argv[1]), random.Random(int(sys.argv[2]))
    logging.disable()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        folder = Path(made)
        for kind, subject in (("state", _State), ("model", _Models), ("audit", _Audit)):
            (folder / kind).mkdir()
            found[kind] = _kill_writers(subject(folder / kind), kills[kind], UP_TO_S[kind], rng)
        (folder / "cut").mkdir()
        found["cut"] = _power(folder / "cut", rng)
        found["cut"]["planted"] = len(_power(folder / "cut", rng, deaf=True)["wrong"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()

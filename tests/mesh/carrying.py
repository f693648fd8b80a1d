"""A model on its way between two agents that are killed and started again: what was fetched twice, and what came."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

import meshnode
from meshnode.cli.showpiece import weights_model
from meshnode.errors import MeshError
from tests.mesh.rig import Agent, Rig, wait_for

PIECE = 1 << 17


def settled(path: Path, half: Path) -> int:
    """Bytes of whole pieces that are right in a half-fetched file."""
    right = 0
    if half.exists():
        with half.open("rb") as some, path.open("rb") as whole:
            while piece := whole.read(PIECE):
                right += len(piece) if some.read(PIECE) == piece else 0
    return right


def done(agent: Agent) -> int:
    """Bytes that the agent says it has."""
    try:
        with meshnode.Client(home=agent.home) as client:
            return int(client.ask("model.moved", model="big")["done"])
    except MeshError:
        return 0


@dataclass
class Journey:
    """One model from a source to a receiver, at a rate that leaves time to kill them."""

    rig: Rig
    nbytes: int
    rate: float
    resent: list[int] = field(default_factory=list)
    """For each kill of the receiver, bytes fetched again that were on its disk."""

    def __post_init__(self) -> None:
        for name in ("n0", "n1"):
            home = self.rig.folder / name
            home.mkdir(parents=True)
            (home / "config.toml").write_text(f"[catalog]\npiece_bytes = {PIECE}\nupload_bytes_s = {self.rate}\n")
        self.source, self.receiver = self.rig.mesh(2)
        self.path = weights_model(self.rig.folder / "big.onnx", self.nbytes)
        self.digest = self.source.json("model", "add", str(self.path), "--name", "big")["digest"]
        wait_for(lambda: self.receiver.status()["models"], within_s=30, why="the receiver knows the model")

    def run(self, kills: int) -> None:
        """Kill the receiver and the source in turn, `kills` times each, at equal distances."""
        half = self.receiver.home / "models" / f"partial-{self.digest}" / "model.onnx"
        pulling = self._pull()
        for number in range(2 * kills):
            wanted = self.nbytes * (number + 1) // (2 * kills + 1)
            wait_for(lambda wanted=wanted: done(self.receiver) >= wanted, within_s=120, why=f"{wanted} bytes came")  # type: ignore[misc]
            if number % 2:
                self.source.kill()
                self.source = self.rig.start("n0", listen=self.source.address)
                continue
            self.receiver.kill()
            pulling.join(30)
            before = settled(self.path, half)
            self.receiver = self.rig.start("n1", listen=self.receiver.address)
            pulling = self._pull()
            # What is on disk is counted before anything is fetched: it must all be there again.
            wait_for(lambda before=before: done(self.receiver) > before - PIECE, within_s=60, why="it went on")  # type: ignore[misc]
            self.resent.append(max(0, before + self._fetched() - done(self.receiver)))
        pulling.join(180)
        assert not pulling.is_alive(), "the model never came"

    def _fetched(self) -> int:
        """Bytes fetched since the receiver was started; a moment older than what it says it has."""
        with meshnode.Client(home=self.receiver.home) as client:
            return int(client.ask("model.moved", model="big")["fetched"])

    def same(self) -> bool:
        """Whether the receiver has the file, to the bit."""
        there = self.receiver.home / "models" / self.digest / "model.onnx"
        return there.exists() and _sha256(there) == _sha256(self.path)

    def _pull(self) -> threading.Thread:
        def pull() -> None:
            try:
                with meshnode.Client(home=self.receiver.home) as client:
                    client.ask("model.pull", model="big")
            except MeshError:
                pass  # the agent was killed

        thread = threading.Thread(target=pull)
        thread.start()
        return thread


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

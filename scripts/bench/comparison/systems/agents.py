"""Meshes of this project's own agents, for the modules beside it: founded, joined and given their models beforehand."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

import meshnode
from scripts.bench.comparison.contract import SHAPES, Place
from tests.mesh.rig import Agent, rig, wait_for

SETTINGS = """profile = "loopback"
manners = "free"

[execution]
concurrency = {concurrency}
threads = 1
gpu = false
"""


def home(place: Place, name: str) -> Path:
    """The home of the agent of that name."""
    return Path(place.folder) / name


def command(place: Place, name: str, port: int, *more: str) -> list[str]:
    """`meshnode up`, again."""
    words = ["--home", str(home(place, name)), "up", "--listen", f"127.0.0.1:{port}", "--no-mdns", "--json", *more]
    return [sys.executable, "-m", "meshnode.cli.main", *words]


def prepare(place: Place, workers: list[str], concurrency: int, submitter: str = "") -> None:
    """Found a mesh of the workers and of one that only submits; each worker has then run each model."""
    if (done := Path(place.folder) / "prepared").exists():
        return
    with rig(Path(place.folder)) as it:
        started: list[Agent] = []
        for name, port in zip([*workers, *([submitter] if submitter else [])], place.ports, strict=False):
            home(place, name).mkdir(mode=0o700)
            (home(place, name) / "config.toml").write_text(SETTINGS.format(concurrency=concurrency))
            role = ["--role", "submitter"] if name == submitter else []
            token = [started[0].command("invite", *role).stdout.strip()] if started else []
            started.append(it.start(name, *token, listen=f"127.0.0.1:{port}"))
        with meshnode.Client(started[0].home) as client:
            for model in SHAPES:
                client.add_model(Path(place.model(model)), name=model)
        for agent in started:
            wait_for(lambda agent=agent: _sees(agent, len(started)), within_s=30, why="all know all")  # type: ignore[misc]
        with meshnode.Client(started[-1].home) as client:
            for agent in started[: len(workers)]:
                for model, shape in SHAPES.items():
                    client.infer(model, {"x": np.zeros(shape, np.float32)}, node=agent.id, timeout=60)
    done.write_text(json.dumps(time.time()))


def _sees(agent: Agent, n: int) -> bool:
    """Whether an agent sees all others and both models."""
    status = agent.status()
    return status["mesh"]["nodes"]["alive"] == n and len(status["models"]) == len(SHAPES)

"""MLServer with `parallel_workers` 0: models run in the server itself, with nothing between them and it."""

from __future__ import annotations

from scripts.bench.comparison.contract import Place
from scripts.bench.comparison.systems import mlserver_grpc

Client = mlserver_grpc.Client


def commands(place: Place) -> list[list[str]]:
    """Without workers."""
    return mlserver_grpc.configure(place, 0)

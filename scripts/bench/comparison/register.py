"""Which systems there are, and in which environment each lives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class System:
    """A row of the tables."""

    name: str
    title: str
    module: str
    """In `systems/`."""
    environment: str = ""
    """The name of its requirements in `requirements/`; empty for this checkout's own environment."""
    program: str = ""
    """A program of Debian's that it needs, of a package of that name."""
    workers: bool = True
    """Whether it can run two requests at once; where not, nothing is killed either."""
    killable: bool = True
    """Whether it has a process that one can kill and have an opinion about."""
    ours: bool = False


SYSTEMS = (
    System("direct", "ONNX Runtime in the program", "direct", killable=False),
    System("local", "meshnode, local agent, Python", "meshnode_local", ours=True),
    System("http", "meshnode, local agent, HTTP", "meshnode_http", ours=True),
    System("grpc", "meshnode, local agent, gRPC", "meshnode_grpc", ours=True),
    System("hop", "meshnode, through a peer", "meshnode_hop", ours=True),
    System("peers", "meshnode, two peers", "meshnode_peers", ours=True),
    System("nats", "NATS queue group", "nats_queue", "nats", program="nats-server"),
    System("grpcaio", "grpc.aio by hand", "grpc_aio", "grpc"),
    System("mlserver", "MLServer, gRPC", "mlserver_grpc", "mlserver"),
    System("mlserver0", "MLServer without workers", "mlserver_alone", "mlserver", workers=False, killable=False),
    System("litserve", "LitServe", "litserve_http", "litserve"),
    System("dask", "dask.distributed", "dask_submit", "dask"),
    System("ray", "Ray Serve", "ray_http", "ray"),
)
BY_NAME = {it.name: it for it in SYSTEMS}

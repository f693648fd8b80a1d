"""P23: nothing that is ours is on the wire in the clear, and an agent listens where it says, and nowhere else."""

from __future__ import annotations

import json
import mmap
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meshnode.cli.showpiece import weights_model
from tests.mesh.rig import wait_for
from tests.rig.promises.figures import Figure, at_least, none_of, tasks, told, true
from tests.rig.promises.town import SUBMITTERS, Stage, Town, wait
from tests.rig.switch import address

CANARY = b"a tensor that nobody may see... "
CONTROL = b"this was said in the clear, and has to be found"
NAME = "canary-of-a-model"
PORT = 7433
MAIN = {("tcp", PORT), ("udp", PORT)}
OURS = MAIN | {("udp", 5353)}
LISTENS = "0A"
"""The state of such a TCP socket in /proc."""
SLICE = 32


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Tasks, a model on its way, names, an invite: all frames are kept and searched; then the ports of a worker."""
    town, folder = stage.town(), stage.fresh()
    record = folder / "frames"
    path = weights_model(folder / "m.onnx", 3_000_000, seed=stage.seed)
    worker = town.agents[town.workers[0]]
    town.net.record(record)
    with town.load() as loads:
        _in_the_clear(town)
        founder = town.client(0)
        token = founder.ask("invite")["token"]
        founder.add_model(path, name=NAME)
        wait_for(lambda: NAME in {it["name"] for it in town.client(town.workers[0]).models()}, within_s=30, why="known")
        founder.ask("model.pull", model=NAME, node=worker.id)
        x = np.frombuffer(CANARY * 4096, np.float32).reshape(1, -1)
        for host in SUBMITTERS:
            town.client(host).infer("echo", {"x": x}, node=worker.id, timeout=60)
        asked = _by_other_doors(town, folder)
        wait(60 if full else 0.5)
    town.net.record(None)
    founder.ask("model.remove", model=NAME)
    model = path.read_bytes()
    secrets = {
        "the tensors": CANARY[:24],
        "the model's name": NAME.encode(),
        "the mesh's name": town.client(0).status()["mesh"]["name"].encode(),
        "the invite": token.encode()[:SLICE],
        "the host's name": socket.gethostname().encode(),
        "the token of the doors": (town.agents[town.workers[-1]].home / "http.token").read_bytes().strip(),
        **{f"the model's bytes at {at}": model[at : at + SLICE] for at in range(100_000, len(model), 400_000)},
    }
    with record.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as frames:
        found = [what for what, data in secrets.items() if len(data) > 3 and frames.find(data) >= 0]
        control = frames.find(CONTROL) >= 0
        size = len(frames)
    did = "tasks, by HTTP and gRPC too, a model fetched, an invite made, members and multicast, all frames kept"
    of_ports = "a worker's ports, from another host"
    ports = range(1, 65536) if full else (*range(1, 200), *range(PORT - 50, PORT + 50))
    scanned = _scan(town, ports)
    listening = _listening(worker.process.pid)
    return [
        at_least(did, "searched", size / 1e6, len(model) / 1e6, "MB"),
        true(did, "what was said in the clear on purpose is found", control),
        true(did, "tasks came back by HTTP and by gRPC", asked == ["http", "grpc"], str(asked)),
        none_of(did, f"of {len(secrets)} found in the clear", found),
        *tasks(did, loads),
        none_of(
            of_ports,
            f"open of {len(ports)} TCP ports, but {PORT}",
            [it for it in scanned if it != PORT],
        ),
        true(of_ports, f"{PORT} is one of those found open", PORT in scanned),
        none_of(of_ports, "sockets beside TCP and UDP 7433 and multicast", sorted(listening - OURS)),
        true(of_ports, "the two that it has to have are seen", OURS >= listening >= MAIN, str(sorted(listening))),
        told(of_ports, "it listens at", ", ".join(f"{kind} {port}" for kind, port in sorted(listening))),
    ]


def _in_the_clear(town: Town) -> None:
    """One datagram that has to be found, or the search is none."""
    code = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto({CONTROL!r}, ({address(1, 0)!r}, 9))"
    subprocess.run(town.net.inside(2, sys.executable, "-c", code), check=True)


DOORS = """
import json, ssl, sys, urllib.request
import grpc
from meshnode.edge.grpc import messages
host, token, chain = sys.argv[1:]
canary, heads, done = sys.stdin.buffer.read(), {"authorization": f"Bearer {token}"}, []
tensor = {"name": "x", "shape": [1, len(canary) // 4], "datatype": "FP32"}
head = json.dumps({
    "inputs": [{**tensor, "parameters": {"binary_data_size": len(canary)}}],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
}).encode()
request = urllib.request.Request(
    f"https://{host}:8443/v2/models/echo/infer",
    head + canary,
    {**heads, "Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
)
trusted = ssl.create_default_context(cafile=chain)
with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
    done += ["http"] * answer.read().endswith(canary)
asked = messages.of("ModelInferRequest")(model_name="echo", raw_input_contents=[canary])
row = asked.inputs.add(name="x", datatype="FP32")
row.shape.extend(tensor["shape"])
with open(chain, "rb") as file:
    trusted = grpc.ssl_channel_credentials(file.read())
with grpc.secure_channel(f"{host}:8444", trusted) as channel:
    call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
    done += ["grpc"] * (canary in call(asked.SerializeToString(), metadata=tuple(heads.items()), timeout=60))
print(json.dumps(done))
"""


def _by_other_doors(town: Town, folder: Path) -> list[str]:
    """The same tensors by the doors for programs of other kinds, from another host; the doors that answered."""
    host = town.workers[-1]
    settings = town.agents[host].home / "config.toml"
    before = settings.read_text() if settings.exists() else None
    settings.write_text(f"{before or ''}\n[http]\nlisten = '0.0.0.0:8443'\n[grpc]\nlisten = '0.0.0.0:8444'\n")
    try:
        home = town.restart(host).home
        wait_for(lambda: "echo" in {it["name"] for it in town.client(host).models()}, within_s=60, why="echo is known")
        words = (address(host, 0), (home / "http.token").read_text().strip(), str(home / "http.crt"))
        command = town.net.inside(2, sys.executable, "-c", DOORS, *words)
        done = subprocess.run(command, input=CANARY * 4096, capture_output=True, cwd=Path(__file__).parents[3])
        (folder / "doors").write_bytes(done.stderr)
        return list(json.loads(done.stdout or b"[]")) + [done.stderr.decode(errors="replace")[-300:]] * done.returncode
    finally:
        settings.unlink() if before is None else settings.write_text(before)
        town.restart(host)
        town.until_alive()


SCAN = """
import asyncio, json, sys
async def tried(host, port, room):
    async with room:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
        except (OSError, TimeoutError):
            return 0
        writer.close()
        return port
async def scan(host, ports):
    room = asyncio.Semaphore(200)
    return [it for it in await asyncio.gather(*(tried(host, port, room) for port in ports)) if it]
print(json.dumps(asyncio.run(scan(sys.argv[1], json.load(sys.stdin)))))
"""


def _listening(pid: int) -> set[tuple[str, int]]:
    """What is bound on the host of a process, on which nothing else runs: (kind, port)."""
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if kind.startswith("udp") or state == LISTENS:
                found.add((kind[:3], int(local.rpartition(":")[2], 16)))
    return found


def _scan(town: Town, ports: Sequence[int]) -> list[int]:
    """Which of a worker's TCP ports let somebody else in."""
    command = town.net.inside(2, sys.executable, "-c", SCAN, address(town.workers[0], 0))
    done = subprocess.run(command, input=json.dumps(list(ports)), capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))

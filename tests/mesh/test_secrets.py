"""Nothing secret is told: real agents do what involves secrets, and all that they wrote and said is searched for them.

Searched are their homes but for the files that are made to hold secrets, what commands and doors answered, what was
traced and published, and the arguments and environments of all their processes.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import meshnode
from meshnode.trust import identity, invites
from tests.edge.mqtt.mosquitto import COMMAND as BROKER
from tests.edge.mqtt.mosquitto import Mosquitto
from tests.mesh.rig import COMMAND, MODELS, Agent, Rig, rig, wait_for

CANARY = b"nobody may read this tensor ...."
NUMBER = 7341.62890625
"""An element of another tensor: as text it must not stand anywhere either."""
PASSPHRASE, NEXT_PASSPHRASE, PASSWORD = "korridor-9-linden-stau", "halm-77-quitte-rost", "broker-pass-5501-xy"
SECRET_FILES = re.compile(
    r"(node\.key|admin\.key|invites|http\.token|http\.key|mqtt\.password|frigate\.key|words-\d|copy)\b.*"
)
"""Made to hold secrets, 0600: of these only the rights are looked at."""
DEBUG = (*COMMAND, "--debug")


class Heap:
    """All that was said, each piece with where it was."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, bytes]] = []

    def add(self, where: str, said: str | bytes) -> None:
        self.pieces.append((where, said.encode(errors="surrogateescape") if isinstance(said, str) else said))

    def has(self, needle: bytes) -> list[str]:
        return [where for where, said in self.pieces if needle in said]


@contextmanager
def collector(heap: Heap) -> Iterator[str]:
    """Takes spans, whatever they are."""

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heap.add("spans", self.rfile.read(int(self.headers.get("Content-Length", 0))))
            heap.add("heads of spans", str(self.headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def of_key(path: Path) -> dict[str, bytes]:
    """The forms in which a private key might be told."""
    key = identity.load_key(path)
    return _forms(path.name, key)


def _forms(name: str, key: Ed25519PrivateKey) -> dict[str, bytes]:
    seed = identity.seed_of(key)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()[1]
    return _bytes_forms(f"the key {name}", seed) | {f"{name} as PEM": pem, f"{name} as DER in hex": der.hex().encode()}


def _bytes_forms(name: str, secret: bytes) -> dict[str, bytes]:
    return {
        f"{name}, raw": secret,
        f"{name} in hex": secret.hex().encode(),
        f"{name} in HEX": secret.hex().upper().encode(),
        f"{name} in base64": base64.b64encode(secret).rstrip(b"="),
        f"{name} in base64 for URLs": base64.urlsafe_b64encode(secret).rstrip(b"="),
        f"{name} in base32": base64.b32encode(secret).rstrip(b"=").lower(),
        f"{name} as Python shows it": repr(secret)[2:-1].encode(),
    }


def of_token(name: str, token: str) -> dict[str, bytes]:
    """A token whole, its middle, and what is secret in it."""
    it = invites.parse(token, now=0.0)
    secret = it.secret if isinstance(it, invites.Invite) else it.seed
    key = _bytes_forms(f"the key of {name}", it.key) if isinstance(it, invites.Invite) else {}
    return {name: token.encode(), f"{name}, cut": token[70:110].encode(), **_bytes_forms(name, secret), **key}


def settings(home: Path, endpoint: str, broker: str) -> None:
    home.mkdir(mode=0o700)
    lines = [f'[traces]\nendpoint = "{endpoint}"\n']
    if broker:
        (home / "mqtt.password").write_text(PASSWORD)
        (home / "mqtt.password").chmod(0o600)
        lines.append(f'[mqtt]\nurl = "{broker}"\nuser = "mesh"\npassword_file = "mqtt.password"\n')
    (home / "config.toml").write_text("".join(lines))


def joined(it: Rig, name: str, token: str) -> Agent:
    """By a token on the command line of the agent itself."""
    return it.start(name, token, command=DEBUG)


def http(heap: Heap, agent: Agent, path: str, token: str | None, body: bytes | None = None, **heads: str) -> Any:
    """A request to the HTTP door; its answer is part of the heap, and its Set-Cookie what is returned."""
    headers = {**heads, **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(f"http://{agent.ready['http']}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
            heap.add(f"HTTP {path}", answer.read() if not path.endswith("/infer") else b"")
            return answer.headers.get("Set-Cookie", "")
    except urllib.error.HTTPError as error:
        heap.add(f"HTTP {path}", error.read())
        return ""


def processes(heap: Heap, agents: list[Agent]) -> int:
    """Arguments and environments of the agents and of what they started."""
    count = 0
    for agent in agents:
        if agent.process.poll() is not None:
            continue
        family = psutil.Process(agent.process.pid)
        for it in (family, *family.children(recursive=True)):
            for what in ("cmdline", "environ"):
                with suppress(OSError):
                    heap.add(f"{what} of {it.pid}", Path(f"/proc/{it.pid}/{what}").read_bytes())
                    count += 1
    return count


VERBS = ("status", "members", "events", "doctor", "invites", "ps", "models", "policy.show", "admin.list", "work", "why")


def told(heap: Heap, agent: Agent) -> None:
    """What commands ask for, as documents; and some commands as people see them."""
    with meshnode.Client(home=agent.home) as client:
        for verb in (*VERBS, "publisher.list", "blueprint.list"):
            with suppress(meshnode.MeshError):
                heap.add(f"meshnode {verb}", json.dumps(client.ask(verb)))
    for words in ("status --json", "logs -n 9999", "audit verify"):
        done = agent.command(*words.split(), check=None)
        heap.add(f"meshnode {words}", done.stdout + done.stderr)


def homes(heap: Heap, folder: Path) -> list[str]:
    """Every file of every home that is not made to hold a secret; those that are, with rights for others."""
    open_to_others = []
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink() or "models" in path.parts:
            continue
        if SECRET_FILES.fullmatch(path.name):
            if path.stat().st_mode & 0o077:
                open_to_others.append(path.name)
        else:
            heap.add(str(path.relative_to(folder)), path.read_bytes())
    return open_to_others


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A broker that wants the password, where one is installed."""
    maker = shutil.which("mosquitto_passwd")
    if BROKER is None or maker is None:
        yield ""
        return
    folder.mkdir()
    subprocess.run([maker, "-b", "-c", str(folder / "users"), "mesh", PASSWORD], check=True, capture_output=True)
    it = Mosquitto(folder, extra=("allow_anonymous false", f"password_file {folder / 'users'}"))
    it._launch()
    try:
        wait_for(it._listens, within_s=30, why="the broker listens")
        yield it.url
    finally:
        it.stop()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes as Linux shows them")
def test_nothing_secret_is_told_anywhere(tmp_path: Path) -> None:
    """Keys, tokens, codes, cookies, passphrases, passwords and tensors are in no log, record, answer, span or argument.

    The search finds what is there: names and ids that all of these are full of, and a needle of each kind when it is
    put there.
    """
    heap, needles = Heap(), dict[str, bytes]()
    words = [tmp_path / "words-1", tmp_path / "words-2"]
    for path, text in zip(words, (PASSPHRASE, NEXT_PASSPHRASE), strict=True):
        path.write_text(text)
        path.chmod(0o600)
    needles |= {"a passphrase": PASSPHRASE.encode(), "the next": NEXT_PASSPHRASE.encode()}
    needles |= {"the broker's password": PASSWORD.encode()}
    with collector(heap) as endpoint, broker(tmp_path / "broker") as url, rig(tmp_path / "homes") as it:
        (tmp_path / "homes").mkdir(exist_ok=True)
        settings(tmp_path / "homes" / "ann", endpoint, url)
        ann = it.start("ann", "--http", "127.0.0.1:0", command=DEBUG)
        needles |= of_key(ann.home / "node.key") | of_key(ann.home / "admin.key")
        token = (ann.home / "http.token").read_text().strip()
        needles["the HTTP token"] = token.encode()

        single = ann.command("invite").stdout.strip()
        unused = ann.command("invite").stdout.strip()
        batch = ann.command("invite", "--uses", "3").stdout.strip()
        bob, cat = joined(it, "bob", single), joined(it, "cat", batch)
        for name, it_token in (("a token", single), ("an unused token", unused), ("a batch token", batch)):
            needles |= of_token(name, it_token)
        it.start("dan", "--seed", "127.0.0.1:1", command=DEBUG).command("join", single, check=None)  # it was used
        for agent in (bob, cat):
            needles |= of_key(agent.home / "node.key")
        wait_for(lambda: sum(s == "alive" for s in ann.states().values()) == 3, within_s=60, why="three see each other")

        ann.command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
        _tasks(heap, it.agents[:3], ann, token)
        needles |= {"a tensor": CANARY, "its middle": CANARY[8:24], "a number of one": str(NUMBER).encode()}
        needles |= {"a tensor in base64": base64.b64encode(CANARY * 3)[4:40], "in hex": CANARY.hex()[:32].encode()}

        with meshnode.Client(home=ann.home) as client:
            link = client.ask("dashboard")["link"]
        code = link.partition("#")[2]
        needles["the dashboard's code"] = code.encode()
        http(heap, ann, "/dashboard/session", None, b'{"code": "wrong"}', **{"Content-Type": "application/json"})
        document = json.dumps({"code": code}).encode()
        cookie = http(heap, ann, "/dashboard/session", None, document, **{"Content-Type": "application/json"})
        needles["the dashboard's cookie"] = cookie.partition("=")[2].partition(";")[0].encode()
        assert len(needles["the dashboard's cookie"]) > 20
        http(heap, ann, "/metrics", token)
        http(heap, ann, "/metrics", f"{token[:-1]}x")

        sealed = ("--passphrase-file", str(words[0]))
        ann.command("admin", "lock", *sealed)
        with meshnode.Client(home=ann.home) as client:
            with suppress(meshnode.MeshError):
                client.ask("admin.unlock", passphrase=NEXT_PASSPHRASE)  # it is the wrong one
            client.ask("admin.unlock", passphrase=PASSPHRASE)
        ann.command("admin", "rotate", "--yes", "--passphrase-file", str(words[1]))
        ann.command("admin", "export", str(tmp_path / "homes" / "copy"), "--passphrase-file", str(words[1]))
        _, *text = (ann.home / "admin.key").read_text().partition("-----BEGIN")
        from meshnode.trust import adminkey

        needles |= _forms("the next admin key", adminkey.unseal("".join(text), NEXT_PASSPHRASE))
        bob.command("rotate", "--yes")
        wait_for(lambda: (bob.home / "node.key").stat().st_mtime_ns, within_s=30, why="bob has another key")
        needles |= of_key(bob.home / "node.key")
        for child in psutil.Process(ann.process.pid).children(recursive=True):
            child.kill()  # a worker dies
        with suppress(meshnode.MeshError), meshnode.Client(home=ann.home) as client:
            client.infer("echo", {"x": np.frombuffer(CANARY * 4, np.float32).reshape(1, -1)}, node=ann.id, timeout=30)

        seen = processes(heap, it.agents)
        for agent in (ann, cat):
            told(heap, agent)
        for agent in it.agents:
            agent.process.terminate()
        for agent in it.agents:
            out, err = agent.process.communicate(timeout=60)
            heap.add(f"stdout of {agent.home.name}", out or "")
            heap.add(f"stderr of {agent.home.name}", err or "")
        assert [] == homes(heap, tmp_path / "homes")
    assert seen >= 8
    for where in ("spans", "HTTP /metrics", "meshnode status", "ann/agent.log", "meshnode audit verify"):
        assert any(name == where for name, _ in heap.pieces), f"nothing of {where} was searched"
    for known in (ann.id[:8].encode(), b"echo"):
        assert len(heap.has(known)) > 4
    assert b" DEBUG " in b"".join(said for name, said in heap.pieces if name.endswith("agent.log"))
    assert any(name.startswith("ann/audit/") for name in heap.has(b'"asked"'))

    assert {} == {name: found for name, needle in needles.items() if (found := heap.has(needle))}
    for name, needle in needles.items():
        assert len(needle) >= 8, name
    heap.add("planted", b"".join(b"<" + needle + b">" for needle in needles.values()))
    assert all(heap.has(needle) == ["planted"] for needle in needles.values())


def _tasks(heap: Heap, agents: list[Agent], ann: Agent, token: str) -> None:
    """At home and on others; by the client, and by HTTP as numbers and as bytes; some that fail."""
    x = np.frombuffer(CANARY * 4, np.float32).reshape(1, -1)
    for agent in agents:
        with meshnode.Client(home=agent.home) as client:
            wait_for(lambda client=client: bool(client.models()), within_s=60, why="the model is known")  # type: ignore[misc]
            for at in agents:
                client.infer("echo", {"x": x}, node=at.id, timeout=60)
            with suppress(meshnode.MeshError):
                client.infer("echo", {"y": x}, timeout=5)
            with suppress(meshnode.MeshError):
                client.infer("echo", {"x": np.full((1, 4), NUMBER, np.float64)}, timeout=5)
    row = {"name": "x", "shape": [1, 4], "datatype": "FP32"}
    for data in ([NUMBER] * 4, [NUMBER] * 5, [str(NUMBER)]):
        body = json.dumps({"inputs": [{**row, "data": data}]}).encode()
        http(heap, ann, "/v2/models/echo/infer", token, body)
        http(heap, ann, "/v2/models/echo/infer", "wrong", body)

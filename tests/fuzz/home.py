"""Readers of files, for the table of targets: what a person writes, what an agent keeps, what a publisher brings."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from meshnode import config as config_
from meshnode.audit import book
from meshnode.audit.chain import Reading, check
from meshnode.catalog import contents, judge
from meshnode.catalog.scan import scan
from meshnode.edge.mqtt import broker
from meshnode.errors import ModelNotFound
from meshnode.fleet import blueprint as blueprints
from meshnode.membership.peersfile import PeersFile
from meshnode.membership.remembered import Remembered
from meshnode.owner.switch import Switch
from meshnode.service import settings as service
from meshnode.trust import adminkey, files, homefiles, identity, publishing
from meshnode.trust import policy as policies
from meshnode.trust.tokenbook import TokenBook
from meshnode.wire.messages import Digest
from tests.fuzz.signed import MEMBER, TOWN
from tests.trust.cast import NOW

STATES = ("trust", "boot", "peers", "invites", "pause", contents.LIST, judge.VERDICT)


@cache
def folder() -> Path:
    """One folder for all readings of this process; in memory where that can be."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own inside it
    made = Path(tempfile.mkdtemp(prefix="meshnode-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def onnx(data: bytes) -> None:
    """A model file."""
    verdict = scan(data)
    assert verdict.nodes >= 0
    verdict.check_files(verdict.external)


def _resolve(wanted: str) -> SimpleNamespace:
    if len(wanted) > 64:
        raise ModelNotFound(f"no model {wanted!r}")
    return SimpleNamespace(name="digits", version=1, digest=Digest("ab" * 32))


def blueprint(data: bytes) -> None:
    """As a person writes it; what is made of it can be signed and read again."""
    name, wants = blueprints.read(data.decode("utf-8", "replace"), _resolve)
    body = blueprints.Blueprint(name, 1, wants).to_map()
    assert wants == blueprints.from_map(body).wants


def policy(data: bytes) -> None:
    """As a person writes it."""
    it = policies.read(data.decode("utf-8", "replace"))
    assert it == policies.holding([SimpleNamespace(id=b"", body=it.to_map())])


def config(data: bytes) -> None:
    """`config.toml`, with what follows from it."""
    (folder() / "config.toml").write_bytes(data)
    it = config_.load(folder())
    for text in (*it.discovery.seeds, it.listen):
        config_.host_port(text, default_port=7433)
    if it.mqtt.url:
        broker.parsed(it.mqtt.url)


def settings(data: bytes) -> None:
    """`config.toml` as the commands change it."""
    text = data.decode("utf-8", "replace")
    made = service.with_settings(text, {"name": "a", "discovery.seeds": ["b:1"]})
    assert made == service.with_settings(made, {"name": "a"})


def mark(data: bytes) -> None:
    """The file of a publisher's signature."""
    it = publishing.read(data.decode("utf-8", "replace"))
    publishing.message(it.name, it.version, it.digest, it.zone)
    bytes.fromhex(it.key), bytes.fromhex(it.signature)


def key(data: bytes) -> None:
    """The file of an admin's key, or of a node's."""
    path = folder() / "admin.key"
    path.write_bytes(data)
    path.chmod(0o600)
    adminkey.load(path)


def state(data: bytes) -> None:
    """A file of the home. The first byte says which; odd ones have a right checksum, as whoever may write them can."""
    head, rest = data[:1] or b"\0", data[1:]
    name = STATES[(head[0] >> 1) % len(STATES)]
    if head[0] & 1:
        rest = files._HEADER.pack(files._MAGIC, 1, len(rest), hashlib.sha256(rest).digest()) + rest
    place = folder() / "state"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    path = place / name
    path.write_bytes(rest)
    match name:
        case "trust":
            held, leaf = homefiles.read_trust(path)
            if leaf is not None and len(held):
                assert held.root_hash
        case "boot":
            homefiles.next_boot(path)
        case "peers":
            remembered = Remembered(100)
            PeersFile(path, lambda: b"", lambda: 0.0).read(remembered)
            again = Remembered(100)
            again.unpack(remembered.pack())
            assert remembered.rows() == again.rows()
        case "invites":
            tokens = TokenBook(path, MEMBER.id)
            tokens.read(TOWN.mesh, NOW)
            tokens.port_needed_until()
            tokens.find(bytes(8))
            tokens.why_closed(bytes(8), NOW)
        case "pause":
            switch = Switch(place)
            switch.load()
            switch.reason(NOW)
        case contents.LIST:
            contents.look(place)
        case _:
            judge.kept(place)


def audit(data: bytes) -> None:
    """The lines of a record."""
    for line in data.splitlines(keepends=True):
        book._seq(line)
    check(data.splitlines(keepends=True), Reading(identity.verify, frozenset([MEMBER.spki])))

"""Publishers: keys that belong to no node sign models, and a model whose publisher was removed runs no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from meshnode.cli.main import application
from meshnode.client import AsyncClient
from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, PermissionDenied
from tests.edge.living import ask
from tests.edge.test_local import ECHO
from tests.edge.test_policing import signed
from tests.waiting import until

X = {"x": np.ones((1, 4), np.float32)}
RUN = CliRunner()


def command(*words: str) -> None:
    done = RUN.invoke(application(), words)
    assert 0 == done.exit_code, done.output


@pytest.fixture
def offline(tmp_path: Path) -> tuple[str, str]:
    """A public key, in hex, and the text of its signature of the echo model as echo:7."""
    key, sig = str(tmp_path / "acme.key"), tmp_path / "echo.sig"
    command("publisher", "keygen", key)
    command("model", "sign", ECHO, "--key", key, "--name", "echo", "--version", "7", "-o", str(sig))
    return (tmp_path / "acme.key.pub").read_text().strip(), sig.read_text()


async def bring(node: Node, signature: str | None = None) -> Any:
    given = {"path": ECHO, "name": "other"} | ({"signature": signature} if signature else {})
    return await ask(node.home, "model.add", given)


async def test_a_signed_model_runs_as_long_as_its_publisher_counts(
    pair: tuple[Node, Node], offline: tuple[str, str]
) -> None:
    """Brought in by a member who is no admin; the same files without a signature do not run; removed, neither."""
    ann, bob = pair
    public, signature = offline
    with pytest.raises(PermissionDenied, match="no publisher's of this mesh"):
        await bring(bob, signature)
    await ask(ann.home, "publisher.add", {"name": "acme", "key": public})
    await until(lambda: bool(bob.keeper.statements.publishers()), "bob knows the publisher")
    await signed("[models]\nallow = 'signed'\npublishers = ['acme']", ann, bob)
    plain = await bring(bob)
    async with AsyncClient(bob.home) as client:
        with pytest.raises(PermissionDenied, match="models"):
            await client.infer("other", X)
        added = await bring(bob, signature)
        assert ("echo", 7, True, plain["digest"]) == tuple(added[k] for k in ("name", "version", "signed", "digest"))
        await until(lambda: len(ann.catalog.manifests()) == 2, "ann knows it")
        for node in (ann, bob):
            assert node.keeper.id == (await client.infer("echo", X, node=node.keeper.id)).node
        (row,) = await ask(ann.home, "publisher.list")
        assert ("acme", ["echo:7"]) == (row["name"], row["models"])
        await ask(ann.home, "publisher.remove", {"name": "acme"})
        await until(lambda: not bob.keeper.statements.publishers(), "bob has heard of it")
        with pytest.raises(PermissionDenied, match=r"echo:7 may not run: models\.\w+ .*the mesh's policy"):
            await client.infer("echo", X)


@pytest.mark.parametrize(
    "change", [{"name": "echo2"}, {"version": 8}, {"zone": "eu"}, {"digest": "0" * 64}, {"signature": "0" * 128}]
)
async def test_nothing_of_a_signature_can_be_changed(node: Node, offline: tuple[str, str], change: Any) -> None:
    """Name, version, zone, digest and the signature itself: each alone makes it wrong, and nothing is added."""
    public, signature = offline
    await ask(node.home, "publisher.add", {"name": "acme", "key": public})
    forged = msgspec.json.encode({**msgspec.json.decode(signature), **change}).decode()
    with pytest.raises(InvalidInput, match="signature is wrong"):
        await bring(node, forged)
    assert () == node.catalog.manifests()


async def test_a_signature_is_for_its_files_only(node: Node, offline: tuple[str, str]) -> None:
    """Another model under its name is refused, and not kept."""
    public, signature = offline
    await ask(node.home, "publisher.add", {"name": "acme", "key": public})
    digits = str(Path(ECHO).parent.parent / "digits" / "model.onnx")
    with pytest.raises(InvalidInput, match="the signature is for"):
        await ask(node.home, "model.add", {"path": digits, "signature": signature})
    assert [] == node.store.digests()


async def test_only_an_admin_says_who_publishes(pair: tuple[Node, Node], offline: tuple[str, str]) -> None:
    """And what is no key is refused; a name is one publisher's."""
    ann, bob = pair
    with pytest.raises(PermissionDenied, match="only an admin may add a publisher"):
        await ask(bob.home, "publisher.add", {"name": "acme", "key": offline[0]})
    for key in ("xyz", "00"):
        with pytest.raises(InvalidInput, match=r"no hex|no Ed25519"):
            await ask(ann.home, "publisher.add", {"name": "acme", "key": key})
    await ask(ann.home, "publisher.add", {"name": "acme", "key": offline[0]})
    with pytest.raises(InvalidInput, match="already"):
        await ask(ann.home, "publisher.add", {"name": "other", "key": offline[0]})
    with pytest.raises(InvalidInput, match="no publisher 'other'"):
        await ask(ann.home, "publisher.remove", {"name": "other"})

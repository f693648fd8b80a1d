"""The golden bytes of protocols/vectors: what another implementation is tested with, decoded and made again here."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshnode.errors import MeshError
from meshnode.trust import form, identity, invites
from meshnode.trust.hardware import hashed
from meshnode.trust.invites import BatchToken, Invite
from meshnode.trust.sealing import Sealer
from meshnode.wire.messages import NodeId

VECTORS = Path(__file__).parent.parent.parent / "protocols" / "vectors"


def rows(name: str, *, right: bool | None = None, prefix: str = "") -> list[Any]:
    """Vectors of a file as test parameters; `right` leaves only the good or only the bad ones."""
    return [
        pytest.param(row, id=row["name"])
        for row in json.loads((VECTORS / f"{name}.json").read_text())
        if (right is None or right == ("means" in row)) and row["name"].startswith(prefix)
    ]


def value(stored: Any) -> Any:
    """A vector's JSON as the value that it stands for: bytes are `{"hex": …}`."""
    if isinstance(stored, dict):
        return (
            bytes.fromhex(stored["hex"])
            if set(stored) == {"hex"}
            else {key: value(item) for key, item in stored.items()}
        )
    return [value(item) for item in stored] if isinstance(stored, list) else stored


STATEMENTS = [row for row in rows("statements", right=True) if "fields" in row.values[0]["means"]]


@pytest.mark.parametrize("row", STATEMENTS)
def test_a_statement_vector_decodes_and_encodes(row: dict[str, Any]) -> None:
    """Fields, id and signatures are as told, and the same seeds make the same bytes."""
    data, means = bytes.fromhex(row["hex"]), row["means"]
    fields = value(means["fields"])
    keys = [Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)) for seed in means["signed_by_seeds"]]
    message = form.DOMAIN + form.canonical(fields)
    statement = form.parse(data)
    form.check_signatures(statement, identity.verify)

    assert means["id"] == statement.id.hex() == hashlib.sha256(form.canonical(fields)).hexdigest()
    assert (fields["kind"], fields["body"]) == (statement.kind, statement.body)
    assert data == form.canonical({**fields, "sigs": [[identity.public_der(key), key.sign(message)] for key in keys]})


@pytest.mark.parametrize("row", rows("statements", right=False))
def test_a_bad_statement_vector_is_refused(row: dict[str, Any]) -> None:
    """With the code that the vector names."""
    with pytest.raises(MeshError) as caught:
        form.check_signatures(form.parse(bytes.fromhex(row["hex"])), identity.verify)
    assert row["must_reject"] == caught.value.code


def test_the_root_hash_vector_is_that_of_its_set() -> None:
    """SHA-256 over a tag and the sorted ids."""
    (row,) = [row.values[0] for row in rows("statements", prefix="root hash")]
    ids = sorted(bytes.fromhex(id) for id in row["means"]["set"])

    assert row["hex"] == hashlib.sha256(b"meshnode/set/1\0" + b"".join(ids)).hexdigest()


TOKENS = [row for row in rows("tokens", right=True) if "text" in row.values[0]["means"]]


@pytest.mark.parametrize("row", TOKENS)
def test_a_token_vector_decodes_and_encodes(row: dict[str, Any]) -> None:
    """Every field, the invite's key and its tag are as told, and the same fields make the same text."""
    means = row["means"]
    invite = Invite(
        means["mesh_prefix"],
        NodeId(means["inviter"]),
        bytes.fromhex(means["secret"]),
        means["expires_at"],
        tuple((host, port) for host, port in means["hints"]),
    )

    assert invite == invites.parse(bytes.fromhex(row["hex"]).decode(), now=means["now"])
    assert means["text"] == invites.mint(invite) == bytes.fromhex(row["hex"]).decode()
    assert (means["key"], means["tag"]) == (invite.key.hex(), invites.tag(invite.key).hex())


@pytest.mark.parametrize("row", rows("tokens", right=False))
def test_a_bad_token_vector_is_refused(row: dict[str, Any]) -> None:
    """With the code that the vector names, at the time that it names."""
    with pytest.raises(MeshError) as caught:
        invites.parse(bytes.fromhex(row["hex"]).decode(), now=row["now"])
    assert row["must_reject"] == caught.value.code


@pytest.mark.parametrize("row", rows("tokens", prefix="join: "))
def test_a_join_message_vector_decodes_and_encodes(row: dict[str, Any]) -> None:
    """A u32 length and a map, as told; the same map makes the same bytes."""
    data = bytes.fromhex(row["hex"])
    (length,) = struct.unpack_from(">I", data)
    message = msgpack.unpackb(data[4:])
    means = {key: value(item) for key, item in row["means"].items() if key not in ("joiner_seed", "server_nonce")}

    assert (length, means) == (len(data) - 4, message)
    assert data[4:] == msgpack.packb({key: means[key] for key in message})


def test_the_join_request_vector_is_what_its_token_and_key_prove() -> None:
    """Tag, proof and possession follow from the first token, the joiner's seed and the server's nonce."""
    (row,) = [row.values[0] for row in rows("tokens", prefix="join: the joiner asks")]
    means = value(row["means"])
    token = TOKENS[0].values[0]["means"]
    invite = invites.parse(token["text"], now=token["now"])
    nonce = bytes.fromhex(means["server_nonce"])
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(means["joiner_seed"]))
    spki = identity.public_der(key)

    assert spki == means["spki"]
    assert invites.tag(invite.key) == means["invite"]
    assert invites.proof(invite.key, invite.inviter, spki, nonce) == means["proof"]
    assert key.sign(invites.possession(spki, invite.inviter, nonce)) == means["possession"]


@pytest.mark.parametrize("row", [row for row in rows("batch") if "hex" in row.values[0]])
def test_a_batch_statement_vector_decodes_and_encodes(row: dict[str, Any]) -> None:
    """Kind, body, id and signature are as told; what is malformed is refused; a hardware id is a hash."""
    if row["name"].startswith("hardware"):
        assert row["hex"] == hashed("machine-id", " ABC1\n").hex()
        return
    data = bytes.fromhex(row["hex"])
    if "must_reject" in row:
        with pytest.raises(MeshError) as caught:
            form.parse(data)
        assert row["must_reject"] == caught.value.code
        return
    statement, means = form.parse(data), row["means"]
    form.check_signatures(statement, identity.verify)
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(means["signed_by_seed"]))
    shown = json.loads(json.dumps(statement.body, default=bytes.hex))

    assert (means["kind"], means["body"], means["id"]) == (statement.kind, shown, statement.id.hex())
    assert identity.public_der(key) == statement.issuer


@pytest.mark.parametrize("row", [row for row in rows("batch") if "text" in row.values[0]])
def test_a_batch_token_vector_decodes_and_encodes(row: dict[str, Any]) -> None:
    """Every field is as told, and the same fields make the same text; a cut one is refused."""
    if "must_reject" in row:
        with pytest.raises(MeshError) as caught:
            invites.parse(row["text"], now=0)
        assert row["must_reject"] == caught.value.code
        return
    means = row["means"]
    token = BatchToken(
        means["mesh_id"],
        bytes.fromhex(means["seed"]),
        means["issued_at"],
        means["expires_at"],
        tuple((host, port) for host, port in means["hints"]),
    )
    assert token == invites.parse(row["text"], now=0)
    assert row["text"] == invites.mint_batch(token)


def _sealer(means: dict[str, Any], who: str) -> Sealer:
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(means[f"{who}_secret"]))
    return Sealer(private, NodeId(means[who]), means["mesh"], means[f"{who}_epoch"])


def test_the_sealing_vectors_open_or_are_refused_in_their_order() -> None:
    """One receiver takes the datagrams as they stand: the right ones open, replays and forgeries are refused."""
    vectors = [row.values[0] for row in rows("sealing")]
    means = vectors[0]["means"]
    sender, receiver = _sealer(means, "sender"), _sealer(means, "receiver")
    sender.set_peer(NodeId(means["receiver"]), means["receiver_epoch"], receiver.public)
    receiver.set_peer(NodeId(means["sender"]), means["sender_epoch"], sender.public)
    for row in vectors:
        datagram = bytes.fromhex(row["hex"])
        if "means" in row:
            plain = bytes.fromhex(row["means"]["plain"])
            assert (means["sender"], plain) == receiver.open(datagram), row["name"]
            sender._counter = row["means"]["counter"]
            assert datagram == sender.seal(NodeId(means["receiver"]), plain), row["name"]
        else:
            with pytest.raises(MeshError) as caught:
                receiver.open(datagram)
            assert row["must_reject"] == caught.value.code, row["name"]

"""What members leave with a broker: only members read it, nobody forges it, and it is good once and for a while."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.mqtt.sealing import FRESH_S, KNOWN_MAX, SEALED_BYTES_MAX, Again, Here, Sealing, Taken
from meshnode.errors import MeshError, PermissionDenied, ProtocolError
from meshnode.trust import identity

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SPKI = identity.public_der(KEY)
NODE = identity.node_id(SPKI)
HERE = Here((("192.0.2.1", 7433), ("2001:db8::1", 7433)))
NOW = 1_700_000_000.0
VECTORS = Path(__file__).resolve().parents[3] / "protocols" / "vectors"


def sealing(random: bytes = b"r" * 32, out: bool = False) -> Sealing:
    def check(node: str) -> None:
        if out:
            raise PermissionDenied("no member")

    return Sealing(random, "meshnode", check)


def seal(it: Sealing, topic: str, content: Any = HERE, **more: Any) -> bytes:
    fields = {"boot": 1, "number": 1, "at": NOW, "nonce": b"n" * 12} | more
    return it.seal(topic, content, key=SPKI, sign=KEY.sign, **fields)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / "mqtt.json").read_text())]
)
def test_the_golden_records(row: dict[str, Any]) -> None:
    """Each opens to what it means, or is refused with that code."""
    means = row["means"]
    it = sealing(bytes.fromhex(means["random"]))
    record = bytes.fromhex(row["hex"])
    if "must_reject" in row:
        with pytest.raises(MeshError) as caught:
            it.open(means["topic"], record, means["now"])
        assert row["must_reject"] == caught.value.code
        return
    opened = it.open(means["topic"], record, means["now"])
    assert (means["node"], means["boot"], means["number"]) == (opened.node, opened.boot, opened.number)
    assert means["content"] == json.loads(json.dumps(msgspec.to_builtins(opened.content)))
    assert record == seal(
        it, means["topic"], opened.content, boot=opened.boot, number=opened.number, at=means["now"], nonce=record[:12]
    )


def test_members_read_what_a_member_wrote() -> None:
    """Addresses at its own place, notes at the common one."""
    writer, reader = sealing(), sealing()
    opened = reader.open(reader.place(NODE), seal(writer, writer.place(NODE)), NOW)
    assert (NODE, HERE) == (opened.node, opened.content)
    for number, note in enumerate((Taken("0" * 32, 1.5), Again("0" * 32, NODE)), 1):
        assert note == reader.open(reader.notes, seal(writer, writer.notes, note, number=number), NOW).content


def test_another_mesh_reads_nothing() -> None:
    """Neither the record nor the topics are the same."""
    here, there = sealing(), sealing(b"s" * 32)
    assert not {here.base, here.place(NODE), here.notes} & {there.base, there.place(NODE), there.notes}
    with pytest.raises(ProtocolError):
        there.open(here.place(NODE), seal(here, here.place(NODE)), NOW)


@given(st.data())
def test_no_changed_bit_is_believed(data: st.DataObject) -> None:
    """Wherever it is, and wherever the record is put."""
    it = sealing()
    record = bytearray(seal(it, it.place(NODE)))
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MeshError):
        it.open(it.place(NODE), bytes(record), NOW)


@given(st.binary(max_size=SEALED_BYTES_MAX + 10))
def test_junk_is_refused(data: bytes) -> None:
    """With an error of ours, whatever it is; also when it is sealed by a member that writes nonsense."""
    it = sealing()
    for record in (data, b"n" * 12 + it._cipher.encrypt(b"n" * 12, data, it.notes.encode())):
        with pytest.raises(MeshError):
            it.open(it.notes, record, NOW)


def test_a_record_is_good_at_one_place() -> None:
    """A member that writes at another's place is refused, and so is a record that was moved."""
    it = sealing()
    other = it.place(identity.id_text(b"o" * 32))
    with pytest.raises(ProtocolError):
        it.open(other, seal(it, it.place(NODE)), NOW)
    with pytest.raises(PermissionDenied):
        it.open(other, seal(it, other), NOW)
    with pytest.raises(PermissionDenied):
        it.open(it.notes, seal(it, it.notes, HERE), NOW)


def test_a_record_is_good_for_a_while() -> None:
    """By the reader's clock, either way, for clocks differ."""
    it = sealing()
    for at in (NOW - FRESH_S - 2, NOW + FRESH_S + 2):
        with pytest.raises(ProtocolError):
            it.open(it.place(NODE), seal(it, it.place(NODE), at=at), NOW)
    it.open(it.place(NODE), seal(it, it.place(NODE), at=NOW - FRESH_S + 2), NOW)


def test_older_records_do_not_come_back() -> None:
    """By the start and the number; the same record may be read twice, for a broker retains it, and a note may not."""
    it = sealing()
    place = it.place(NODE)
    it.open(place, newest := seal(it, place, boot=2, number=5), NOW)
    it.open(place, newest, NOW)
    for boot, number in ((2, 4), (1, 9)):
        with pytest.raises(ProtocolError):
            it.open(place, seal(it, place, boot=boot, number=number), NOW)
    it.open(place, seal(it, place, boot=3, number=1), NOW)
    note = Taken("0" * 32, 1.0)
    it.open(it.notes, once := seal(it, it.notes, note, number=1), NOW)
    with pytest.raises(ProtocolError):
        it.open(it.notes, once, NOW)


def test_who_is_no_member_is_not_believed() -> None:
    """The key of the mesh opens the seal; it gives no word."""
    it = sealing(out=True)
    with pytest.raises(PermissionDenied):
        it.open(it.place(NODE), seal(it, it.place(NODE)), NOW)


def test_its_memory_is_bounded() -> None:
    """Of how many writers it knows the newest number."""
    it = sealing()
    for i in range(KNOWN_MAX + 10):
        it._newest[identity.id_text(i.to_bytes(32, "big")), "here"] = (1, 1)
    it.open(it.place(NODE), seal(it, it.place(NODE)), NOW)
    assert KNOWN_MAX == len(it._newest)


def test_too_many_letters_are_said_before_they_are_sent() -> None:
    """A record has one size at most."""
    it = sealing()
    with pytest.raises(ProtocolError):
        seal(it, it.place(NODE), Here(tuple(("x" * 250, 1) for _ in range(8))))

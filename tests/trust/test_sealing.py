"""Sealed datagrams: only these two nodes, only once, only of this start."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import ProtocolError
from meshnode.trust import sealing
from meshnode.trust.sealing import COUNTER_MAX, EPOCH_MAX, HEADER, OVERHEAD_BYTES, WINDOW_BITS, Sealer
from tests.trust.cast import Person

MESH = "ab" * 32
A, B, C = Person(2), Person(3), Person(4)


def sealer(person: Person, *, epoch: int = 7, mesh: str = MESH, secret: int | None = None) -> Sealer:
    private = X25519PrivateKey.from_private_bytes(bytes([secret or person.seed]) * 32)
    return Sealer(private, person.id, mesh, epoch)


def introduced(*, mesh_of_b: str = MESH) -> tuple[Sealer, Sealer]:
    a, b = sealer(A), sealer(B, epoch=9, mesh=mesh_of_b)
    a.set_peer(B.id, b.epoch, b.public)
    b.set_peer(A.id, a.epoch, a.public)
    return a, b


def refusal(opener: Sealer, datagram: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        opener.open(datagram)
    return str(caught.value)


def test_a_datagram_opens_at_its_receiver() -> None:
    """Both directions, with 39 bytes of overhead, and the sender is known by its seal."""
    a, b = introduced()

    assert (A.id, b"ping") == b.open(a.seal(B.id, b"ping"))
    assert (B.id, b"") == a.open(b.seal(A.id, b""))
    assert 39 == OVERHEAD_BYTES == len(a.seal(B.id, b""))


def test_a_datagram_opens_once() -> None:
    """A replay is refused, and so is a datagram's way back to its sender."""
    a, b = introduced()
    datagram = a.seal(B.id, b"once")
    b.open(datagram)

    assert "replayed" in refusal(b, datagram)
    assert "unknown sender" in refusal(a, datagram)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 43), st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(place: int, flip: int) -> None:
    """Header, text and tag are all authenticated; a forgery neither opens nor moves the window."""
    a, b = introduced()
    datagram = bytearray(a.seal(B.id, b"hello"))
    datagram[place] ^= flip
    refusal(b, bytes(datagram))
    assert (A.id, b"next") == b.open(a.seal(B.id, b"next"))


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_noise_is_refused(noise: bytes) -> None:
    """Any bytes end in a ProtocolError."""
    _, b = introduced()
    refusal(b, noise)
    refusal(b, HEADER.pack(b"mn", 1, A.spki[-8:], 7, 0) + noise)


def test_each_refusal_has_its_reason() -> None:
    """Too short, not ours, unknown, another start of the sender, of the receiver, another mesh, another pair."""
    a, b = introduced()
    sealed = a.seal(B.id, b"x")
    restarted = sealer(B, epoch=10, secret=99)
    restarted.set_peer(A.id, a.epoch, a.public)
    elsewhere = sealer(B, epoch=9, mesh="cd" * 32)
    elsewhere.set_peer(A.id, a.epoch, a.public)

    assert "too short" in refusal(b, sealed[:38])
    assert "not a datagram" in refusal(b, b"xx" + sealed[2:])
    assert "not a datagram" in refusal(b, sealed[:2] + b"\x02" + sealed[3:])
    assert "unknown sender" in refusal(sealer(B), sealed)
    assert "forged" in refusal(restarted, sealed)
    assert "forged" in refusal(elsewhere, sealed)
    b.set_peer(A.id, 8, sealer(A, secret=50).public)
    assert "epoch 7" in refusal(b, sealed)


def test_a_member_cannot_speak_for_another() -> None:
    """C knows everything that B knows about A, and still cannot seal as A."""
    a, b = introduced()
    c = sealer(C)
    c.set_peer(B.id, b.epoch, b.public)
    b.set_peer(C.id, c.epoch, c.public)
    sealed = c.seal(B.id, b"I am A")
    forged = sealed[:3] + a.seal(B.id, b"")[3:11] + sealed[11:]

    assert "forged" in refusal(b, forged)


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(40)))
def test_any_order_opens_and_none_twice(order: list[int]) -> None:
    """Within the window datagrams may overtake each other."""
    a, b = introduced()
    datagrams = [a.seal(B.id, bytes([i])) for i in range(40)]

    assert [bytes([i]) for i in order] == [b.open(datagrams[i])[1] for i in order]
    assert all("replayed" in refusal(b, datagram) for datagram in datagrams)


def test_what_is_older_than_the_window_is_refused() -> None:
    """1,024 datagrams back is the last that still opens."""
    a, b = introduced()
    datagrams = [a.seal(B.id, b"") for _ in range(WINDOW_BITS + 1)]
    b.open(datagrams[-1])

    assert (A.id, b"") == b.open(datagrams[1])
    assert "too old" in refusal(b, datagrams[0])


def test_a_huge_counter_costs_nothing() -> None:
    """A member that jumps its counter far ahead makes no large number here."""
    a, b = introduced()
    early = a.seal(B.id, b"early")
    a._counter = COUNTER_MAX - 1
    last = a.seal(B.id, b"last")

    assert (A.id, b"last") == b.open(last)
    assert "too old" in refusal(b, early)
    assert 1 == b._peers[A.id].seen
    with pytest.raises(ProtocolError, match="used up"):
        a.seal(B.id, b"one more")


def test_a_nonce_is_never_used_twice_under_a_key() -> None:
    """Forgetting a peer and learning it again, under the same epoch, goes on counting."""
    a, b = introduced()
    first = a.seal(B.id, b"x")
    a.forget(B.id)
    assert not a.knows(B.id)
    with pytest.raises(KeyError):
        a.seal(B.id, b"x")
    a.set_peer(B.id, b.epoch, b.public)

    assert first != a.seal(B.id, b"x")


def test_a_forgotten_peer_cannot_be_replayed() -> None:
    """After it is learnt again, what it said before does not open once more, and its older starts stay out."""
    a, b = introduced()
    before = a.seal(B.id, b"before")
    b.open(before)
    b.forget(A.id)
    assert "unknown" in refusal(b, before)
    b.set_peer(A.id, 6, sealer(A, secret=50).public)
    assert not b.knows(A.id)
    b.set_peer(A.id, a.epoch, a.public)

    assert "replayed" in refusal(b, before)
    assert (A.id, b"after") == b.open(a.seal(B.id, b"after"))


def test_epochs_only_grow() -> None:
    """An older or equal epoch of a known peer is ignored, a newer one replaces it."""
    a, b = introduced()
    b.set_peer(A.id, a.epoch - 1, sealer(A, secret=50).public)
    b.set_peer(A.id, a.epoch, sealer(A, secret=50).public)
    assert (A.id, b"still") == b.open(a.seal(B.id, b"still"))

    again = sealer(A, epoch=8, secret=51)
    again.set_peer(B.id, b.epoch, b.public)
    b.set_peer(A.id, 8, again.public)
    assert (A.id, b"anew") == b.open(again.seal(B.id, b"anew"))


@pytest.mark.parametrize(
    ("epoch", "public"), [(1, bytes(32)), (1, b"short"), (-1, bytes([9]) * 32), (EPOCH_MAX + 1, bytes([9]) * 32)]
)
def test_a_key_that_is_none_is_refused(epoch: int, public: bytes) -> None:
    """Low-order points, wrong lengths and epochs that are no u32 never become a peer."""
    a = sealer(A)
    with pytest.raises(ProtocolError):
        a.set_peer(B.id, epoch, public)
    assert not a.knows(B.id)


def test_peers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the peer that was not spoken to for longest is forgotten, with its prefix."""
    monkeypatch.setattr(sealing, "PEERS_MAX", 2)
    monkeypatch.setattr(sealing, "FORGOTTEN_MAX", 1)
    a = sealer(A)
    public = sealer(B).public
    for person in (B, C):
        a.set_peer(person.id, 1, public)
    a.seal(B.id, b"")
    a.set_peer(Person(5).id, 1, public)
    assert (True, False, True) == (a.knows(B.id), a.knows(C.id), a.knows(Person(5).id))
    a.forget(B.id)
    assert (1, 1, 1) == (len(a._peers), len(a._by_prefix), len(a._forgotten))


def test_a_strangers_datagram_is_cheap() -> None:
    """Dropping one takes less than opening one, by far: no key is touched."""
    a, b = introduced()
    strange = HEADER.pack(b"mn", 1, b"stranger", 1, 1) + bytes(400)
    mine = [a.seal(B.id, bytes(400)) for _ in range(2000)]

    def drop() -> None:
        for _ in range(2000):
            try:
                b.open(strange)
            except ProtocolError:
                continue

    start = time.process_time()
    drop()
    dropped = time.process_time() - start
    start = time.process_time()
    for datagram in mine:
        b.open(datagram)
    opened = time.process_time() - start
    assert dropped < 3 * opened

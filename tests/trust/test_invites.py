"""Invite tokens: what is in one, and every way in which one can be no good."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import TokenRefused
from meshnode.trust import invites
from meshnode.trust.invites import EPOCH, BatchToken, Invite, mint, mint_batch, parse
from tests.trust.cast import NOW, Person

INVITE = Invite("ab" * 16, Person(1).id, bytes(range(16)), NOW + 1800, (("192.168.1.7", 40123),))
TOKEN = mint(INVITE)
BATCH = BatchToken("ab" * 32, bytes(range(32)), NOW, NOW + 1800, (("192.168.1.7", 7433), ("fd77::2", 7433)))
BATCH_TOKEN = mint_batch(BATCH)


def refusal(text: str, *, now: float = NOW) -> str:
    with pytest.raises(TokenRefused) as caught:
        parse(text, now=now)
    return str(caught.value)


addresses = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))


@settings(deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.integers(EPOCH + 1, EPOCH + 2**32 - 1),
    st.lists(addresses, max_size=3),
)
def test_a_token_reads_as_it_was_made(
    mesh: bytes, secret: bytes, expires_at: int, hints: list[tuple[str, int]]
) -> None:
    """Mesh, inviter, secret, expiry and up to three addresses, IPv4 and IPv6, come back."""
    invite = Invite(mesh.hex(), Person(1).id, secret, expires_at, tuple(hints))

    assert invite == parse(mint(invite), now=EPOCH)


@settings(deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(EPOCH, EPOCH + 2**32 - 1),
    st.integers(EPOCH + 1, EPOCH + 2**32 - 1),
    st.lists(addresses, max_size=8),
)
def test_a_batch_token_reads_as_it_was_made(
    mesh: bytes, seed: bytes, issued_at: int, expires_at: int, hints: list[tuple[str, int]]
) -> None:
    """The whole mesh id, the key, both times and up to eight addresses come back."""
    token = BatchToken(mesh.hex(), seed, issued_at, expires_at, tuple(hints))

    assert token == parse(mint_batch(token), now=EPOCH)
    assert mesh.hex() == token.mesh_prefix


@pytest.mark.parametrize("chars", range(len(invites.PREFIX), len(BATCH_TOKEN)))
def test_a_cut_batch_token_is_called_incomplete(chars: int) -> None:
    """Wherever it was cut; an expired one is called that."""
    assert f"incomplete: {chars} of " in refusal(BATCH_TOKEN[:chars])
    assert "expired 1 h ago" in refusal(BATCH_TOKEN, now=NOW + 5400)


def test_a_token_has_a_known_length() -> None:
    """138 characters with one IPv4 address, 144 of a batch token, lower case and digits only."""
    assert 138 == len(TOKEN)
    assert 144 == len(mint_batch(BatchToken("ab" * 32, bytes(32), NOW, NOW + 9, INVITE.hints)))
    assert TOKEN.replace("-", "").isalnum()
    assert TOKEN == TOKEN.lower()


def test_a_token_survives_a_line_break_and_capitals() -> None:
    """Mail programs and people fold and shout."""
    assert INVITE == parse(f"  {TOKEN[:60]}\n{TOKEN[60:]} ".upper(), now=NOW)


@pytest.mark.parametrize("chars", range(len(invites.PREFIX), len(TOKEN)))
def test_a_cut_token_is_called_incomplete(chars: int) -> None:
    """Wherever it was cut, the message counts the characters."""
    said = refusal(TOKEN[:chars])

    assert f"incomplete: {chars} of " in said
    assert chars < 126 or f"{chars} of 138" in said or "at least 126" in said


@settings(deadline=None)
@given(st.integers(len(invites.PREFIX), len(TOKEN) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_no_wrong_character_goes_unnoticed(place: int, char: str) -> None:
    """A single wrong character anywhere is refused."""
    if TOKEN[place] == char:
        return
    said = refusal(TOKEN[:place] + char + TOKEN[place + 1 :])
    assert "damaged" in said or "incomplete" in said


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_ends_in_another_error(text: str) -> None:
    """Whatever is pasted, the answer is a TokenRefused."""
    refusal(text)
    refusal(invites.PREFIX + text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not an invite token"),
        ("hello", "not an invite token"),
        (TOKEN + "aa", "140 characters, and should have 138"),
        (TOKEN + "a", "139 characters, and should have 138"),
        (TOKEN[:50] + "1" + TOKEN[51:], "characters that no token has"),
        (TOKEN[:50] + "ß" + TOKEN[51:], "characters that no token has"),
        (TOKEN[:50] + ("a" if TOKEN[50] != "a" else "b") + TOKEN[51:], "checksum"),
    ],
)
def test_each_damage_has_its_words(text: str, says: str) -> None:
    """What is wrong with it is told."""
    assert says in refusal(text)


@pytest.mark.parametrize(
    ("late_s", "says"), [(0, "0 s ago"), (59, "59 s ago"), (600, "10 min ago"), (3 * 3600, "3 h ago"), (200_000, "2 d")]
)
def test_an_expired_token_says_since_when(late_s: int, says: str) -> None:
    """`expired 3 h ago: ask for a new one`."""
    said = refusal(TOKEN, now=INVITE.expires_at + late_s)

    assert says in said
    assert "ask for a new one" in said
    assert INVITE == parse(TOKEN, now=INVITE.expires_at - 1)


def test_a_newer_version_is_named() -> None:
    """A token of a version that does not exist yet is no damage."""
    assert "version 2.1" in refusal(_forge(version=2))
    assert "version 1.3" in refusal(_forge(kind=3))


def test_addresses_that_make_no_sense_are_refused() -> None:
    """A right checksum over wrong content is refused all the same."""
    assert "addresses" in refusal(_forge(hints=2))
    assert "addresses" in refusal(_forge(tail=b"\x05abcde\0\x01"))


def _forge(*, version: int = 1, kind: int = 1, hints: int = 1, tail: bytes = b"\x04\x7f\0\0\x01\0\x50") -> str:
    payload = (
        bytes([version, kind]) + bytes(16) + bytes(32) + bytes(16) + (2**32 - 1).to_bytes(4, "big") + bytes([hints])
    )
    payload += tail
    return invites.PREFIX + invites._text(payload + invites._check(payload))


def test_a_proof_is_bound_to_everything() -> None:
    """Another secret, inviter, joiner or nonce gives another proof and another tag."""
    key, joiner, nonce = INVITE.key, Person(2).spki, bytes(32)
    right = invites.proof(key, INVITE.inviter, joiner, nonce)

    others = [
        invites.proof(bytes(32), INVITE.inviter, joiner, nonce),
        invites.proof(key, Person(3).id, joiner, nonce),
        invites.proof(key, INVITE.inviter, Person(3).spki, nonce),
        invites.proof(key, INVITE.inviter, joiner, bytes(31) + b"x"),
    ]
    assert right not in others
    assert 4 == len(set(others))
    assert invites.tag(key) != invites.tag(bytes(32))
    assert invites.tag(key) not in (key[:8], right[:8])

"""An admin key with a passphrase: what opens it, what does not, and what a hostile file cannot do."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.errors import HomeError, InvalidInput
from meshnode.trust import adminkey, identity
from tests.trust.cast import Person

A, B = Person(1), Person(2)
WORDS = "five random words are good"
SEALED = adminkey.seal(A.key, WORDS)
BYTES = base64.b64decode("".join(SEALED.splitlines()[1:-1]))


def armoured(data: bytes) -> str:
    lines = SEALED.splitlines()
    return "\n".join((lines[0], base64.b64encode(data).decode(), lines[-1]))


def test_the_passphrase_opens_the_key_and_no_other_does() -> None:
    """Also when a mailer has wrapped the text otherwise; each seal is another text."""
    assert A.spki == identity.public_der(adminkey.unseal(f"To whom it may concern\n> {armoured(BYTES)}\n", WORDS))
    assert adminkey.seal(A.key, WORDS) != SEALED
    assert identity.seed_of(A.key) not in BYTES
    with pytest.raises(InvalidInput, match="passphrase does not open"):
        adminkey.unseal(SEALED, WORDS + " ")


def test_a_short_passphrase_is_not_taken() -> None:
    """A thief of the file would guess it."""
    with pytest.raises(InvalidInput, match="8 characters"):
        adminkey.seal(A.key, "secret!")


@pytest.mark.parametrize("at", range(4, len(BYTES), 13))
def test_a_changed_byte_is_noticed(at: int) -> None:
    """Parameters, salt, nonce, public key or ciphertext: it opens nothing, and no costly parameters are tried."""
    changed = bytearray(BYTES)
    changed[at] ^= 0x40
    with pytest.raises(InvalidInput):
        adminkey.unseal(armoured(bytes(changed)), WORDS)


@given(st.text(max_size=200) | st.binary(max_size=200).map(armoured))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(text: str) -> None:
    """Whatever the file holds, it is one typed error."""
    with pytest.raises(InvalidInput, match="no sealed admin key"):
        adminkey.unseal(text, WORDS)


def test_whose_key_it_is_can_be_read_without_the_passphrase(tmp_path: Path) -> None:
    """A sealed file and a plain one say the same, and only the plain one gives the key; damage is told."""
    sealed, plain = tmp_path / "sealed", tmp_path / "plain"
    adminkey.write(sealed, SEALED)
    plain.write_text(adminkey.pem(A.key))
    plain.chmod(0o600)

    assert 0o600 == sealed.stat().st_mode & 0o777
    assert (A.spki, None, True) == ((it := adminkey.load(sealed)).spki, it.key, it.sealed)
    assert (A.spki, False) == ((it := adminkey.load(plain)).spki, it.sealed)
    assert it.key is not None
    sealed.write_text(SEALED.replace("A", "!"))
    with pytest.raises(HomeError, match="damaged"):
        adminkey.load(sealed)


@pytest.mark.parametrize(("live", "now"), [(B, B), (A, A)])
def test_an_interrupted_rotation_ends_as_the_mesh_says(tmp_path: Path, live: Person, now: Person) -> None:
    """The next key takes the place of the other when it is an admin's; else it was never told to anybody, and goes."""
    identity.write_key(tmp_path / adminkey.NAME, A.key)
    identity.write_key(tmp_path / adminkey.NEXT, B.key)
    held = adminkey.settle(tmp_path, {live.spki})

    assert held is not None
    assert now.spki == held.spki == adminkey.load(tmp_path / adminkey.NAME).spki
    assert not (tmp_path / adminkey.NEXT).exists()

"""The file of an admin key: plain PEM, or sealed with a passphrase, in a form that may lie on a stick or be printed.

    -----BEGIN MESHNODE ADMIN KEY-----
    base64 of "MNK1" | log2 n | r | p | salt 16 | nonce 12 | public key DER 44 | ChaCha20-Poly1305 of the key 48
    -----END MESHNODE ADMIN KEY-----

The key of the seal is scrypt of the passphrase; everything before the ciphertext is authenticated with it. Whose key it
is can be read without the passphrase.
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshnode.errors import HomeError, InvalidInput
from meshnode.trust import identity
from meshnode.trust.files import sync_folder, write_atomic

log = logging.getLogger(__name__)

NAME = "admin.key"
NEXT = "admin.key.next"
"""The key that takes the place of the other once the mesh's statements say so."""
PASSPHRASE_MIN = 8
_BEGIN, _END = "-----BEGIN MESHNODE ADMIN KEY-----", "-----END MESHNODE ADMIN KEY-----"
_MAGIC = b"MNK1"
_LOG2_N, _R, _P = 16, 8, 1
"""64 MiB and a fifth of a second a guess."""
_LOG2_N_MAX = 20
"""A file must not make its reader take a gigabyte of memory, or more."""
_SALT, _NONCE, _SPKI, _SEALED = 16, 12, 44, 48
_HEAD = len(_MAGIC) + 3 + _SALT + _NONCE + _SPKI


@dataclass(frozen=True, slots=True)
class Holding:
    """An admin key that is here: its public half, and the key itself unless it is sealed."""

    spki: bytes
    key: Ed25519PrivateKey | None
    sealed: bool
    """Whether the file is, whatever is in memory."""


def plain(key: Ed25519PrivateKey) -> Holding:
    """A key whose file has no passphrase."""
    return Holding(identity.public_der(key), key, sealed=False)


def pem(key: Ed25519PrivateKey) -> str:
    """The key as it lies in a file without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def is_sealed(text: str) -> bool:
    """Whether it is what `seal` makes, by its first line."""
    return _BEGIN in text


def load(path: Path) -> Holding:
    """What is in the file. Raises HomeError."""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise HomeError(f"the key {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if not is_sealed(text):
        return plain(identity.load_key(path))
    try:
        return Holding(_spki(_unarmour(text)), None, sealed=True)
    except InvalidInput as error:
        raise HomeError(f"the key {path} is damaged: {error}", hint="restore it from a backup") from error


def check_passphrase(passphrase: str) -> None:
    """Raises InvalidInput for one that is too short."""
    if len(passphrase) < PASSPHRASE_MIN:
        raise InvalidInput(f"a passphrase has {PASSPHRASE_MIN} characters at least", hint="five random words are good")


def seal(key: Ed25519PrivateKey, passphrase: str) -> str:
    """The key as text that only the passphrase opens. Takes a fifth of a second. Raises InvalidInput."""
    check_passphrase(passphrase)
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    head = _MAGIC + bytes((_LOG2_N, _R, _P)) + salt + nonce + identity.public_der(key)
    sealed = ChaCha20Poly1305(_stretch(passphrase, salt, _LOG2_N, _R, _P)).encrypt(nonce, identity.seed_of(key), head)
    body = base64.encodebytes(head + sealed).decode()
    return f"{_BEGIN}\n{body}{_END}\n"


def unseal(text: str, passphrase: str) -> Ed25519PrivateKey:
    """The key in what `seal` made. Raises InvalidInput for a wrong passphrase, and for what is no such text."""
    data = _unarmour(text)
    head, sealed = data[:_HEAD], data[_HEAD:]
    log2_n, r, p = data[len(_MAGIC) : len(_MAGIC) + 3]
    salt = data[len(_MAGIC) + 3 :][:_SALT]
    nonce = data[len(_MAGIC) + 3 + _SALT :][:_NONCE]
    try:
        seed = ChaCha20Poly1305(_stretch(passphrase, salt, log2_n, r, p)).decrypt(nonce, sealed, head)
    except InvalidTag:
        raise InvalidInput("the passphrase does not open this key", hint="try again; nothing was changed") from None
    key = Ed25519PrivateKey.from_private_bytes(seed)
    if identity.public_der(key) != _spki(data):
        raise InvalidInput("the sealed admin key does not hold together")
    return key


def write(path: Path, text: str) -> None:
    """Write a sealed key into a file (0600). Raises HomeError."""
    write_atomic(path, text.encode("ascii"))


def settle(home: Path, live: set[bytes]) -> Holding | None:
    """The admin key of a home, after whatever was interrupted: the next one takes its place when it is an admin's."""
    path, after = home / NAME, home / NEXT
    if after.exists():
        if load(after).spki in live:
            os.replace(after, path)
            sync_folder(home)
        else:
            after.unlink()
    held = load(path) if path.exists() else None
    if held is not None and held.spki not in live:  # one that was removed, or that a turned bit has made another
        log.warning("%s is the key of no admin of this mesh, and is not used", path)
    return held


def _stretch(passphrase: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << log2_n, r=r, p=p).derive(passphrase.encode())


def _spki(data: bytes) -> bytes:
    return data[_HEAD - _SPKI : _HEAD]


def _unarmour(text: str) -> bytes:
    """The bytes between the two lines, in bounds. Raises InvalidInput."""
    _, begin, rest = text.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except ValueError:  # also of text that is no ASCII
        data = b""
    fits = begin and end and len(data) == _HEAD + _SEALED and data.startswith(_MAGIC)
    if not fits or not 14 <= data[4] <= _LOG2_N_MAX or data[5] != _R or data[6] != _P:
        raise InvalidInput("it is no sealed admin key", hint="the file of `meshnode admin export`, from BEGIN to END")
    return data

"""What a model's folder in the store holds, as the list beside its files says, and whether that is so."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import msgspec

from meshnode.catalog.manifest import File, digest_of
from meshnode.errors import HomeError, ModelRefused
from meshnode.trust.files import read_checked
from meshnode.wire.terms import UNREADABLE

LIST = ".files"
"""What the files of a model are, with the hashes of their pieces, beside them."""


class Contents(msgspec.Struct, frozen=True):
    """The content of `.files`: `pieces` are the hashes of each file's pieces of `piece_bytes`."""

    files: tuple[File, ...]
    piece_bytes: int
    pieces: tuple[bytes, ...]


def look(folder: Path) -> Contents:
    """What a model's folder holds, when sizes and kinds are right. Raises ModelRefused."""
    try:
        # What is damaged stays where it is: the folder is set aside as a whole, with one message.
        payload = read_checked(folder / LIST, precious=True)
        if payload is None:
            raise ModelRefused("its list of files is missing")
        held = msgspec.msgpack.decode(payload, type=Contents)
    except (HomeError, *UNREADABLE) as error:
        raise ModelRefused(f"its list of files cannot be read: {error}") from error
    if not held.files or len(held.files) != len(held.pieces) or digest_of(held.files) != folder.name:
        raise ModelRefused("its list of files does not match its digest")
    for file, pieces in zip(held.files, held.pieces, strict=True):
        if hashlib.sha256(pieces).digest() != file.pieces or held.piece_bytes < 1:
            raise ModelRefused(f"the piece hashes of {file.path} do not match")
        try:
            info = (folder / file.path).lstat()
        except OSError as error:
            raise ModelRefused(f"{file.path} is missing") from error
        if not stat.S_ISREG(info.st_mode) or info.st_size != file.size or info.st_nlink != 1:
            raise ModelRefused(f"{file.path} is not the file that was stored")
    return held

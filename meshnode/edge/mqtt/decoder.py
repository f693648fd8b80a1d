"""The process that opens strangers' pictures and archives: confined, short-lived, and nothing is lost with it.

`python -m meshnode.edge.mqtt.decoder FD SETTING` (that of `execution.sandbox`) reads requests and writes answers on
one socket, each a u32 length of JSON, the JSON, and the bytes that it announces: {"kind", "tensors", "metadata",
"nbytes"} and the file; {"specs"} and the tensors as `meshnode.wire.tensors` lays them out, or {"error"}.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from typing import Any

import msgspec
import numpy as np

from meshnode import sandbox
from meshnode.config import Sandbox
from meshnode.edge import pictures
from meshnode.errors import InvalidInput
from meshnode.sandbox import Profile
from meshnode.wire import tensors
from meshnode.wire.tensors import Array

LENGTH = struct.Struct(">I")
OUT_BYTES_MAX = 256 * 1024**2
FILES = 16


def main() -> None:
    """See the module's docstring."""
    from PIL import Image  # not where the agent imports this module's figures

    fd = int(sys.argv[1])
    Image.init()  # its readers are imported now: later there is no reading of files
    setting = Sandbox(sys.argv[2])
    profile = Profile.LIMITS if setting is Sandbox.OFF else Profile.FULL
    grade = sandbox.enter(profile, readable=[], file_bytes_max=0, files_max=FILES).grade
    while head := _read(fd, LENGTH.size):
        request = msgspec.json.decode(_read(fd, LENGTH.unpack(head)[0]))
        payload = _read(fd, request["nbytes"])
        parts: list[tensors.Buffer] = []
        try:
            if setting is Sandbox.REQUIRE and grade != sandbox.GRADES[0]:
                raise InvalidInput(f'sandbox = "require" wants grade A, and what opens pictures has {grade} here')
            specs, parts = tensors.encode(opened(request, payload))
            said: dict[str, Any] = {"specs": specs}
        except InvalidInput as error:
            said = {"error": str(error), "hint": error.hint}
        document = msgspec.json.encode(said)
        for part in (LENGTH.pack(len(document)), document, *parts):
            _write(fd, part)


def opened(request: dict[str, Any], payload: bytes) -> dict[str, Array]:
    """The tensors of a picture or archive. Raises InvalidInput."""
    try:
        if request["kind"] == "npz":
            return _archive(payload)
        (tensor,) = request["tensors"]
        return {tensor["name"]: pictures.image_array(payload, tensor, request["metadata"], "the picture")}
    except InvalidInput:
        raise
    except Exception as error:  # Pillow and zipfile name no end of what they raise on damaged files
        raise InvalidInput(f"the {request['kind']} cannot be read: {type(error).__name__}") from error


def _archive(payload: bytes) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            if total > OUT_BYTES_MAX:
                raise InvalidInput(f"the .npz holds {total} bytes; {OUT_BYTES_MAX} are allowed")
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except zipfile.BadZipFile as error:
        raise InvalidInput(f"the .npz cannot be read: {error}") from error


def _read(fd: int, size: int) -> bytes:
    """So many bytes, or none when the agent is done with this process."""
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, min(size - len(data), 1 << 20))
        if not piece:
            return b""
        data += piece
    return bytes(data)


def _write(fd: int, part: tensors.Buffer) -> None:
    view = memoryview(part).cast("B")
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


if __name__ == "__main__":
    main()

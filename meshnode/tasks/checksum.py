"""The checksum of a result, so that nothing is taken for one that was damaged on its way."""

from __future__ import annotations

import asyncio
import zlib

from meshnode.wire.tensors import Buffer

ALOOF_BYTES = 4 * 1024**2
"""Above this it is computed in a thread: half a gigabyte takes a third of a second."""


async def checksum(parts: tuple[Buffer, ...]) -> int:
    """CRC-32 of all parts, one after the other."""
    large = sum(len(memoryview(part).cast("B")) for part in parts) >= ALOOF_BYTES
    return await asyncio.to_thread(_crc32, parts) if large else _crc32(parts)


def _crc32(parts: tuple[Buffer, ...]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value

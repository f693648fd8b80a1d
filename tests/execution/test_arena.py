"""Blocks of shared memory: none overlap, all come back."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.execution.arena import ALIGN, LARGE_BYTES, STAYS_BYTES, Arena, contents, fill, memory_file

SIZE = 64 * ALIGN


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20 * ALIGN)), max_size=60))
def test_blocks_never_overlap_and_all_come_back(steps: list[tuple[bool, int]]) -> None:
    """Allocated and freed in any order; at the end the whole arena is one block again."""
    fd = memory_file(SIZE)
    arena = Arena(fd, SIZE)
    os.close(fd)
    held: dict[int, int] = {}
    for take, nbytes in steps:
        if take or not held:
            offset = arena.allocate(nbytes)
            if offset is not None:
                assert all(offset + nbytes <= o or o + n <= offset for o, n in held.items())
                assert offset + nbytes <= SIZE
                held[offset] = nbytes
        else:
            offset = list(held)[nbytes % len(held)]
            arena.free(offset)
            del held[offset]
    for offset in held:
        arena.free(offset)
    assert 0 == arena.used_bytes
    assert 0 == arena.allocate(SIZE)
    arena.memory.close()


def test_what_is_large_has_no_block() -> None:
    """It gets a memory file of its own, however much of the arena is free."""
    fd = memory_file(2 * LARGE_BYTES)
    arena = Arena(fd, 2 * LARGE_BYTES)
    os.close(fd)
    assert None is arena.allocate(LARGE_BYTES)
    assert 0 == arena.allocate(LARGE_BYTES - 1)
    arena.memory.close()


@pytest.mark.skipif(sys.platform != "linux", reason="pages of a shared file go back by MADV_REMOVE")
def test_an_empty_arena_keeps_few_pages() -> None:
    """What was used beyond them is the machine's again, while nothing is in it; and can be used once more."""
    size = 2 * STAYS_BYTES
    fd = memory_file(size)
    arena = Arena(fd, size)
    blocks = [arena.allocate(size // 4) for _ in range(4)]
    assert None not in blocks
    arena.memory[:] = b"x" * size
    for block in blocks[1:]:
        arena.free(block or 0)
    assert size <= os.fstat(fd).st_blocks * 512, "one block is still in use"
    arena.free(0)
    assert STAYS_BYTES >= os.fstat(fd).st_blocks * 512
    for block in blocks:
        assert block == arena.allocate(size // 4)
    arena.memory[:] = b"y" * size
    os.close(fd)
    arena.memory.close()


def test_a_memory_file_holds_its_parts_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many calls as it takes; and one that is shorter than it should be is no answer."""
    monkeypatch.setattr("meshnode.execution.arena.SLICE_BYTES", 1000)
    parts = [os.urandom(size) for size in (1, 0, 999, 1000, 12_345)]
    whole = b"".join(parts)
    fd = memory_file(len(whole))
    fill(fd, parts)
    assert whole == contents(fd, len(whole))
    with pytest.raises(EOFError, match=f"{len(whole)} bytes instead of {len(whole) + 1}"):
        contents(fd, len(whole) + 1)
    os.close(fd)

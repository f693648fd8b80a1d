"""Blocks of shared memory: none overlap, all come back."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from meshnode.execution.arena import ALIGN, Arena, memory_file

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

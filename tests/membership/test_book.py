"""The adverts that are held: of nodes that there are, and of no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from meshnode.config import LAN
from tests.membership.members import mates
from tests.waiting import until


async def test_an_advert_goes_with_the_tombstone_of_its_node(tmp_path: Path) -> None:
    """Who left is spoken of for a while; then nothing is kept of it, however many come and go."""
    async with mates(tmp_path, "ab", replace(LAN.membership, tombstone_s=1.0)) as (a, b):
        await b.stop("it goes")
        await until(lambda: a.core.roster.get(b.id) is None, "its tombstone is gone")
        await until(lambda: a.membership._adverts.get(b.id) is None, "its advert is gone")
        assert [a.id] == [it.id for it in a.membership._adverts.adverts()]

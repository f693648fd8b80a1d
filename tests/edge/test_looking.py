"""What two members tell each other when one wants to know what is wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path

import pytest

from meshnode.edge import looking
from meshnode.edge.doctor import examine_peer
from meshnode.edge.looking import REACHING_MAX, Looker
from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, Refused
from meshnode.wire.looks import Look, LookAsk, ReachAsk, Reached
from meshnode.wire.messages import NodeId
from tests.edge.living import ask


async def test_a_peer_tells_its_clock_and_what_it_hears(pair: tuple[Node, Node]) -> None:
    """Datagrams are counted per sender; a label that nobody said was never heard."""
    ann, bob = pair
    link = await ann.pool.link(bob.keeper.id, bob.addresses())
    took = await ann.membership.datagrams.ping(bob.keeper.id, bob.address, timeout_s=5.0)
    assert took is not None
    look = (await link.call(LookAsk(label="0" * 16, announce=True), timeout_s=5.0)).message
    assert isinstance(look, Look)
    assert abs(look.wall - time.time()) < 5
    assert (None, "") == (look.heard_s, look.label)
    assert look.datagram_s is not None
    assert look.datagram_s < 5


async def test_a_peer_tries_our_addresses(pair: tuple[Node, Node]) -> None:
    """Those that it knows; who asks twice at a time gets one answer twice, and one asker too many is told to wait."""
    ann, bob = pair
    link = await ann.pool.link(bob.keeper.id, bob.addresses())
    reached = (await link.call(ReachAsk(), timeout_s=10.0)).message
    assert isinstance(reached, Reached)
    assert [(*ann.address, "answered")] == [(it.host, it.port, it.outcome) for it in reached.tries]
    looker = Looker(ann)
    once, again = await asyncio.gather(looker.reach(bob.keeper.id), looker.reach(bob.keeper.id))
    assert once.message == again.message
    assert {} == looker._reaching
    others = [asyncio.ensure_future(looker.reach(NodeId(str(i)))) for i in range(REACHING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        await looker.reach(bob.keeper.id)
    await asyncio.gather(*others)


async def test_a_datagram_that_nobody_answers(pair: tuple[Node, Node]) -> None:
    """None in time, and nothing stays behind."""
    ann, bob = pair
    datagrams = ann.membership.datagrams
    assert None is await datagrams.ping(bob.keeper.id, ("127.0.0.1", 9), timeout_s=0.2)
    assert {} == datagrams._pings


async def test_one_peer_step_by_step(pair: tuple[Node, Node]) -> None:
    """By name, by id, this node itself, and nobody; in time."""
    ann, bob = pair
    began = time.monotonic()
    rows = await ask(ann.home, "doctor", {"peer": "bob"})
    assert time.monotonic() - began < 10
    found = {row["check"]: row["ok"] for row in rows}
    assert [] == [row for row in rows if row["ok"] is False]
    assert {"found": True, "link": True, "udp": True, "back": True, "clock": True} == {
        check: found[check] for check in ("found", "link", "udp", "back", "clock")
    }
    member = ann.membership.member(ann.keeper.id)
    assert member is not None
    (row,) = await examine_peer(ann, member)
    assert "is this node" in row["detail"]
    assert found.keys() == {row["check"] for row in await ask(ann.home, "doctor", {"peer": bob.keeper.id[:8]})}
    with pytest.raises(InvalidInput):
        await ask(ann.home, "doctor", {"peer": "nobody"})


async def test_disks_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left there; a folder that is gone and a disk that hangs are errors."""
    assert 0 == (await looking.disk(tmp_path, 1)).errno
    assert [] == os.listdir(tmp_path)
    monkeypatch.setattr(looking, "DISK_S", 0.05)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(home: Path) -> None:
        asyncio.run_coroutine_threadsafe(over.wait(), loop).result(10)

    with monkeypatch.context() as patch:
        patch.setattr(looking, "_write", hang)
        assert "does not end" in (await looking.disk(tmp_path, 1)).error
    over.set()
    monkeypatch.setattr(looking, "DISK_S", 5.0)
    monkeypatch.setattr(looking, "_write", lambda home: (home / "none" / "x").write_bytes(b""))
    assert errno.ENOENT == (await looking.disk(tmp_path, 1)).errno

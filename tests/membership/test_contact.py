"""Links of a large mesh: closed when nobody needs them, which says nothing against the peer, and dialled again."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.membership import contact, gossip
from meshnode.membership.contact import Contact
from meshnode.wire.messages import NodeId
from tests.membership.members import mates
from tests.waiting import until


async def test_an_idle_link_is_closed_for_good_and_the_peer_stays_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side dials before it has something to say; one that breaks is another matter."""
    redialled: list[NodeId] = []

    async def redial(_self: Contact, node: NodeId) -> None:
        redialled.append(node)

    monkeypatch.setattr(Contact, "redial", redial)
    for module in (contact, gossip):
        monkeypatch.setattr(module, "LINKED_MAX", 2)
    async with mates(tmp_path, "abc") as everyone:
        with monkeypatch.context() as soon:
            soon.setattr(contact, "IDLE_S", 0.0)
            await until(lambda: not any(mate.pool.links() for mate in everyone), "all links are closed")
        assert all(member.usable for mate in everyone for member in mate.membership.view())
        assert [] == redialled
        assert [] == [it for mate in everyone for it in mate.wrong]

        ann, bob, _ = everyone
        await ann.membership._contact.sync(bob.id)
        link = ann.pool.get(bob.id)
        assert link is not None, "there was something to say"
        link.abort("the wire was cut")
        await until(lambda: {ann.id, bob.id} == set(redialled), "both sides look what is wrong")
        assert not next(member.usable for member in ann.membership.view() if member.id == bob.id)

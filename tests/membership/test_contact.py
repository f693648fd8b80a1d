"""Links of a large mesh: some stay, the others are closed when nobody needs them, which says nothing against a peer."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode.membership import contact, gossip
from meshnode.membership.contact import Contact
from meshnode.membership.fingers import fingers
from meshnode.wire.messages import NodeId
from tests.membership.members import Mate, mates
from tests.waiting import until


async def test_idle_links_are_closed_for_good_and_their_peers_stay_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side dials before it has something to say; a link that breaks is another matter, and one that is to stay
    is made again, also when the mesh has become small."""
    redialled: list[NodeId] = []

    async def redial(_self: Contact, node: NodeId) -> None:
        redialled.append(node)

    monkeypatch.setattr(Contact, "redial", redial)
    for module in (contact, gossip):
        monkeypatch.setattr(module, "LINKED_MAX", 2)
    async with mates(tmp_path, "abcdef") as everyone:
        ids = {mate.id for mate in everyone}

        def linked(mate: Mate) -> set[NodeId]:
            return {link.peer.id for link in mate.pool.links()}

        with monkeypatch.context() as soon:
            soon.setattr(contact, "IDLE_S", 0.0)
            await until(
                lambda: all(linked(mate) == fingers(mate.id, ids) for mate in everyone),
                "those are left that are to stay",
            )
        assert all(member.usable for mate in everyone for member in mate.membership.view())
        assert [] == redialled
        assert [] == [it for mate in everyone for it in mate.wrong]

        ring = sorted(everyone, key=lambda mate: mate.id)
        one, next_to_it, far = ring[0], ring[1], ring[3]
        await one.membership._contact.sync(far.id)
        link = one.pool.get(far.id)
        assert link is not None, "there was something to say"
        link.abort("the wire was cut")
        await until(lambda: {one.id, far.id} == set(redialled), "both sides look what is wrong")
        assert not next(member.usable for member in one.membership.view() if member.id == far.id)

        for module in (contact, gossip):
            monkeypatch.setattr(module, "LINKED_MAX", 32)  # as if many had left
        link = one.pool.get(next_to_it.id)
        assert link is not None
        link.abort("the wire was cut")
        await until(lambda: one.pool.get(next_to_it.id) is not None, "it is there again")


async def test_what_is_said_by_one_reaches_all_over_the_links_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new advert is everywhere, although most have no link to its node."""
    for module in (contact, gossip):
        monkeypatch.setattr(module, "LINKED_MAX", 2)
    async with mates(tmp_path, "abcdef") as everyone:
        ids = {mate.id for mate in everyone}
        monkeypatch.setattr(contact, "IDLE_S", 0.0)
        await until(
            lambda: all({link.peer.id for link in it.pool.links()} == fingers(it.id, ids) for it in everyone),
            "the links that stay are left",
        )
        one, *others = everyone
        content = one.membership._content
        assert content is not None
        one.membership.advertise(content)

        def version(mate: Mate) -> int:
            held = mate.membership._adverts.get(one.id)
            return 0 if held is None else held.version

        await until(lambda: all(version(one) == version(it) for it in others), "all have it")

"""What changed, as a person would tell it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from meshnode.edge.events import KEPT, Events, Seen, differences
from meshnode.membership.view import Member
from meshnode.wire.messages import NodeId
from tests.edge.living import ask, founder, joiner
from tests.waiting import until

ALIVE = Seen("bob", "alive", True, "direct", "", "", False)


def test_each_change_is_told_once_with_its_reason() -> None:
    """Coming, going, doubt, pauses and other ways; nothing for what stays."""
    assert [("found", "")] == differences(None, ALIVE)
    assert [] == differences(ALIVE, ALIVE)
    dead = replace(ALIVE, state="dead", usable=False, path="none", reason="it does not answer")
    assert [("dead", "it does not answer")] == differences(ALIVE, dead)
    assert [("back", "")] == differences(dead, ALIVE)
    doubted = replace(ALIVE, usable=False, reason="its connection ended")
    assert [("not used", "its connection ended")] == differences(ALIVE, doubted)
    assert [("usable", "")] == differences(doubted, ALIVE)
    assert [("paused", "owner is here")] == differences(ALIVE, replace(ALIVE, paused="owner is here"))
    assert [("resumed", "")] == differences(replace(ALIVE, paused="x"), ALIVE)
    assert [("path", "direct before, now relay via ann")] == differences(ALIVE, replace(ALIVE, path="relay via ann"))


def test_only_the_last_are_kept_and_numbers_go_on() -> None:
    """A mesh that flaps fills no memory, and whoever follows misses nothing that is kept."""
    events = Events(NodeId("me"), clock=lambda: 1.0)
    member = Member(NodeId("b"), "bob", "alive", True, None, (), None, "mdns", "direct", "", 0.0)
    for number in range(KEPT + 50):
        events.look([replace(member, usable=bool(number % 2))])
    assert KEPT == len(events.after(0))
    assert [KEPT + 49, KEPT + 50] == [event["number"] for event in events.after(KEPT + 48)]


async def test_a_real_peer_that_comes_and_goes_is_told(tmp_path: Path) -> None:
    """Through the local door."""
    async with founder(tmp_path / "ann") as first:
        async with joiner(tmp_path / "bob", first.node):
            await until(lambda: first.node.events.after(0), "bob was noticed")
        await until(lambda: "left" in [event["event"] for event in first.node.events.after(0)], "and that it left")
        told = await ask(first.node.home, "events", {"after": 0})
        assert {"bob"} == {event["name"] for event in told} - {event["node"][:8] for event in told}
        assert "left" == told[-1]["event"] or "left" in [event["event"] for event in told]

"""The failure detector, step by step: what it sends and believes when this and that happens."""

from __future__ import annotations

from dataclasses import replace

from meshnode.membership.entropy import Told
from meshnode.membership.events import Broken, Isolated, Merged, PingStream, StreamAnswered, StreamsHeard, Sync, Woke
from meshnode.membership.rules import OURS
from meshnode.membership.updates import Ack, Gossip, Nack, Ping, PingReq, Suspect
from tests.membership.around import Detector, alive, dead, node, of, packets, suspect


def probed(it: Detector) -> tuple[str, int]:
    """Let the next probe begin; whom it is of, and its number."""
    names = {node(name): name for name in "abcdefgh"}
    for _ in range(40):
        for peer, ping in packets(it.wait(0.05), Ping):
            return names[peer], ping.seq
    raise AssertionError("nobody was probed within two seconds")


def test_a_ping_is_answered() -> None:
    """Whoever pings gets an ack with its number."""
    it = Detector("a", "b")
    ((peer, ack),) = packets(it.hear("a", Ping(7)), Ack)
    assert (node("a"), 7) == (peer, ack.seq)


def test_a_silent_member_is_pinged_again_then_through_helpers_then_suspected() -> None:
    """The whole walk of a probe that nobody answers, while others are heard."""
    it = Detector("a", "b", "c", "d", "e")
    target, seq = probed(it)
    again = it.wait(0.3)
    assert [(node(target), seq)] == [(peer, ping.seq) for peer, ping in packets(again, Ping)]
    asked = it.wait(0.3)
    assert 3 == len(packets(asked, PingReq))
    assert [node(target)] == [effect.peer for effect in of(asked, PingStream)]
    other = next(name for name in "abcde" if name != target)
    for _ in range(3):
        it.hear(other, Nack(seq))
    told = it.wait(0.5)
    assert "suspect" == it.state(target)
    assert node(target) in [peer for peer, packet in packets(told, Gossip) if isinstance(packet.updates[0], Suspect)]
    assert 0 == it.core.health.score, "three helpers said nack: the network is fine"


def test_an_ack_through_a_helper_or_a_stream_clears_the_member() -> None:
    """One path that works is enough."""
    for clear in ("ack", "stream"):
        it = Detector("a", "b", "c", "d")
        target, seq = probed(it)
        it.wait(0.6)
        helper = next(name for name in "abcd" if name != target)
        if clear == "ack":
            it.hear(helper, Ack(seq))
        else:
            it.feed(StreamAnswered(node(target)))
        it.wait(0.5)
        assert "alive" == it.state(target)


def test_nobody_is_accused_while_nobody_is_heard() -> None:
    """Deaf: with every member silent at once it is this node that is cut off, and it says so once."""
    it = Detector("a", "b", "c")
    done = it.wait(60.0)
    assert {"alive"} == {it.state(name) for name in "abc"}
    assert [Isolated(now=True)] == of(done, Isolated)
    assert [Isolated(now=False)] == of(it.hear("a", Ping(1)), Isolated)


def test_of_two_members_the_other_can_still_die() -> None:
    """With nobody else to hear, silence is all the evidence there can be."""
    it = Detector("a")
    it.wait(30.0)
    assert "dead" == it.state("a")


def test_whoever_was_just_heard_is_not_suspected_on_hearsay() -> None:
    """The accusation is passed on to the accused, who refutes it."""
    it = Detector("a", "b", "c")
    it.hear("a", Ping(1))
    done = it.hear("b", Gossip((suspect("a", "b"),)))
    assert "alive" == it.state("a")
    assert [(node("a"), (suspect("a", "b"),))] == [(peer, packet.updates) for peer, packet in packets(done, Gossip)]
    it.wait(5.0)
    it.hear("b", Gossip((suspect("a", "b"),)))
    assert "suspect" == it.state("a"), "it was not heard for five seconds"


def test_no_single_accuser_kills() -> None:
    """A verdict of one member only begins a suspicion; refuted in time, it comes to nothing."""
    it = Detector(*"abcdef")
    it.wait(5.0)
    it.hear("b", Gossip((dead("a", "b"),)))
    assert "suspect" == it.state("a")
    it.hear("c", Gossip((alive("a", inc=1),)))
    assert "alive" == it.state("a")


def test_a_verdict_that_this_node_signed_once_is_hearsay_like_any_other() -> None:
    """Its earlier start said so, and the word comes round again: the accused may still answer."""
    it = Detector("a", "b", "c", "d")
    it.wait(5.0)
    it.hear("b", Gossip((dead("a", "me"),)))
    assert "suspect" == it.state("a")
    it.hear("c", Gossip((alive("a", inc=1),)))
    assert "alive" == it.state("a")


def test_who_holds_all_others_dead_tries_each_of_them_again() -> None:
    """The one that is back is found at the next round, however many are gone for good; and not hundreds at once."""
    for others, tried in (("abcde", 5), ([f"n{i}" for i in range(40)], 8)):
        it = Detector(*others)
        for name in others:
            it.feed(Broken(node(name), refused=True))
        it.wait(14.0)
        assert {"dead"} == {it.state(name) for name in others}
        rounds = [{sync.peer for sync in of(it.wait(0.5), Sync)} for _ in range(62)]
        assert {0, tried} == {len(found) for found in rounds}, "a round begins 15 to 45 s after the last"


def test_a_suspect_is_told_again_while_it_does_not_answer() -> None:
    """The first telling may have been lost with the network: whoever accused it says so every three seconds, once."""
    it = Detector("a", "b", "c", "d", "e", "f", "g")
    row = it.core.roster.get(node("a"))
    assert row is not None

    def told(within_s: float) -> int:
        """How often it was told."""
        news = [packet for peer, packet in packets(it.wait(within_s), Gossip) if peer == node("a")]
        return sum(isinstance(update, Suspect) for packet in news for update in packet.updates)

    it.core.ledger.accuse(it.now, row, [])
    told(2.9)
    assert [1, 0, 1] == [told(0.2), told(2.8), told(0.2)]
    it.hear("a", Gossip((alive("a", inc=1),)))
    assert "alive" == it.state("a")
    assert 0 == told(3.2)


def test_tables_that_differ_for_long_are_compared_soon_again_once_something_changes() -> None:
    """Evening out that brought nothing is done ever more seldom; a change here ends that at once."""
    it = Detector("a", "b", "c", "d")

    def evened_out() -> bool:
        """Within three and a half seconds in which another's table is heard to differ."""
        found = []
        for _ in range(7):
            found += of(it.hear("a", Ping(1, (), 12345)) + it.wait(0.5), Sync)
        return Sync(node("a")) in found

    assert evened_out()
    while evened_out():
        pass
    it.hear("b", Gossip((alive("b", inc=1),)))
    it.core.ledger.news.drop(node("b"))
    assert evened_out()


def test_a_verdict_with_a_second_accuser_halves_the_wait() -> None:
    """Two independent members agree, one of them for its whole suspicion: that shortens ours."""
    ends = []
    for accusers in ("b", "bc"):
        it = Detector(*"abcdefgh", rules=replace(OURS, repeat_ping=False))
        it.wait(5.0)
        began = it.now
        it.hear("b", Gossip((dead("a", "b"),)))
        for accuser in accusers[1:]:
            it.hear(accuser, Gossip((suspect("a", accuser),)))
        while it.state("a") == "suspect" and it.now < began + 60.0:
            it.wait(0.1)
            it.hear("d", Ping(1))
        ends.append(it.now - began)
    assert 1.0 < ends[1] < ends[0] < 6.0


def test_an_accuser_is_not_listened_to_without_end() -> None:
    """A member that accuses everybody all the time is heard 64 times, then twice a second."""
    it = Detector(*(f"n{i}" for i in range(200)), "liar")
    it.wait(5.0)
    for i in range(200):
        it.hear("liar", Gossip((suspect(f"n{i}", "liar"),)))
    assert 64 == sum(it.state(f"n{i}") == "suspect" for i in range(200))


def test_an_accusation_of_this_node_is_refuted_at_once() -> None:
    """With the next incarnation, to whoever said it; and being accused is a sign of being slow."""
    it = Detector("a", "b")
    done = it.hear("a", Gossip((suspect("me", "a"),)))
    ((peer, packet),) = packets(done, Gossip)[:1]
    assert (node("a"), (1, 1)) == (peer, (packet.updates[0].gen, packet.updates[0].inc))
    assert 1 == it.core.health.score


def test_tables_that_differ_are_evened_out_when_neither_side_has_news() -> None:
    """A ping with another root makes a sync, but not for each one."""
    it = Detector("a", "b")
    assert [Sync(node("a"))] == of(it.hear("a", Ping(1, (), it.core.roster.root ^ 1)), Sync)
    assert [] == of(it.hear("a", Ping(2, (), it.core.roster.root ^ 1)), Sync)
    it.wait(10.0)
    assert [] == of(it.hear("a", Ping(3, (), 0)), Sync), "it has news to tell, so it will differ"


def test_a_machine_that_woke_accuses_nobody_before_it_has_heard_how_things_are() -> None:
    """It is newer than what was said of it, evens out its table, and its old probes are void."""
    it = Detector(*"abcd")
    it.hear("b", Gossip((suspect("a", "b"),)))
    it.now += 600.0
    done = it.feed(Woke())
    assert 3 <= len({sync.peer for sync in of(done, Sync)})
    assert (1, 1) == it.core.oneself.version
    it.wait(9.0)
    assert [] == [name for name in "abcd" if it.state(name) == "dead"]


def test_a_process_that_stood_still_holds_nothing_against_others() -> None:
    """A probe that was waiting for an ack while the process was stopped is not failed."""
    it = Detector(*"abcd")
    target, seq = probed(it)
    it.now += 2.0  # no deadline was obeyed meanwhile
    it.feed(None)
    assert "alive" == it.state(target)
    it.hear(target, Ack(seq))
    it.wait(0.5)
    assert "alive" == it.state(target)
    assert 0 == it.core.health.score, "the answered probe made it well again"


def test_members_heard_on_their_links_are_not_probed() -> None:
    """Streams that are in use are probes."""
    it = Detector("a", "b")
    pinged = set()
    for _ in range(20):
        it.feed(StreamsHeard((node("a"),)))
        pinged |= {peer for peer, _ in packets(it.wait(0.5), Ping)}
        it.hear("b", Ping(1))
    assert {node("b")} == pinged


def test_a_refused_connection_is_strong_evidence() -> None:
    """An address that refuses says that the agent is gone: the suspicion is short."""
    it = Detector(*"abcd")
    it.feed(Broken(node("a"), refused=True))
    assert "suspect" == it.state("a")
    for _ in range(20):
        it.wait(0.1)
        it.hear("b", Ping(1))
    assert "dead" == it.state("a")


def test_a_late_answer_on_the_link_still_ends_a_suspicion() -> None:
    """The accusation is carried to the suspect over the link, and its word refutes."""
    it = Detector(*"abcd")
    it.wait(5.0)
    it.hear("b", Gossip((suspect("a", "b"),)))
    (ping,) = of(it.feed(StreamAnswered(node("a"))), PingStream)
    assert suspect("a", "b") == ping.accusation
    it.feed(Merged((Told(0.0, alive("a", inc=1)),)))
    assert "alive" == it.state("a")


def test_much_news_over_a_link_is_not_told_on() -> None:
    """A whole table that was learnt from a peer is no news to the others."""
    it = Detector("a")
    it.feed(Merged(tuple(Told(0.0, alive(f"n{i}")) for i in range(300))))
    assert 301 + 1 == len(it.core.roster)
    assert 0 == len(it.core.ledger.news)


def test_tombstones_are_kept_spoken_of_and_forgotten_in_time() -> None:
    """A node that left is remembered a day, spoken of half a day, and then gone, without growth."""
    it = Detector("a", "b")
    root = it.core.roster.root
    it.feed(Merged((Told(3600.0, dead("b", "a")),)))
    it.wait(30.0)
    assert "dead" == it.state("b")
    with_tombstone = it.core.roster.root
    it.hear("a", Ping(1))
    it.wait(12 * 3600.0)
    assert "dead" == it.state("b")
    assert with_tombstone != it.core.roster.root != root
    it.wait(13 * 3600.0)
    assert it.state("b") is None

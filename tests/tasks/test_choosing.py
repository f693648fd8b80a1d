"""Choosing the node of an attempt: who is asked, who never is, and what is said when nobody takes the task."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from meshnode.config import Routing
from meshnode.errors import DeadlineExceeded, InvalidInput, NoCapacity, NoNodeInZone, PeerLost, Refused
from meshnode.membership.advert import Held, PowerState
from meshnode.membership.view import Member
from meshnode.routing.estimates import Estimates
from meshnode.tasks.choosing import Choice
from meshnode.tasks.knowing import KINDS_MAX, Knowing
from meshnode.tasks.wanted import Wanted
from meshnode.wire.messages import NodeId, Plan, Quote, Submit, TensorSpec
from tests.tasks.around import ANN, BOB, CAT, ME, MODEL, NAMES, SETTINGS, Around, inferred, member
from tests.waiting import until

TASK = "1" * 32
BUSY = Quote(backlog_s=9.0, service_s=0.01, slots=1)
NOBODY: frozenset[NodeId] = frozenset()


def wanted(**fields: Any) -> Wanted:
    given: dict[str, Any] = {"task": TASK, "input_bytes": 100, "priority": "normal", "zone": None, "node": None}
    return Wanted(manifest=MODEL, **(given | fields))


async def chosen(around: Around, exclude: frozenset[NodeId] = NOBODY, **fields: Any) -> str:
    return (await around.chooser().choose(wanted(**fields), exclude, 30.0)).name


def test_a_request_says_how_much_moves() -> None:
    """The bytes of all inputs count, and a plan is no task."""
    inputs = (TensorSpec("x", "float", (2,), 8), TensorSpec("y", "float", (3,), 12))
    submit = Submit(task=TASK, model="m", inputs=inputs, deadline_s=1.0, priority="high", zone="eu", node="ann")
    assert Wanted(TASK, MODEL, 20, "high", "eu", "ann") == Wanted.of(submit, MODEL)
    assert TASK != Wanted.of(Plan(model="m", inputs=inputs, deadline_s=1.0), MODEL).task


async def test_an_idle_node_alone_runs_it_itself(around: Around) -> None:
    """One machine is a mesh."""
    assert Choice(ME, "me") == await around.chooser().choose(wanted(), NOBODY, 30.0)


async def test_work_goes_to_who_is_done_first(around: Around) -> None:
    """A long queue here and at one peer: the idle peer gets it, and its name is told."""
    around.own = BUSY
    (await around.peer(ANN)).quote = BUSY
    await around.peer(BOB)
    assert Choice(BOB, "bob") == await around.chooser().choose(wanted(), NOBODY, 30.0)


async def test_a_task_that_stays_costs_no_question(around: Around) -> None:
    """When this node is plainly the best, no peer hears of the task."""
    ann = await around.peer(ANN, models=())
    assert "me" == await chosen(around)
    assert [] == ann.asked


async def test_the_place_here_is_given_back_when_the_task_goes_elsewhere(around: Around) -> None:
    """One that stays comes for it. Places that were kept made the next task go elsewhere too, and so on."""
    await around.peer(ANN)
    around.own = BUSY
    assert "ann" == await chosen(around)
    assert around.own_asked == around.released
    around.own = Quote(backlog_s=0.0, service_s=0.0001, slots=1)
    assert "me" == await chosen(around)
    assert 1 == len(around.released)


async def test_who_is_asked_hears_what_the_task_is(around: Around) -> None:
    """Model, zone, priority, bytes and the time that is left, never more than that."""
    around.alone(Refused("busy"))
    ann, bob = await around.peer(ANN, zone="eu"), await around.peer(BOB, zone="eu")
    await chosen(around, zone="eu", priority="high")
    (ask,) = ann.asked
    assert [ask] == bob.asked
    assert 29.0 < ask.deadline_s <= 30.0
    assert (TASK, MODEL.digest, "high", "eu", 100) == (ask.task, ask.model, ask.priority, ask.zone, ask.input_bytes)


# --- zones ---


@pytest.mark.parametrize("zone", ["eu", "eu/berlin"])
async def test_what_is_bound_to_a_zone_is_told_to_nobody_outside(around: Around, zone: str) -> None:
    """Nodes outside are not even asked for a quote, however idle; nor does this node run it."""
    inside, outside = await around.peer(ANN, zone="eu/berlin"), await around.peer(BOB, zone="europe")
    nowhere = await around.peer(CAT)
    inside.quote = BUSY
    assert "ann" == await chosen(around, zone=zone)
    assert [] == [*outside.asked, *nowhere.asked, *around.own_asked[1:]]


async def test_no_node_in_the_zone_is_an_error_and_no_fall_back(around: Around) -> None:
    """Idle machines elsewhere do not matter: NoNodeInZone, with the zone, the model and where to look."""
    around.alone(NoNodeInZone("this node is in zone '(none)', the task is for 'eu'"))
    bob = await around.peer(BOB, zone="us")
    await around.peer(ANN, zone="eu", state="dead")
    with pytest.raises(NoNodeInZone, match="'eu'"):
        await chosen(around, zone="eu")
    around.no_workers.add(ME)
    with pytest.raises(NoNodeInZone, match="no live node in zone 'eu' can run 'm'") as caught:
        await chosen(around, zone="eu")
    assert "never leaves the zone" in caught.value.hint
    assert [] == bob.asked


async def test_a_zone_that_is_busy_is_no_zone_without_nodes(around: Around) -> None:
    """All nodes of the zone refuse: that passes, and the error says when to come again."""
    around.no_workers.add(ME)
    for node, wait_s in ((ANN, 0.7), (BOB, 0.3)):
        (await around.peer(node, zone="eu")).quote = Refused("3 s of work wait here", retry_after_s=wait_s)
    await around.peer(CAT, zone="us")
    with pytest.raises(NoCapacity) as caught:
        await chosen(around, zone="eu")
    assert all(f"{name}: 3 s of work" in str(caught.value) for name in ("ann", "bob"))
    assert 0.3 == caught.value.retry_after_s


@pytest.mark.parametrize("fields", [{"providers": ()}, {"draining": True}, {"paused": "its owner is back"}])
async def test_a_zone_whose_node_cannot_now_is_no_zone_without_nodes(around: Around, fields: dict[str, Any]) -> None:
    """Its worker has not started yet, say: that this node is outside the zone is no reason to give up at once."""
    around.alone(NoNodeInZone("the task is for zone 'eu', and the node that was asked is in no zone"))
    await around.peer(ANN, zone="eu", **fields)
    with pytest.raises(NoCapacity, match="ann: it"):
        await chosen(around, zone="eu")


async def test_a_node_that_says_it_is_not_in_the_zone_is_believed(around: Around) -> None:
    """Its advert was old: its own word counts, the task does not go there, and the error is about the whole mesh."""
    around.no_workers.add(ME)
    for node in (ANN, BOB):
        (await around.peer(node, zone="eu")).quote = NoNodeInZone("this node is in zone 'us', the task is for 'eu'")
    with pytest.raises(NoNodeInZone, match="no live node in zone 'eu' can run 'm'"):
        await chosen(around, zone="eu")


async def test_a_named_node_outside_the_zone_is_not_used(around: Around) -> None:
    """`--node` does not lift `--zone`."""
    ann = await around.peer(ANN, zone="us")
    await around.peer(BOB, zone="eu")
    with pytest.raises(NoNodeInZone):
        await chosen(around, zone="eu", node="ann")
    assert [] == ann.asked


# --- a named node ---


async def test_a_named_node_gets_it_or_nobody(around: Around) -> None:
    """Not the idle one beside it; and when it refuses, the error is its own."""
    ann = await around.peer(ANN)
    await around.peer(BOB)
    ann.quote = BUSY
    assert "ann" == await chosen(around, node="ann")
    with pytest.raises(NoCapacity, match="already tried") as caught:
        await chosen(around, frozenset({ANN}), node="ann")
    assert "bob" not in str(caught.value)


async def test_a_named_node_that_does_not_exist_is_the_callers_mistake(around: Around) -> None:
    """InvalidInput at once, instead of a wait for a node that will not come."""
    with pytest.raises(InvalidInput, match="no node 'dora'"):
        await chosen(around, node="dora")


# --- nobody ---


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"draining": True}, "finishing its work"),
        ({"paused": "its owner is at the keyboard"}, "owner is at the keyboard"),
        ({"providers": ()}, "no worker that runs models"),
        ({"power": PowerState("battery", 20.0)}, "on battery at 20 %"),
        ({"state": "dead"}, "not alive"),
        ({"state": "suspect"}, "not alive"),
        ({"role": "none"}, "lacks the role `worker`"),
        ({"models": (Held(MODEL.digest, True, 90.0),)}, "could not be done there"),
    ],
)
async def test_why_a_node_is_left_out_is_said(around: Around, fields: dict[str, Any], reason: str) -> None:
    """No able node: the error names each node with its reason, and the node was not bothered."""
    around.alone(Refused("64 tasks wait here, the limit", retry_after_s=0.2))
    if fields.pop("role", None):
        around.no_workers.add(ANN)
    ann = await around.peer(ANN, **fields)
    with pytest.raises(NoCapacity, match=reason) as caught:
        await chosen(around)
    assert "ann" in str(caught.value)
    assert "me: 64 tasks wait here" in str(caught.value)
    assert 0.2 == caught.value.retry_after_s
    assert [] == ann.asked


async def test_a_node_without_an_advert_is_not_used(around: Around) -> None:
    """Nothing is known of what it can do."""
    around.no_workers.add(ME)
    await around.peer(ANN)
    around.members[ANN] = replace(around.members[ANN], advert=None, usable=False)
    with pytest.raises(NoCapacity, match="ann: it is not alive"):
        await chosen(around)


async def test_nodes_that_were_tried_are_not_asked_again(around: Around) -> None:
    """A retry goes elsewhere, and says so when there is no elsewhere."""
    ann, bob = await around.peer(ANN), await around.peer(BOB)
    assert "bob" == await chosen(around, frozenset({ME, ANN}))
    assert [] == around.own_asked + ann.asked
    with pytest.raises(NoCapacity, match="already tried"):
        await chosen(around, frozenset({ME, ANN, BOB}))
    assert 1 == len(bob.asked)


# --- quotes that go wrong ---


async def test_a_peer_that_says_nothing_is_left_out(around: Around) -> None:
    """Silence costs the quote's time limit and no more; the silent one is not believed for a moment."""
    around.no_workers.add(ME)
    ann = await around.peer(ANN)
    await around.peer(BOB)
    await around.peer(CAT)
    ann.quote = None
    chooser = around.chooser(replace(SETTINGS, suspect_s=600.0))
    assert "ann" != (await chooser.choose(wanted(), NOBODY, 30.0)).name
    await until(lambda: ann.cancelled == 1, "the question was taken back")
    for _ in range(5):
        await chooser.choose(wanted(), NOBODY, 30.0)
    assert 1 == len(ann.asked), "it is suspect, and others are there"


async def test_when_all_are_silent_each_is_named(around: Around) -> None:
    """The error says who gave no quote."""
    around.alone(Refused("busy"))
    for node in (ANN, BOB):
        (await around.peer(node)).quote = None
    with pytest.raises(NoCapacity, match="no quote within") as caught:
        await chosen(around)
    assert {"ann", "bob"} == {name for name in NAMES.values() if f"{name}: no quote" in str(caught.value)}


async def test_a_peer_that_cannot_be_dialled_is_left_out(around: Around) -> None:
    """One without a link is dialled to be asked; when that fails the others do."""
    around.no_workers.add(ME)
    await around.peer(ANN, linked=False)
    del around.far[ANN]
    await around.peer(BOB)
    assert "bob" == await chosen(around)
    assert [ANN] == around.dialled


async def test_a_peer_is_dialled_to_be_asked(around: Around) -> None:
    """A member without a link is as good as one with a link."""
    around.no_workers.add(ME)
    (await around.peer(ANN)).quote = BUSY
    await around.peer(BOB, linked=False)
    assert "bob" == await chosen(around)
    assert [BOB] == around.dialled


async def test_an_answer_that_is_no_quote_is_not_taken_for_one(around: Around) -> None:
    """A peer that answers with something else is left out."""
    around.no_workers.add(ME)
    ann = await around.peer(ANN)
    await around.peer(BOB)
    ann._quote = lambda: _value(inferred(ANN, b""))  # type: ignore[method-assign]
    assert "bob" == await chosen(around)


async def _value(reply: Any) -> Any:
    return reply


async def test_giving_up_takes_the_questions_back(around: Around) -> None:
    """A task whose client is gone while quotes are under way leaves no open question behind."""
    around.no_workers.add(ME)
    peers = [await around.peer(ANN), await around.peer(BOB)]
    for peer in peers:
        peer.quote = None
    slow: Routing = replace(SETTINGS, quote_timeout_s=600.0)
    choosing = asyncio.ensure_future(around.chooser(slow).choose(wanted(), NOBODY, 30.0))
    await until(lambda: all(peer.asked for peer in peers), "both were asked")
    choosing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await choosing
    await until(lambda: [1, 1] == [peer.cancelled for peer in peers], "both were told to forget it")


# --- plans, and learning ---


async def test_a_plan_tells_everything_and_runs_nothing(around: Around) -> None:
    """Who was asked with which terms, who was left out and why, as JSON; also when this node is plainly best."""
    await around.peer(ANN)
    (await around.peer(BOB)).quote = Refused("64 tasks wait here, the limit", retry_after_s=0.1)
    await around.peer(CAT, draining=True)
    plan = json.loads(json.dumps(await around.chooser().plan(wanted(), 30.0)))
    assert MODEL.digest == plan["model"]
    assert {"node": ME, "name": "me"} == plan["choice"]
    assert {"me", "ann"} == {row["name"] for row in plan["candidates"]}
    assert {"estimate_s", "rtt_s", "wait_s", "transfer_s", "fetch_s", "service_s"} <= plan["candidates"][0].keys()
    assert {("bob", "refused"), ("cat", "draining")} == {(row["name"], row["reason"]) for row in plan["excluded"]}
    assert [] == [message for far in around.far.values() for message in far.ran]


async def test_a_plan_without_a_node_has_no_choice(around: Around) -> None:
    """No error: the reasons are the answer."""
    plan = await around.chooser().plan(wanted(zone="eu"), 30.0)
    assert None is plan["choice"]
    assert [] == plan["candidates"]
    assert ["zone"] == [row["reason"] for row in plan["excluded"]]


async def test_a_peer_that_broke_is_avoided_while_others_are_there(around: Around) -> None:
    """PeerLost under a task makes it suspect; a result makes it good again; the task's own fault does neither."""
    around.no_workers.add(ME)
    ann = await around.peer(ANN)
    await around.peer(BOB)
    chooser = around.chooser(replace(SETTINGS, suspect_s=600.0))
    chooser.failed(wanted(), ANN, InvalidInput("the task's own fault"))
    await chooser.choose(wanted(), NOBODY, 30.0)
    assert 1 == len(ann.asked)
    chooser.failed(wanted(), ANN, PeerLost("reset"))
    assert "bob" == (await chooser.choose(wanted(), NOBODY, 30.0)).name
    assert 1 == len(ann.asked)
    message: Any = inferred(ANN, b"").message
    chooser.succeeded(wanted(), ANN, 0.01, message)
    await chooser.choose(wanted(), NOBODY, 30.0)
    assert 2 == len(ann.asked)


async def test_nobody_is_given_up_long_before_the_time_is_up(around: Around) -> None:
    """Nodes that are far behind now: a task with little time hears it at once, one with much asks again."""
    around.alone(Refused("busy"))
    for node in (ANN, BOB):
        (await around.peer(node)).quote = Quote(backlog_s=60.0, service_s=0.01, slots=1)
    with pytest.raises(DeadlineExceeded, match="would be done"):
        await around.chooser().choose(wanted(), NOBODY, 3.0)
    with pytest.raises(NoCapacity, match="would be done") as refused:
        await around.chooser().choose(wanted(), NOBODY, 20.0)
    assert 1.0 == refused.value.retry_after_s


def knowing_of(members: list[Member]) -> Knowing:
    """Of a mesh whose members are those of the list, as it is at each question; nobody is linked."""
    estimates = Estimates(SETTINGS, random.Random(1))
    return Knowing(ME, estimates, lambda: tuple(members), lambda _: None, lambda _: True, lambda _: "")


def test_what_is_believed_of_a_node_goes_with_it() -> None:
    """Nodes come and go; an agent keeps what it learnt of those that are members, and of no others."""
    members = [member(node) for node in (ME, ANN, BOB)]
    knowing = knowing_of(members)
    knowing.peers(wanted(), 0.0)
    knowing.estimates.distrust(ANN, 0.0)
    knowing.estimates.distrust(BOB, 0.0)
    members.pop()
    knowing.peers(structs.replace(wanted(), provider="another"), 1.0)  # of a kind that never saw the one that left
    assert (True, False) == (knowing.estimates.distrusted(ANN, 1.0), knowing.estimates.distrusted(BOB, 1.0))


def test_who_left_is_no_candidate_and_comes_back_as_it_was() -> None:
    """Decisions do not name it, nor those that were thrown out; what is believed of it holds when it is back."""
    members = [member(node) for node in (ME, ANN, BOB)]
    knowing = knowing_of(members)
    knowing.peers(wanted(), 0.0)
    knowing.estimates.distrust(BOB, 0.0)
    members[2] = member(BOB, state="left")
    assert [ME, ANN] == [it.id for it in knowing.peers(wanted(), 1.0)]
    members[2] = member(BOB)
    assert [ME, ANN, BOB] == [it.id for it in knowing.peers(wanted(), 2.0)]
    assert knowing.estimates.distrusted(BOB, 2.0)


def test_facts_are_kept_while_they_hold_and_dropped_with_the_tasks_they_are_for() -> None:
    """Nothing is made anew for each task, not even of nodes that nobody knows well; and no model's facts stay for ever,
    for they hold the adverts of the time when it was last asked for."""
    knowing = knowing_of([member(node) for node in (ME, ANN, BOB)])
    first = knowing.peers(wanted(), 0.0)
    assert [id(it) for it in first] == [id(it) for it in knowing.peers(wanted(), 0.4)]
    assert first[1].weight < 1.0
    for i in range(200):
        knowing.peers(structs.replace(wanted(), provider=f"provider {i}"), i / 100)
        assert len(knowing._kinds) <= KINDS_MAX
    knowing.peers(wanted(), 20.0)
    assert 1 == len(knowing._kinds)

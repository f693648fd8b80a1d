"""The life of one task: every way it can end, and that it ends once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import (
    Attempt,
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    MeshError,
    ModelRefused,
    NoCapacity,
    NoNodeInZone,
    OutcomeUnknown,
    OutOfMemory,
    PeerLost,
    PeerSilent,
    PermissionDenied,
    PoisonTask,
    ProtocolError,
    Refused,
    ResultLost,
    TransferFailed,
    UnknownTask,
    WorkerCrashed,
)
from meshnode.tasks.lifecycle import RECALL_S, RECALLS_MAX, UNROUTABLE_GRACE_S, Lifecycle
from meshnode.tasks.moves import (
    Abandon,
    Answer,
    Begin,
    Cancel,
    Chosen,
    Effect,
    Event,
    Fail,
    Failed,
    Recall,
    Replied,
    Route,
    Send,
    State,
    Unroutable,
)
from meshnode.wire.messages import NodeId

A, B, C = NodeId("a" * 52), NodeId("b" * 52), NodeId("c" * 52)


def task(deadline: float = 30.0, jitter: float = 0.5) -> Lifecycle:
    return Lifecycle(deadline=deadline, attempts_max=3, backoff_s=0.025, jitter=lambda: jitter)


def unsent(text: str) -> PeerLost:
    """A node that could not be reached at all."""
    error = PeerLost(text)
    error.sent = False
    return error


def failure(effects: list[Effect]) -> MeshError:
    """The error of the one Fail among the effects."""
    (fail,) = [effect for effect in effects if isinstance(effect, Fail)]
    return fail.error


def test_a_task_is_routed_sent_and_answered() -> None:
    """The ordinary life: route, send, answer, with one attempt on record."""
    life = task()

    assert [Route(frozenset())] == life.handle(0.0, Begin())
    assert [Send(1, 1, A, 29.0, 0)] == life.handle(1.0, Chosen(A, "a"))
    (answer,) = life.handle(3.0, Replied(1, "result"))

    assert isinstance(answer, Answer)
    assert "result" == answer.result
    assert [("a", "ok", 2.0)] == [(a.name, a.outcome, a.seconds) for a in answer.attempts]
    assert life.next_deadline() is None


def test_a_lost_peer_is_not_tried_again() -> None:
    """After a reset it is asked for the result over a new link, and when there is none, routed anew without it."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    assert [Recall(1, 1, A, RECALL_S, patient=False)] == life.handle(0.1, Failed(1, PeerLost("reset")))
    assert State.RUNNING is life.state
    assert [Route(frozenset({A}))] == life.handle(0.1, Failed(1, unsent("refused")))
    assert [Send(2, 2, B, 29.9, 0)] == life.handle(0.1, Chosen(B, "b"))
    (answer,) = life.handle(0.2, Replied(2, "r"))
    assert isinstance(answer, Answer)
    assert [("a", "peer_lost"), ("b", "ok")] == [(a.name, a.outcome) for a in answer.attempts]


def test_a_result_whose_link_broke_is_fetched() -> None:
    """The node still had it: no second run, and the history says what happened."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.1, Failed(1, PeerLost("reset")))
    (answer,) = life.handle(0.2, Replied(1, "r"))
    assert isinstance(answer, Answer)
    assert [("a", "peer_lost"), ("a", "ok")] == [(a.name, a.outcome) for a in answer.attempts]


def test_a_node_whose_links_keep_breaking_is_left() -> None:
    """Some more links are enough: then the task runs elsewhere."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    for _ in range(RECALLS_MAX):
        assert isinstance(life.handle(0.1, Failed(1, PeerLost("reset")))[0], Recall)
    assert [Route(frozenset({A}))] == life.handle(0.1, Failed(1, PeerLost("reset")))


def test_a_node_that_never_had_the_task_costs_nothing_more() -> None:
    """It says so: the task is routed anew at once, and not from the budget."""
    life = task()
    life.budget.tokens = 0.0
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.1, Failed(1, PeerLost("reset")))
    assert [Route(frozenset({A}))] == life.handle(0.1, Failed(1, UnknownTask("never came")))


def test_a_silent_node_may_still_answer() -> None:
    """The task is routed anew at once and the node is asked beside it; whichever answers first answers."""
    for first in (1, 2):
        life = task()
        life.handle(0.0, Begin())
        life.handle(0.0, Chosen(A, "a"))
        recall, route = life.handle(0.75, Failed(1, PeerSilent("sleeps")))
        assert (Recall(1, 1, A, 29.25, patient=True), Route(frozenset({A}))) == (recall, route)
        life.handle(0.8, Chosen(B, "b"))
        abandon, answer = life.handle(2.0, Replied(first, "r"))
        assert isinstance(abandon, Abandon)
        assert isinstance(answer, Answer)
        assert "ok" == answer.attempts[-1].outcome
        assert "ab"[first - 1] == answer.attempts[-1].name
        assert [] == life.handle(2.1, Replied(3 - first, "late"))
        assert 1 == life.late


# --- what must not run twice ---


def once() -> Lifecycle:
    life = replace(task(), once=True)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a", late_s=0.01))
    return life


@pytest.mark.parametrize("error", [PeerLost("reset"), PeerSilent("sleeps")])
def test_what_may_run_once_waits_for_the_node_that_has_it(error: MeshError) -> None:
    """It is asked until the time is up, and never sent on; what came of it is the answer, or nobody knows."""
    life = once()
    assert [Recall(1, 1, A, 29.0, patient=True)] == life.handle(1.0, Failed(1, error))
    assert isinstance(life.handle(2.0, Replied(1, "r"))[0], Answer)

    life = once()
    life.handle(1.0, Failed(1, error))
    failed = failure(life.handle(1.0, Failed(1, unsent("refused"))))
    assert isinstance(failed, OutcomeUnknown)
    assert [error.code] == [attempt.outcome for attempt in failed.attempts]
    assert "idempotent=False" in failed.hint


@pytest.mark.parametrize("error", [Refused("full"), TransferFailed("no holder"), ModelRefused("no such operator")])
def test_what_may_run_once_goes_on_when_it_was_not_begun(error: MeshError) -> None:
    """The node's own word, or a connection that never came up."""
    for answered in (error, unsent("refused")):
        assert isinstance(once().handle(0.0, Failed(1, answered))[0], Route)


@pytest.mark.parametrize(
    "error", [WorkerCrashed("signal 9"), ProtocolError("checksum"), OutOfMemory("arena"), ResultLost("restarted")]
)
def test_what_may_run_once_ends_with_any_other_error(error: MeshError) -> None:
    """It may have run: no second attempt, and the error has the one that was made."""
    assert [error.code] == [attempt.outcome for attempt in failure(once().handle(0.0, Failed(1, error))).attempts]


def test_only_an_unknown_task_was_surely_not_begun_when_the_node_is_asked_again() -> None:
    """It may refuse the question for reasons of its own."""
    life = once()
    life.handle(1.0, Failed(1, PeerLost("reset")))
    assert isinstance(life.handle(1.0, Failed(1, UnknownTask("never came")))[0], Route)
    life = once()
    life.handle(1.0, Failed(1, PeerLost("reset")))
    assert isinstance(failure(life.handle(1.0, Failed(1, Refused("1024 requests are open")))), Refused)


# --- second copies ---


def late(tokens: float = 10.0) -> Lifecycle:
    """A task whose first copy is late at 0.1 s."""
    life = task()
    life.budget.tokens = tokens
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a", late_s=0.1))
    assert 0.1 == life.next_deadline()
    return life


def test_a_late_task_gets_one_second_copy() -> None:
    """On another node, for a token; the first result wins and the other is told to stop."""
    life = late()
    assert [] == life.handle(0.05)
    assert [Route(frozenset({A}))] == life.handle(0.1)
    assert State.RUNNING is life.state
    assert [Send(2, 2, B, 29.9, 0)] == life.handle(0.1, Chosen(B, "b", late_s=0.1))
    assert 30.0 == life.next_deadline()
    abandon, answer = life.handle(0.2, Replied(2, "r"))
    assert isinstance(abandon, Abandon)
    assert isinstance(answer, Answer)
    assert [("a", "cancelled"), ("b", "ok")] == [(a.name, a.outcome) for a in answer.attempts]
    assert 9.1 == life.budget.tokens


def test_no_second_copy_without_a_token_or_a_node() -> None:
    """The first goes on alone; a token that was not used is given back."""
    life = late(tokens=0.9)
    assert [] == life.handle(0.1)
    assert 30.0 == life.next_deadline()
    life = late(tokens=1.0)
    life.handle(0.1)
    assert [] == life.handle(0.1, Unroutable(NoNodeInZone("only one"), final=True))
    assert State.RUNNING is life.state
    assert 1.0 == life.budget.tokens


def test_one_of_two_copies_may_fail() -> None:
    """The other goes on, also when the first fails while a node for the second is still sought."""
    life = late()
    life.handle(0.1)
    life.handle(0.1, Chosen(B, "b"))
    assert [] == life.handle(0.2, Failed(1, WorkerCrashed("signal 11")))
    assert isinstance(life.handle(0.3, Replied(2, "r"))[-1], Answer)

    life = late()
    life.handle(0.1)
    assert [] == life.handle(0.1, Failed(1, WorkerCrashed("signal 11")))
    assert State.ROUTING is life.state
    assert [Send(2, 2, B, 29.9, 1)] == life.handle(0.1, Chosen(B, "b"))


def test_a_fault_of_the_task_ends_both_copies() -> None:
    """Bad input is bad everywhere."""
    life = late()
    life.handle(0.1)
    life.handle(0.1, Chosen(B, "b"))
    effects = life.handle(0.2, Failed(2, InvalidInput("x")))
    assert isinstance(effects[0], Abandon)
    assert isinstance(failure(effects), InvalidInput)


def test_without_a_token_a_retry_comes_later() -> None:
    """An empty budget never loses a task: it waits for its back-off and runs; a broken link is not charged at all."""
    life = task()
    life.budget.tokens = 0.5
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    assert [] == life.handle(0.1, Failed(1, WorkerCrashed("signal 9")))
    assert State.WAITING is life.state
    wake = life.next_deadline()
    assert wake is not None
    assert 0.1 < wake < 0.2
    assert [Route(frozenset({A}))] == life.handle(wake)


def test_a_comparison_never_goes_to_the_same_node_and_never_waits() -> None:
    """With nodes to avoid they stay out for good, and no other node is an error at once."""
    life = replace(task(), avoid=frozenset({A}), brief=True)
    assert [Route(frozenset({A}))] == life.handle(0.0, Begin())
    assert "nobody" == str(failure(life.handle(0.0, Unroutable(NoCapacity("nobody"), final=False))))


def test_the_third_failed_attempt_is_the_last() -> None:
    """Three attempts that may have run end the task with the last error and all three on record."""
    life = task()
    life.handle(0.0, Begin())
    for attempt, node in enumerate((A, B, C), start=1):
        life.handle(0.0, Chosen(node, node[0]))
        life.handle(0.0, Failed(attempt, PeerLost(f"lost {attempt}")))
        effects = life.handle(0.0, Failed(attempt, unsent("cannot be reached")))

    assert "cannot be reached" == str(failure(effects))
    assert ["a", "b", "c"] == [a.name for a in failure(effects).attempts]


def test_refusals_are_free() -> None:
    """A refusal excludes the node for this round and costs no attempt; after three the task backs off."""
    life = task()
    life.handle(0.0, Begin())
    for attempt, node in enumerate((A, B), start=1):
        assert isinstance(life.handle(0.0, Chosen(node, node[0]))[0], Send)
        assert [Route(frozenset({A, B}) if node == B else frozenset({A}))] == life.handle(
            0.0, Failed(attempt, Refused("full"))
        )
    life.handle(0.0, Chosen(C, "c"))
    assert [] == life.handle(0.0, Failed(3, Refused("full", retry_after_s=0.2)))

    assert life.state is State.WAITING
    assert 0.2 == life.next_deadline()
    assert [] == life.handle(0.1)
    assert [Route(frozenset())] == life.handle(0.2)
    assert [Send(4, 1, A, 29.8, 0)] == life.handle(0.2, Chosen(A, "a"))


def test_a_connection_that_never_came_up_is_free() -> None:
    """A peer that was never reached did no work: the attempt is not counted."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.0, Failed(1, unsent("refused")))

    assert [Send(2, 1, B, 30.0, 0)] == life.handle(0.0, Chosen(B, "b"))


def test_the_callers_fault_is_not_retried() -> None:
    """Bad input is bad everywhere; the error reaches the client at once with its attempt."""
    for error in (InvalidInput("x"), ExecutionFailed("y")):
        life = task()
        life.handle(0.0, Begin())
        life.handle(0.0, Chosen(A, "a"))

        assert error is failure(life.handle(0.0, Failed(1, error)))
        assert 1 == len(error.attempts)


def test_a_model_that_one_node_refuses_is_tried_elsewhere() -> None:
    """Another node's provider may load what this one cannot."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    assert [Route(frozenset({A}))] == life.handle(0.0, Failed(1, ModelRefused("no such operator")))


def test_two_deaths_are_poison() -> None:
    """The count of killed workers travels with the attempt; the second death ends the task."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.0, Failed(1, WorkerCrashed("signal 11")))
    assert [Send(2, 2, B, 30.0, 1)] == life.handle(0.0, Chosen(B, "b"))

    error = failure(life.handle(0.0, Failed(2, WorkerCrashed("signal 11"))))

    assert isinstance(error, PoisonTask)
    assert ["worker_crashed", "worker_crashed"] == [a.outcome for a in error.attempts]


def test_the_deadline_ends_a_running_task() -> None:
    """At the deadline the attempt is abandoned and the error says where the task was."""
    life = task(deadline=1.0)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    effects = life.handle(1.0)

    assert isinstance(effects[0], Abandon)
    assert isinstance(failure(effects), DeadlineExceeded)
    assert "running on a" in str(failure(effects))


def test_a_result_in_hand_beats_the_deadline() -> None:
    """A reply that is handled late is still an answer."""
    life = task(deadline=1.0)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    assert isinstance(life.handle(1.5, Replied(1, "r"))[0], Answer)


def test_late_results_are_dropped_and_counted() -> None:
    """An attempt that failed for good is nobody's, and after the one answer all are."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.0, Failed(1, WorkerCrashed("signal 9")))
    assert [] == life.handle(0.0, Replied(1, "late"))
    life.handle(0.0, Chosen(B, "b"))
    life.handle(0.0, Replied(2, "r"))
    assert [] == life.handle(0.0, Replied(1, "later"))

    assert 2 == life.late


def test_no_node_in_the_zone_is_final() -> None:
    """A zone without an able node is an error at once, never a wait and never a fall-back."""
    life = task()
    life.handle(0.0, Begin())

    assert isinstance(failure(life.handle(0.0, Unroutable(NoNodeInZone("zone x"), final=True))), NoNodeInZone)


def test_tried_nodes_are_tried_again_when_there_is_nobody_else() -> None:
    """One able machine that lives is enough, even when its first attempt was lost."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.0, Failed(1, WorkerCrashed("signal 9")))
    assert [] == life.handle(0.0, Unroutable(NoCapacity("nobody"), final=False))
    wake = life.next_deadline()
    assert wake is not None

    assert [Route(frozenset())] == life.handle(wake)


def test_a_mesh_without_an_able_node_is_waited_for_a_while() -> None:
    """A task bridges the restart of the only able agent, and then fails with the reason."""
    life = task()
    now = 0.0
    effects = life.handle(now, Begin())
    while not any(isinstance(e, Fail) for e in effects):
        wake = life.next_deadline()
        if isinstance(effects and effects[0], Route):
            effects = life.handle(now, Unroutable(NoCapacity("holder is dead"), final=False))
        else:
            assert wake is not None
            now = wake
            effects = life.handle(now)

    assert "holder is dead" == str(failure(effects))
    assert UNROUTABLE_GRACE_S <= now <= UNROUTABLE_GRACE_S + 1.0


def test_busy_nodes_are_waited_for_until_the_deadline() -> None:
    """Nodes that refuse and say when to come again are there: the task waits its whole time for one."""
    life = task(deadline=20.0)
    now = 0.0
    effects = life.handle(now, Begin())
    while not any(isinstance(e, Fail) for e in effects):
        if isinstance(effects and effects[0], Route):
            effects = life.handle(now, Unroutable(NoCapacity("all are full", retry_after_s=0.5), final=False))
        else:
            wake = life.next_deadline()
            assert wake is not None
            now = wake
            effects = life.handle(now)

    assert 20.0 == now
    assert isinstance(failure(effects), NoCapacity)


def test_cancel_abandons_the_attempt() -> None:
    """A cancelled task lets go of its node and is done."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    effects = life.handle(0.1, Cancel())

    assert isinstance(effects[0], Abandon)
    assert "cancelled" == failure(effects).code


def test_a_worker_that_dies_on_a_silent_node_was_killed_too() -> None:
    """Nobody waits for that node any more, and the task is no better for it: the second death ends it."""
    life = task()
    life.budget.tokens = 10.0
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(1.0, Failed(1, PeerSilent("a")))
    life.handle(1.0, Chosen(B, "b"))
    assert [] == life.handle(2.0, Failed(1, WorkerCrashed("a: signal 11")))
    assert "poison_task" == failure(life.handle(3.0, Failed(2, WorkerCrashed("b: signal 11")))).code


# --- whatever happens ---

NODES = (A, B, C)
errors = st.sampled_from(
    [
        PeerLost("l"),
        PeerSilent("s"),
        unsent("u"),
        Refused("r", retry_after_s=0.1),
        WorkerCrashed("w"),
        UnknownTask("k"),
        ResultLost("z"),
        InvalidInput("i"),
        MeshError("m"),
    ]
)
moves = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.one_of(
            st.none(),
            st.tuples(st.sampled_from(NODES), st.one_of(st.none(), st.floats(0.01, 2))),
            st.just("nobody"),
            st.builds(Failed, st.integers(1, 5), errors),
            st.builds(Replied, st.integers(1, 5), st.just("r")),
            st.just(Cancel()),
        ),
    ),
    max_size=60,
)


@given(moves, st.booleans(), st.sampled_from([0.0, 1.0, 10.0]))
def test_whatever_happens_there_is_exactly_one_answer(
    steps: list[tuple[float, object]], is_once: bool, tokens: float
) -> None:
    """Under any order of events: one end; never more copies than allowed, never two on one node; one at most of `once`.

    A copy of what may run once is under way until its node says that it was not begun.
    """
    life = replace(task(deadline=20.0), once=is_once)
    life.budget.tokens = tokens
    now, ends, hedged = 0.0, 0, 0
    routes = 1
    begun: dict[int, NodeId] = {}  # copies that may be running somewhere
    recalled: set[int] = set()
    excluded: frozenset[NodeId] = frozenset()
    assert [Route(frozenset())] == life.handle(now, Begin())
    for pause, step in steps:
        now += pause
        event: Event | None = None
        if isinstance(step, tuple):
            if not routes or step[0] in excluded:
                continue
            event, routes = Chosen(step[0], "n", step[1]), 0
        elif step == "nobody":
            if not routes:
                continue
            event, routes = Unroutable(NoCapacity("nobody"), final=False), 0
        elif isinstance(step, (Failed, Replied)):
            if step.attempt not in begun:
                continue  # nobody answers what was not sent
            event = step
            if isinstance(step, Failed) and step.attempt not in recalled:
                unreached = isinstance(step.error, PeerLost) and not step.error.sent
                if unreached or step.error.untouched:
                    del begun[step.attempt]
            elif isinstance(step, Failed) and isinstance(step.error, UnknownTask):
                del begun[step.attempt]
        elif isinstance(step, Cancel):
            event = step
        effects = life.handle(now, event)
        ends += sum(isinstance(e, (Answer, Fail)) for e in effects)
        for effect in effects:
            if isinstance(effect, Route):
                routes, excluded = 1, effect.exclude
                hedged += life.state is State.RUNNING
            elif isinstance(effect, Send):
                assert not ends
                assert effect.number <= 3
                assert effect.deaths < 2
                assert not (is_once and begun), "a second copy of what may run once"
                begun[effect.attempt] = effect.node
            elif isinstance(effect, Recall):
                assert effect.attempt in begun or not is_once
                begun[effect.attempt] = effect.node
                recalled.add(effect.attempt)
        assert life.budget.tokens >= 0.0
    assert ends <= 1
    assert hedged <= 1
    assert not (is_once and hedged)
    if ends == 0:
        assert 1 == sum(isinstance(e, Fail) for e in life.handle(20.0))
    assert [] == life.handle(1e9)
    assert life.next_deadline() is None


def test_the_last_reason_is_told_when_the_time_is_up() -> None:
    """Not only that nobody could, but why the last one that was asked could not."""
    life = task(deadline=1.0)
    life.handle(0.0, Begin())
    life.handle(0.1, Unroutable(NoCapacity("bob is paused by hand"), final=False))
    error = failure(life.handle(1.0))
    assert isinstance(error, NoCapacity)
    assert "bob is paused by hand" in str(error)


# --- pipelines ---


def later(stage: int = 1) -> MeshError:
    error = WorkerCrashed("stage 2 of 2: it died")
    error.stage, error.attempts = stage, (Attempt(C, "c", "worker_crashed", 0.1, "", stage),)
    return error


def test_an_error_of_a_later_stage_ends_it() -> None:
    """Whoever ran this stage has tried the next as often as this node would: no death is counted, nothing is retried,
    and the attempts of both stages are told. A lost node is asked for no result, whatever the error is."""
    for error in (later(), replace_stage(PeerLost("gone"))):
        life = task()
        life.handle(0.0, Begin())
        life.handle(0.0, Chosen(A, "a"))
        (end,) = life.handle(1.0, Failed(1, error))
        assert isinstance(end, Fail)
        assert end.error is error
        assert [("a", "ok", 0)] == [(it.name, it.outcome, it.stage) for it in error.attempts if it.node == A]
        assert State.DONE is life.state


def replace_stage(error: MeshError) -> MeshError:
    error.stage = 1
    return error


def test_an_error_of_its_own_stage_is_like_any_other() -> None:
    """Of the second stage of a pipeline: it goes to another node, and its attempts carry its number."""
    life = replace(task(), stage=1)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    assert [Route(frozenset({A}))] == life.handle(1.0, Failed(1, later()))
    life.handle(1.0, Chosen(B, "b"))
    (answer,) = life.handle(2.0, Replied(2, "result"))
    assert isinstance(answer, Answer)
    assert [1, 1] == [it.stage for it in answer.attempts]


def test_what_was_not_begun_is_given_back_and_what_was_is_not() -> None:
    """On behalf of another node: with nobody to run it, or only refusals, it fails at once; after an attempt that may
    have run it waits like any task."""
    error = NoCapacity("nobody")
    life = replace(task(), returns=True)
    life.handle(0.0, Begin())
    assert [Fail(error)] == life.handle(0.0, Unroutable(error, final=False))

    life = replace(task(), returns=True)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.1, Failed(1, Refused("full")))
    assert [Fail(error)] == life.handle(0.1, Unroutable(error, final=False))

    life = replace(task(), returns=True)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.1, Failed(1, OutOfMemory("full")))
    assert [] == life.handle(0.1, Unroutable(error, final=False))
    assert State.WAITING is life.state


def test_a_policy_is_asked_once() -> None:
    """Who forbids the task is never tried again: another node is, and without one its word is the answer."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    assert [Route(frozenset({A}))] == life.handle(0.1, Failed(1, PermissionDenied("models.max_bytes")))
    life.handle(0.1, Chosen(B, "b"))
    assert [Route(frozenset({A, B}))] == life.handle(0.2, Failed(2, WorkerCrashed("signal 11")))
    assert [] == life.handle(0.2, Unroutable(NoCapacity("nobody"), final=False))
    assert [Route(frozenset({A}))] == life.handle(5.0), "b gets another chance, a is not asked again"
    assert [] == life.handle(5.1, Unroutable(NoCapacity("b is gone"), final=False)), "it may be back in a moment"
    life.handle(8.0)
    life.handle(8.0, Unroutable(NoCapacity("b is gone"), final=False))
    life.handle(10.1)
    error = failure(life.handle(10.1, Unroutable(NoCapacity("b is gone"), final=False)))
    assert isinstance(error, PermissionDenied)
    assert ["permission_denied", "worker_crashed"] == [it.outcome for it in error.attempts]


def test_a_policy_of_the_only_node_ends_the_task() -> None:
    """At once, as what it is: nobody waits for a rule to change."""
    life = replace(task(), pinned=True)
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    error = NoNodeInZone("the task is for zone 'eu'")
    assert [Route(frozenset({A}))] == life.handle(0.1, Failed(1, error))
    assert error is failure(life.handle(0.1, Unroutable(NoCapacity("no other"), final=False)))

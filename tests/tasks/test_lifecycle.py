"""The life of one task: every way it can end, and that it ends once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    MeshError,
    ModelRefused,
    NoCapacity,
    NoNodeInZone,
    PeerLost,
    PoisonTask,
    Refused,
    WorkerCrashed,
)
from meshnode.tasks.lifecycle import (
    UNROUTABLE_GRACE_S,
    Abandon,
    Answer,
    Begin,
    Cancel,
    Chosen,
    Effect,
    Event,
    Fail,
    Failed,
    Lifecycle,
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
    """After a reset the task is routed anew, with that node's name excluded."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    assert [Route(frozenset({A}))] == life.handle(0.1, Failed(1, PeerLost("reset")))
    assert [Send(2, 2, B, 29.9, 0)] == life.handle(0.1, Chosen(B, "b"))


def test_the_third_failed_attempt_is_the_last() -> None:
    """Three attempts that may have run end the task with the last error and all three on record."""
    life = task()
    life.handle(0.0, Begin())
    for attempt, node in enumerate((A, B, C), start=1):
        life.handle(0.0, Chosen(node, node[0]))
        effects = life.handle(0.0, Failed(attempt, PeerLost(f"lost {attempt}")))

    assert "lost 3" == str(failure(effects))
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
    error = PeerLost("refused")
    error.sent = False  # type: ignore[attr-defined]
    life.handle(0.0, Failed(1, error))

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
    """Only the current attempt may answer, and only once."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))
    life.handle(0.0, Failed(1, PeerLost("silent")))
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
    life.handle(0.0, Failed(1, PeerLost("reset")))
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


def test_cancel_abandons_the_attempt() -> None:
    """A cancelled task lets go of its node and is done."""
    life = task()
    life.handle(0.0, Begin())
    life.handle(0.0, Chosen(A, "a"))

    effects = life.handle(0.1, Cancel())

    assert isinstance(effects[0], Abandon)
    assert "cancelled" == failure(effects).code


errors = st.sampled_from(
    [PeerLost("l"), Refused("r", retry_after_s=0.1), WorkerCrashed("w"), InvalidInput("i"), MeshError("m")]
)
moves = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.one_of(
            st.none(),
            st.just("act"),
            st.builds(Failed, st.integers(1, 4), errors),
            st.builds(Replied, st.integers(1, 4), st.just("r")),
            st.just(Cancel()),
        ),
    ),
    max_size=60,
)


@given(moves)
def test_whatever_happens_there_is_at_most_one_answer(steps: list[tuple[float, object]]) -> None:
    """Under any order of events a task ends once, never sends more than allowed, and never after its end."""
    life = task(deadline=20.0)
    now = 0.0
    effects: list[Effect] = life.handle(now, Begin())
    routing = True
    ends = 0
    for pause, step in steps:
        now += pause
        event: Event | None
        if step == "act":
            if not routing:
                continue
            event = Chosen(A, "a")
        else:
            event = step  # type: ignore[assignment]
        effects = life.handle(now, event)
        ends += sum(isinstance(e, (Answer, Fail)) for e in effects)
        if effects or event is not None:
            routing = any(isinstance(e, Route) for e in effects) or (routing and life.state is State.ROUTING)
        for effect in effects:
            if isinstance(effect, Send):
                assert effect.number <= 3
                assert effect.deaths < 2
    assert ends <= 1
    if ends == 0:
        assert 1 == sum(isinstance(e, Fail) for e in life.handle(20.0))
    assert [] == life.handle(1e9)

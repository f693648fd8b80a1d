"""When a model is to be loaded by more nodes, and who says so."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.routing.demand import PATIENCE_S, SETTLED_S, Demand, decides
from meshnode.wire.messages import Digest, NodeId

MODEL = Digest("a" * 64)


def fed(demand: Demand, begin: float, end: float, tasks_s: float, *, warm: int = 1) -> float:
    """So many tasks a second are asked about, evenly."""
    count = int((end - begin) * tasks_s)
    for i in range(count):
        demand.asked(begin + (end - begin) * i / count, warm)
    return end


def test_a_rush_is_answered_by_what_it_needs() -> None:
    """200 tasks a second of 20 ms are four nodes' work: seven nodes, so that 60 % of each is used."""
    demand = Demand(target=0.6)
    now = fed(demand, 100.0, 101.2, 200.0)
    assert 6 == demand.missing(now, service_s=0.02, slots=1, copies=1)
    assert 0 == demand.missing(now + 0.1, service_s=0.02, slots=1, copies=1), "they are on their way"


def test_what_was_asked_for_and_does_not_come_is_asked_for_again() -> None:
    """Not sooner than it could have been loaded."""
    demand = Demand(target=0.6)
    now = fed(demand, 0.0, 1.5, 200.0)
    assert 6 == demand.missing(now, service_s=0.02, slots=1, copies=1)
    now = fed(demand, now, now + PATIENCE_S - 0.1, 200.0)
    assert 0 == demand.missing(now, service_s=0.02, slots=1, copies=1)
    now = fed(demand, now, now + 2.0, 200.0)
    assert 6 == demand.missing(now, service_s=0.02, slots=1, copies=1)


def test_a_share_is_counted_as_a_share() -> None:
    """With three that have it, each is asked about every task; together they are not asked for three times as much."""
    demand = Demand(target=0.6)
    now = fed(demand, 0.0, 10.0, 80.0, warm=3)
    demand.missing(now, service_s=0.02, slots=1, copies=3)
    now = fed(demand, now, now + SETTLED_S + 0.5, 80.0, warm=3)
    assert 0 == demand.missing(now, service_s=0.02, slots=1, copies=3)
    now = fed(demand, now, now + 4.0, 300.0, warm=3)
    assert 7 == demand.missing(now, service_s=0.02, slots=1, copies=3)


def test_questions_after_others_are_not_counted_and_unasked_tasks_are() -> None:
    """A second round asks about a task that was counted in the first."""
    demand = Demand(target=0.6)
    now = fed(demand, 0.0, 5.0, 500.0, warm=0)
    assert 0 == demand.missing(now, service_s=0.02, slots=1, copies=1)
    for i in range(600):
        demand.came(5.0 + i / 300)
    assert 0 < demand.missing(7.0, service_s=0.02, slots=1, copies=1)


@given(tasks_s=st.floats(0.0, 5000.0), service_s=st.floats(1e-6, 10.0), slots=st.integers(1, 64))
def test_growth_is_bounded_and_idle_models_stay(tasks_s: float, service_s: float, slots: int) -> None:
    """Never more than eight times as many at once; none where less than the target is used."""
    demand = Demand(target=0.6)
    now = fed(demand, 0.0, 2.0, tasks_s)
    more = demand.missing(now, service_s=service_s, slots=slots, copies=1)
    assert 0 <= more <= 7
    if tasks_s * service_s / slots < 0.55:
        assert 0 == more


def test_one_of_them_decides() -> None:
    """Whoever they are, exactly one; another when that one goes; different ones for different models."""
    nodes = [NodeId(name * 52) for name in "abcdefgh"]
    deciding = [node for node in nodes if decides(MODEL, node, nodes)]
    assert 1 == len(deciding)
    left = [node for node in nodes if node not in deciding]
    assert 1 == sum(decides(MODEL, node, left) for node in left)
    models = [Digest(f"{i:064x}") for i in range(40)]
    assert 3 < len({node for model in models for node in nodes if decides(model, node, nodes)})

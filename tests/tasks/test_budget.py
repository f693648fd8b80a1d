"""The tokens for second tries: never more than ten and a tenth of what was answered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.tasks.budget import EARNED, TOKENS_MAX, Budget


@given(st.lists(st.sampled_from(["take", "earn", "give back"]), max_size=300))
def test_second_tries_are_a_tenth_of_the_answers_and_ten(course: list[str]) -> None:
    """Whatever the order: retries and hedges can not become the load that they were to survive."""
    it, taken, answered = Budget(), 0, 0
    for what in course:
        match what:
            case "take":
                taken += it.take()
            case "earn":
                it.earn()
                answered += 1
            case _ if taken:
                it.give_back()
                taken -= 1
        assert 0 <= it.tokens <= TOKENS_MAX
        assert taken <= 10 + 0.1 * answered + 1e-6


def test_a_budget_that_is_spent_comes_back_with_answers() -> None:
    """Ten at once, then none; ten answers are worth one more, and rest earns no more than ten."""
    it = Budget()
    assert [True] * 10 + [False] == [it.take() for _ in range(11)]
    for _ in range(11):  # ten tenths are a little less than one
        it.earn()
    assert [True, False] == [it.take(), it.take()]
    for _ in range(1000):
        it.earn()
    assert (TOKENS_MAX, 0.1) == (it.tokens, EARNED)

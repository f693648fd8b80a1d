"""Tasks that look for a place take turns: a core, told the time, and the shell around it."""

from __future__ import annotations

import asyncio

import pytest

from meshnode.errors import DeadlineExceeded, NoCapacity
from meshnode.tasks.asking import Asking
from meshnode.tasks.line import ASKING_MAX, SURE_S, Line
from tests.waiting import until

NEVER = 100.0


def crowd(n: int) -> Line[int]:
    """A line that `n` tasks come to at once; those that may ask at once do."""
    line = Line[int]()
    for number in range(n):
        if not line.enter(0.0):
            line.join(NEVER - number, number)
    return line


def test_only_so_many_ask_at_a_time() -> None:
    """A thousand tasks at once: the rest waits, and one more asks when one is done."""
    line = crowd(1000)
    assert ASKING_MAX == line.asking
    assert [] == line.next(0.0)
    line.placed()
    assert [999] == line.next(0.0)
    line.ended()
    assert [998] == line.next(0.0)


def test_after_a_refusal_one_asks_when_the_time_is_over_and_each_success_admits_one_more() -> None:
    """Full nodes are left alone for as long as they said; then it goes as far as places are found."""
    line = crowd(100)
    for _ in range(ASKING_MAX):
        line.refused(0.0, 0.5)
    assert [] == line.next(0.4)
    assert not line.enter(0.4)
    assert 0.5 == line.next_deadline()
    for admitted in (1, 2, 4, 8):
        called = line.next(0.5)
        assert admitted == len(called)
        assert line.next_deadline() is None
        for _ in called:
            line.placed()


def test_who_has_the_least_time_left_goes_first_and_who_left_is_passed_over() -> None:
    """Deadlines decide, not who came first; a task that was cancelled costs nobody a turn."""
    line = crowd(ASKING_MAX)
    places = {
        name: line.join(deadline, number)
        for number, (name, deadline) in enumerate([("late", 9.0), ("soon", 1.0), ("mid", 5.0)])
    }
    line.leave(places["soon"])
    line.placed()
    assert [2] == line.next(0.0)
    assert not line.enter(0.0)
    line.leave(places["late"])
    for _ in range(ASKING_MAX):
        line.ended()
    assert line.idle(0.0)


async def test_those_in_line_are_called_when_it_opens() -> None:
    """Refused until the nodes have room: everybody is placed in the end, and few questions were asked."""
    asking = Asking()
    full, asked = True, 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        if full:
            raise NoCapacity("full", retry_after_s=0.01)
        return asked

    async def insist() -> int:
        while True:
            try:
                return await asking.in_turn("kind", NEVER, ask)
            except NoCapacity:
                continue

    tasks = [asyncio.ensure_future(insist()) for _ in range(500)]
    await until(lambda: asked > ASKING_MAX + 3, why="the line opened a few times")
    assert asked < 2 * ASKING_MAX
    full = False
    assert 500 == len(await asyncio.gather(*tasks))
    assert asked < 500 + 3 * ASKING_MAX
    assert not asking._lines, "nothing is kept of a line that nobody stands in"


async def test_a_task_that_gives_up_in_line_leaves_no_trace() -> None:
    """Cancelled while it waits, and cancelled at the moment of its turn: the others go on."""
    asking = Asking()
    go = asyncio.Event()

    async def ask() -> str:
        await go.wait()
        return "placed"

    tasks = [asyncio.ensure_future(asking.in_turn("kind", NEVER, ask)) for _ in range(ASKING_MAX + 10)]
    await asyncio.sleep(0)
    for task in tasks[-5:]:
        task.cancel()
    go.set()
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert ASKING_MAX + 10 - 6 == results.count("placed")
    assert not asking._lines


async def test_an_error_of_asking_is_the_tasks() -> None:
    """It is raised, and the next one asks."""
    asking = Asking()

    async def ask() -> None:
        raise ValueError("mine")

    for _ in range(2 * ASKING_MAX):
        with pytest.raises(ValueError, match="mine"):
            await asking.in_turn("kind", NEVER, ask)
    assert not asking._lines


async def test_what_was_just_found_hopeless_is_not_asked_again() -> None:
    """Who has no more time left hears the same at once; who has more asks, and so does everybody a moment later."""
    now, asked = [0.0], []
    asking = Asking(lambda: now[0])

    async def ask() -> None:
        asked.append(now[0])
        error = DeadlineExceeded("nobody would be done in time", hint="add a node")
        asking.hopeless("kind", 2.0, error)
        raise error

    async def found() -> str:
        asked.append(now[0])
        return "a place"

    with pytest.raises(DeadlineExceeded):
        await asking.in_turn("kind", 1.0, ask)
    now[0] = SURE_S / 2
    with pytest.raises(DeadlineExceeded, match="nobody would be done") as caught:
        await asking.in_turn("kind", 1.9, ask)
    assert "add a node" == caught.value.hint
    assert [0.0] == asked
    assert "a place" == await asking.in_turn("kind", 2.1, found)
    assert "a place" == await asking.in_turn("another kind", 1.0, found)
    now[0] = SURE_S
    assert "a place" == await asking.in_turn("kind", 1.0, found)
    with pytest.raises(DeadlineExceeded):
        await asking.in_turn("kind", 1.0, ask)
    now[0] = 2 * SURE_S
    await until(lambda: not asking._lines, why="nothing is remembered for longer")

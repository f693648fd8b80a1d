"""The owner's commands: what is said to people, and what is refused before anybody is asked."""

from __future__ import annotations

import pytest

from meshnode.cli import owner
from tests.cli.conftest import Command


def test_what_people_read() -> None:
    """Until when, how to end it, and what still stands in the way afterwards."""
    end = owner._paused({"paused": "x", "until": 1_800_000_000.0, "manners": "polite"})
    assert " until 2027-01-1" in end
    assert "meshnode resume" in end
    assert "until 2" not in owner._paused({"paused": "x", "until": None, "manners": "polite"})
    assert "owner is here" in owner._resumed({"paused": "owner is here", "until": None, "manners": "polite"})
    assert "again" in owner._resumed({"paused": None, "until": None, "manners": "polite"})


@pytest.mark.parametrize("duration", ["soon", "1y", "-1", "1h30"])
def test_what_is_no_duration_is_usage(meshnode: Command, duration: str) -> None:
    """Exit code 2, before the agent is asked."""
    assert 2 == meshnode("pause", duration)[0]


@pytest.mark.parametrize("words", [("pause", "1h"), ("pause",), ("resume",)])
def test_without_an_agent_nothing_is_paused(meshnode: Command, words: tuple[str, ...]) -> None:
    """Exit code 3, as of all that needs the agent."""
    assert 3 == meshnode(*words)[0]


def test_bad_manners_start_nothing(meshnode: Command) -> None:
    """The error names what there is."""
    code, _, err = meshnode("up", "--manners", "rude")
    assert 2 == code
    assert "polite, free, off" in err

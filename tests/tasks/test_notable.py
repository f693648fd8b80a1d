"""Tasks that did not go the straight way."""

from __future__ import annotations

from meshnode.errors import Attempt
from meshnode.tasks.lately import Lately
from meshnode.tasks.notable import KEPT, STEPS_MAX, Notable
from meshnode.tasks.outcomes import Ended, Served
from meshnode.wire.messages import Digest, NodeId, TaskId
from tests.tasks.around import ANN, BOB

MODEL = Digest("d" * 64)


def ended(*steps: tuple[NodeId, str], outcome: str = "ok", task: str = "1", model: Digest = MODEL) -> Ended:
    tried = tuple(Attempt(node, node[:3], how, 0.1, f"{how} there") for node, how in steps)
    node = tried[-1].node if tried and outcome == "ok" else None
    detail = "" if outcome == "ok" else "the reason"
    return Ended(TaskId(task), model, None, NodeId(node) if node else None, outcome, len(tried), 0.5, 10, tried, detail)


def served(outcome: str, submitter: NodeId = BOB) -> Served:
    return Served(TaskId("9"), MODEL, submitter, None, outcome, 0.1, 0.0, 10, 0, "too busy")


def test_one_story_is_kept_once() -> None:
    """A thousand tasks that leave a dead node tell the same; who took them over does not matter."""
    notable = Notable()
    for number in range(1000):
        notable.ended(float(number), ended((ANN, "peer_lost"), (BOB if number % 2 else ANN, "ok"), task=str(number)))
    notable.ended(2000.0, ended((BOB, "peer_lost"), (ANN, "ok")))
    newest, first = notable.stories()
    assert (1, 2000.0) == (newest.count, newest.last)
    assert ("moved", 1000, 0.0, 999.0, "999") == (first.kind, first.count, first.first, first.last, first.task)
    assert ["peer_lost", "ok"] == [step.outcome for step in first.steps]
    assert "peer_lost there" == first.reason


def test_failures_and_refusals_have_their_reason() -> None:
    """What failed for good tells how, wherever it was; what was refused here tells for whom."""
    notable = Notable()
    notable.ended(1.0, ended((ANN, "invalid_input"), outcome="invalid_input"))
    notable.ended(2.0, ended((BOB, "invalid_input"), outcome="invalid_input"))
    notable.ended(3.0, ended(outcome="no_capacity"))
    notable.served(4.0, served("refused"))
    refused, none, failed = notable.stories()
    assert ("refused", BOB, "too busy") == (refused.kind, refused.by, refused.reason)
    assert ("failed", "no_capacity", "the reason", ()) == (none.kind, none.outcome, none.reason, none.steps)
    assert ("failed", 2, BOB) == (failed.kind, failed.count, failed.steps[0].node)


def test_what_went_well_or_was_given_up_is_no_story() -> None:
    """Nor is a second copy that was not needed."""
    notable = Notable()
    notable.ended(1.0, ended((ANN, "ok")))
    notable.ended(1.0, ended((BOB, "cancelled"), (ANN, "ok")))
    notable.ended(1.0, ended(outcome="cancelled"))
    notable.served(1.0, served("ok"))
    notable.served(1.0, served("cancelled"))
    assert [] == notable.stories()


def test_it_is_bounded() -> None:
    """In stories, and in the steps of one."""
    notable = Notable()
    for number in range(3 * KEPT):
        model = Digest(f"{number:064d}")
        notable.ended(float(number), ended(*[(ANN, "refused")] * 20, (BOB, "ok"), model=model))
    stories = notable.stories()
    assert (KEPT, STEPS_MAX, "ok") == (len(stories), len(stories[0].steps), stories[0].steps[-1].outcome)
    assert f"{3 * KEPT - 1:064d}" == stories[0].model


def test_outcomes_reach_both_and_go_on() -> None:
    """What is counted is still told to whoever keeps the record; this node's own tasks are not counted as another's."""
    heard: list[Ended | Served] = []
    lately = Lately(ANN, lambda: 5.5, heard.append, heard.append)
    told: list[Ended | Served] = [
        ended((BOB, "ok")),
        ended((ANN, "peer_lost"), (BOB, "ok")),
        ended(outcome="no_capacity"),
        ended(outcome="cancelled"),
    ]
    for it in told:
        assert isinstance(it, Ended)
        lately.ended(it)
    for one in (served("ok"), served("ok", ANN), served("refused"), served("refused", ANN)):
        lately.served(one)
        told.append(one)
    assert told == heard
    [(_, second)] = lately.flow.seconds(6.0)
    assert ({BOB: 2}, {BOB: 1}, 1) == (second.went, second.came, second.failed)
    assert ["refused", "failed", "moved"] == [story.kind for story in lately.notable.stories()]

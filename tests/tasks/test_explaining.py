"""Why a task went where it went: crafted situations, each told as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from meshnode.errors import InvalidInput, MeshError, PeerLost, Refused
from meshnode.membership.advert import Held, PowerState
from meshnode.tasks.explaining import TASKS_MAX
from meshnode.wire.messages import NodeId, Quote
from tests.tasks.around import ANN, BOB, ME, MODEL, SETTINGS, Around, inferred
from tests.tasks.test_choosing import BUSY, NOBODY, wanted

TASK = "1" * 32


async def told(around: Around, **fields: Any) -> dict[str, Any]:
    """The first decision of one task, as plain data."""
    chooser = around.chooser(replace(SETTINGS, suspect_s=600.0))
    await chooser.choose(wanted(**fields), NOBODY, 30.0)
    document: dict[str, Any] = json.loads(json.dumps(chooser.explaining.why(TASK)))
    decision: dict[str, Any] = document["decisions"][0]
    return decision


def reasons(decision: dict[str, Any]) -> dict[str, str]:
    """Name to reason of who was left out."""
    return {row["name"]: row["reason"] for row in decision["excluded"]}


Facts = dict[str, Any]


@pytest.mark.parametrize(
    ("fields", "asked_for", "reason"),
    [
        ({"state": "dead"}, {}, "not_alive"),
        ({"state": "suspect"}, {}, "not_alive"),
        ({"draining": True}, {}, "draining"),
        ({"paused": "the owner is here"}, {}, "paused"),
        ({"providers": ()}, {}, "model"),
        ({"power": PowerState("battery", 20.0)}, {}, "battery"),
        ({"zone": "us"}, {"zone": "eu"}, "zone"),
        ({"providers": ("CUDAExecutionProvider",)}, {"provider": "CPUExecutionProvider"}, "provider"),
        ({"models": (Held(MODEL.digest, True, 90.0),)}, {}, "deadline"),
        ({}, {"node": "bob"}, "node"),
    ],
)
async def test_each_true_reason_is_told(around: Around, fields: Facts, asked_for: Facts, reason: str) -> None:
    """Bob takes it; Ann was left out, and why is said in a word and in a sentence."""
    around.own = BUSY
    await around.peer(ANN, **fields)
    await around.peer(BOB, zone="eu")
    decision = await told(around, **asked_for)
    assert "bob" == decision["choice"]["name"]
    assert reason == reasons(decision)["ann"]
    assert all(row["detail"] for row in decision["excluded"])


def refuses(around: Around) -> None:
    around.far[ANN].quote = Refused("64 tasks wait here, the limit", retry_after_s=0.2)


def is_silent(around: Around) -> None:
    around.far[ANN].quote = None


def is_no_worker(around: Around) -> None:
    around.no_workers.add(ANN)


@pytest.mark.parametrize(("made", "reason"), [(refuses, "refused"), (is_silent, "peer_lost"), (is_no_worker, "role")])
async def test_who_gave_no_quote_is_told_with_what_it_said(
    around: Around, made: Callable[[Around], None], reason: str
) -> None:
    """Asked in vain, or not asked at all: it stands among those left out."""
    around.own = BUSY
    await around.peer(ANN)
    await around.peer(BOB)
    made(around)
    decision = await told(around)
    assert ("bob", reason) == (decision["choice"]["name"], reasons(decision)["ann"])


@pytest.mark.parametrize(
    ("own", "peers", "kind"),
    [(Quote(backlog_s=0.0, service_s=0.001, slots=1), 2, "local"), (BUSY, 2, "ask"), (Refused("full"), 1, "go")],
)
async def test_how_it_was_decided_is_told(around: Around, own: Quote | MeshError, peers: int, kind: str) -> None:
    """Here without a question, after questions, or unasked to the only one."""
    around.own = own
    for node in (ANN, BOB)[:peers]:
        await around.peer(node)
    decision = await told(around)
    assert kind == decision["kind"]
    best = decision["candidates"][0]
    assert decision["choice"]["node"] == best["node"]
    assert {"estimate_s", "score_s", "weight", "wait_s", "service_s", "transfer_s", "fetch_s", "rtt_s"} <= set(best)


async def test_what_came_of_each_attempt_is_told(around: Around) -> None:
    """Lost on Ann, brought by Bob: two decisions, the second without Ann."""
    around.own = BUSY
    await around.peer(ANN)
    await around.peer(BOB)
    around.far[BOB].quote = Quote(backlog_s=1.0, service_s=0.01, slots=1)
    chooser = around.chooser(replace(SETTINGS, suspect_s=600.0))
    task = wanted()
    assert ANN == (await chooser.choose(task, NOBODY, 30.0)).node
    chooser.failed(task, ANN, PeerLost("reset"))
    assert BOB == (await chooser.choose(task, frozenset({ANN}), 30.0)).node
    chooser.succeeded(task, BOB, 1.5, inferred(BOB, b"").message)  # type: ignore[arg-type]
    first, second = chooser.explaining.why("")["decisions"]
    assert ("peer_lost", None) == (first["outcome"], first["actual_s"])
    assert ("ok", 1.5) == (second["outcome"], second["actual_s"])
    assert "tried" == reasons(second)["ann"]


async def test_a_task_is_found_by_the_beginning_of_its_id(around: Around) -> None:
    """One is found, several or none are an error that says what to do; old ones are forgotten."""
    chooser = around.chooser()
    with pytest.raises(InvalidInput, match="no task was submitted"):
        chooser.explaining.why("")
    for number in range(TASKS_MAX + 1):
        await chooser.choose(wanted(task=f"{number:08x}" + "0" * 24), NOBODY, 30.0)
    assert "000001ff" + "0" * 24 == chooser.explaining.why("000001ff")["task"]
    for unknown, text in (("0000", "tasks whose id"), ("00000000", "no task whose id"), ("0", "too short")):
        with pytest.raises(InvalidInput, match=text):
            chooser.explaining.why(unknown)
    assert NodeId(ME) == chooser.explaining.why("")["decisions"][0]["choice"]["node"]

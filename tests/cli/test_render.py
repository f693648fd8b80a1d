"""What people see: 80 columns, no colour needed, nothing lost, nothing that moves the cursor."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from meshnode.cli import context, render
from tests.client.door import MODEL


def node(name: str, state: str = "alive", **more: Any) -> dict[str, Any]:
    return {
        "id": name[0] * 52,
        "name": name,
        "self": False,
        "state": state,
        "zone": "berlin",
        "cpu": {"model": "x", "cores": 128, "load": 0.995},
        "gpus": [{"name": "NVIDIA H200"}],
        "providers": ["CUDAExecutionProvider"],
        "in_flight": 12,
        "tasks_done": 123456,
        "rtt_ms": 123.4,
        "path": "direct",
        "models": [{"name": "a-model-with-a-long-name", "loaded": True}, {"name": "digits", "loaded": False}],
        "reason": None,
        **more,
    }


def document(*nodes: dict[str, Any]) -> dict[str, Any]:
    counts = {state: sum(n["state"] == state for n in nodes) for state in ("alive", "suspect", "dead", "left")}
    return {"mesh": {"id": "f" * 64, "name": "m", "nodes": counts}, "revoked": None, "nodes": list(nodes)}


def test_a_machine_that_is_out_reads_it_first() -> None:
    """Before the table, with what to do."""
    text = shown(render.status(document(node("a")) | {"revoked": "this node was revoked: lost"}))
    assert "this node was revoked: lost; `meshnode up TOKEN` joins anew" == text.splitlines()[1]


def test_a_machine_that_is_cut_off_or_copied_reads_it_first() -> None:
    """Before the table, with what to do; a machine that is well reads neither."""
    text = shown(render.status(document(node("a")) | {"isolated": True, "copied": "its home was copied"}))
    assert ["this node: its home was copied", render.ISOLATED] == text.splitlines()[1:3]
    assert "meshnode doctor" in render.ISOLATED
    assert text.splitlines()[3:] == shown(render.status(document(node("a")))).splitlines()[1:]


def test_how_models_are_confined_is_one_line() -> None:
    """The grade when it is the same everywhere, who has a worse one, and nothing while nobody has said."""
    best, worse, silent = node("a", sandbox="A"), node("b", sandbox="B"), node("c", sandbox=None)
    away = node("d", "dead", sandbox="C")

    def line(*nodes: dict[str, Any]) -> list[str]:
        return [it for it in shown(render.status(document(*nodes))).splitlines() if it.startswith("sandbox")]

    assert ["sandbox of models: grade A"] == line(best, silent, away)
    assert ["sandbox of models: grade A; B on b (`meshnode doctor` there says why)"] == line(best, worse)
    assert ["sandbox of models: grade B (`meshnode doctor` there says why)"] == line(worse)
    assert [] == line(silent)


def shown(text: Any) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=80, markup=False, emoji=False, highlight=False).print(text, soft_wrap=True)
    return buffer.getvalue()


@pytest.mark.parametrize("names", [["a", "b"], ["a-very-long-name-of-a-laptop", "b", "c"]])
def test_status_fits_80_columns(names: list[str]) -> None:
    """No line is longer than 80, the id and every model are there, and no colour is needed."""
    text = shown(render.status(document(*(node(name) for name in names))))

    assert [] == [line for line in text.splitlines() if len(line) > 80]
    assert "\x1b" not in text
    for name in names:
        assert f"({name[0] * 8})" in text
    assert "digits" in text
    assert "a-model-with-a-long-name*" in text
    assert "128 cpu +gpu" in text


def test_a_node_that_is_paused_says_why() -> None:
    """`paused` stands where people look for the state, the reason before the models; the rest is as ever."""
    text = shown(render.status(document(node("a", paused="owner is here"), node("b", "dead", paused="owner is here"))))

    assert [] == [line for line in text.splitlines() if len(line) > 80]
    assert "paused" in text
    assert " ".join(text.split()).count("(owner is") == 1
    assert "dead" in text
    assert "12/" in text


def test_a_node_in_quarantine_says_why() -> None:
    """In `status` where people look for the state, in `members` where its roles would be; beside long names too."""
    why = "its token is for 20 machines, and as many had joined before"
    text = shown(render.status(document(node("a", quarantine=why), node("b-with-a-long-name"))))
    assert [] == [line for line in text.splitlines() if len(line) > 80]
    assert 1 == text.count("in quarantine")
    assert "as many" in text
    row = {"id": "a" * 52, "name": "a", "roles": [], "zones": ["eu"], "granted_by": "g" * 52, "granted_by_name": "ann"}
    row |= {"granted_at": 0, "expires_at": 86400, "state": "alive", "revoked": False, "reason": None, "quarantine": why}
    text = shown(render.members([row]))
    assert [] == [line for line in text.splitlines() if len(line) > 80]
    assert "in quarantine  ann" in text
    assert "revoked" in shown(render.members([{**row, "revoked": True}]))


def test_invites_are_told_with_their_use() -> None:
    """One row a token, within 80 columns, with what it needs to be ended."""
    row = {"id": "0123456789abcdef", "kind": "batch", "state": "used up", "uses": 20, "used": 21, "quarantined": 1}
    row |= {"roles": ["submitter", "worker"], "zones": ["eu/berlin/store-12"], "hardware": 3, "expires_at": 86400}
    text = shown(render.invites([row]))

    assert [] == [line for line in text.splitlines() if len(line) > 80]
    for part in ("01234567", "used up", "21/20", "1970-01-02", "zone eu/berlin/store-12", "3 machines by their ids"):
        assert part in " ".join(text.split())
    assert "1 in quarantine" in text
    assert "invite --uses N" in shown(render.invites([]))


def test_a_node_that_is_away_says_why() -> None:
    """The reason stands where the models would."""
    text = shown(render.status(document(node("a", self=True), node("b", "dead", reason="it reset the link"))))

    assert "m (ffffffff): 1 alive, 1 dead" in text
    assert "it reset the link" in text
    assert 1 == text.count("digits")
    assert "a (aaaaaaaa)<" in text


def test_a_relayed_node_says_through_whom() -> None:
    """The way to a node is shown when it is not the direct one."""
    text = shown(render.status(document(node("a", path="self"), node("b", path="relay via lab"), node("c"))))

    assert 1 == text.count("relay via lab; ")
    assert [] == [line for line in text.splitlines() if len(line) > 80]


def test_what_is_not_known_is_a_dash() -> None:
    """A node whose advert has not come yet is shown all the same."""
    row = node("a", zone=None, cpu=None, gpus=[], providers=[], in_flight=None, tasks_done=None, rtt_ms=None, models=[])
    assert "a (aaaaaaaa)  alive  -     -            -     -   -  -" in shown(render.status(document(row)))


def test_brackets_are_only_brackets() -> None:
    """Shapes and names with brackets are shown as they are."""
    assert "x float[n] -> y float[n]" in shown(render.model_list([MODEL]))
    assert "input      x float[n]" in shown(render.model_show(MODEL))


def test_a_digest_is_never_cut() -> None:
    """What people copy stands whole on its line."""
    assert f"digest     {MODEL['digest']}" in shown(render.model_show(MODEL))


def test_names_cannot_move_the_cursor() -> None:
    """Control characters in what peers say become blanks, wherever they stand."""
    assert {"a b": ["x [2J", {"n": 1}]} == context.printable({"a\nb": ["x\x1b[2J", {"n": 1}]})


def test_empty_lists_say_what_to_do() -> None:
    """No models, nothing loaded."""
    assert "meshnode model add" in shown(render.model_list([]))
    assert "No model" in shown(render.processes([]))


def test_the_other_tables() -> None:
    """ps, members, plan, doctor and ping fit, with their reasons."""
    ps = {"name": "m", "version": 1, "memory_bytes": 2e6, "in_flight": 1, "last_used_s": 200.0, "service_ms": 0.5}
    assert "m:1    2.0 MB" in shown(render.processes([{**ps, "provider": "CPUExecutionProvider"}]))
    member = {
        "id": "a" * 52,
        "name": "a",
        "roles": ["worker"],
        "zones": [],
        "granted_by": "g" * 52,
        "granted_by_name": None,
    }
    rows = [{**member, "granted_at": 0, "expires_at": 86400, "state": None, "revoked": True, "reason": "lost"}]
    assert "revoked  key gggggggg  1970-01-02  -      worker; revoked: lost" in shown(render.members(rows))
    assert "revoked  ann         1970" in shown(render.members([{**rows[0], "granted_by_name": "ann"}]))
    terms = dict.fromkeys(("estimate_s", "wait_s", "service_s", "transfer_s", "fetch_s", "rtt_s"), 0.001)
    plan = {
        "candidates": [{"node": "a" * 52, "name": "a", **terms}],
        "excluded": [{"node": "b" * 52, "name": "b", "reason": "zone", "detail": "not in zone x"}],
    }
    assert "<- chosen" in shown(render.plan(plan))
    assert "not b (bbbbbbbb): not in zone x" in shown(render.plan(plan))
    checks = [{"check": "disk", "ok": False, "detail": "full", "fix": "make room " * 20}]
    text = shown(render.doctor(checks))
    assert "FAIL  disk: full\n      -> make room" in text
    assert [] == [line for line in text.splitlines() if len(line) > 80]
    assert "median 1.00 ms of 1" in render.pings([{"seq": 1, "rtt_ms": 1.0, "path": "direct", "address": None}])


def test_a_flagged_model_says_so_and_who_says_it() -> None:
    """In the list beside its name, in its own page with the reasons; a report that keeps nobody is told apart."""
    reported = {"flagged": True, "text": "it ended the process that loaded it (says bob (bbbbbbbb) and an admin)"}
    listed = shown(render.model_list([MODEL | {"reported": reported}, MODEL | {"reported": {"flagged": False}}]))
    assert "(flagged)" in listed
    assert "(reported)" in listed
    page = shown(render.model_show(MODEL | {"reported": reported, "refused": "the model has two graphs"}))
    assert "runs on no node" in page
    assert "says bob" in page
    assert "the model has two graphs" in page


def test_a_verdict_is_one_line() -> None:
    """What the scanner counted, with functions when there are any."""
    scan = {"nodes": 7, "functions": 2, "expanded": 90, "opsets": {"": 17}, "memory_bytes": 2048, "scanner": 1}
    page = shown(render.model_show(MODEL | {"scan": scan}))
    assert (
        f"7 nodes in 2 functions and the graph, 90 put in; ai.onnx 17; at least {render.size(2048)} of memory; rules 1"
        in page
    )

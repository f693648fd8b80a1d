"""One token for many machines, with real processes: who is up lets them in, and one too many waits for an admin."""

from __future__ import annotations

from tests.mesh.rig import MODELS, Rig, wait_for

ECHO = MODELS / "echo" / "model.onnx"


def test_a_token_for_two_lets_two_in_and_keeps_the_third_waiting(mesh_rig: Rig) -> None:
    """The second and third join while the founder is away; back again, it sees who waits and accepts it."""
    founder = mesh_rig.start("founder")
    made = founder.json("invite", "--uses", "2", "--zone", "eu/berlin", "--role", "worker,submitter")
    one = mesh_rig.start("one", made["token"])
    assert None is one.ready["quarantine"]
    wait_for(lambda: len(founder.states()) == 2, within_s=30, why="the founder sees one")
    assert 0 == founder.terminate()
    two = mesh_rig.start("two", made["token"], "--seed", one.address)
    three = mesh_rig.start("three", made["token"], "--seed", two.address)
    why = "its token is for 2 machines, and as many had joined before"
    assert (None, why) == (two.ready["quarantine"], three.ready["quarantine"])

    founder = mesh_rig.start("founder")
    agents = (founder, one, two, three)
    for agent in agents:
        wait_for(
            lambda agent=agent: list(agent.states().values()).count("alive") == 4,  # type: ignore[misc]
            within_s=30,
            why="all see all",
        )
        doubts = {row["name"]: row["quarantine"] for row in agent.json("members")}
        assert {"founder": None, "one": None, "two": None, "three": why} == doubts
    assert "in quarantine" in founder.command("status").stdout
    assert f"meshnode accept {three.id[:8]}" in " ".join(founder.command("doctor", check=1).stdout.split())
    assert "quarantined" in founder.command("events").stdout

    founder.command("model", "add", str(ECHO), "--name", "echo")
    wait_for(lambda: three.status()["models"], within_s=30, why="three knows the model")
    x = mesh_rig.folder / "x.json"
    x.write_text("[[1.0]]")
    refused = three.command("run", "echo", str(x), check=4)
    assert "in quarantine" in refused.stderr
    founder.command("accept", "three")
    wait_for(lambda: not _waits(three.json("members")), within_s=30, why="three has heard it")
    assert three.id in founder.command("--json", "run", "echo", str(x), "--node", "three").stdout

    (row,) = founder.json("invite", "--list")
    assert (made["id"], "used up", 3, 0) == (row["id"], row["state"], row["used"], row["quarantined"])
    assert "the 3 who did stay" in founder.command("revoke", made["id"][:8]).stdout


def _waits(rows: list[dict[str, object]]) -> bool:
    return any(row["quarantine"] for row in rows)

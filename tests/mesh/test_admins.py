"""Admins and their keys by the command line, with real processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.mesh.rig import COMMAND, MODELS, Agent, Rig, wait_for

ECHO = MODELS / "echo" / "model.onnx"


def all_hold(agents: list[Agent], count: int) -> None:
    """Every agent knows so many admins."""
    for agent in agents:
        wait_for(
            lambda agent=agent: len(agent.json("admin", "list")["admins"]) == count or None,  # type: ignore[misc]
            within_s=30,
            why=f"{agent.home.name} knows {count} admins",
        )


def words(folder: Path) -> Path:
    """A file with a passphrase."""
    file = folder / "words"
    file.write_text("five random words are good\n")
    return file


def test_a_second_admin_carries_on_after_the_founder_is_gone_for_good(mesh_rig: Rig) -> None:
    """Killed and never back: the second revokes it, removes its key by that, and lets a third machine in."""
    founder, second = mesh_rig.mesh(2)
    assert "is an admin now; 2 admins" in founder.command("admin", "add", second.home.name).stdout
    all_hold([founder, second], 2)
    founder.kill()
    said = " ".join(second.command("revoke", founder.id[:12], "--reason", "it burned").stdout.split())
    assert said == f"revoked {founder.id[:8]} and its admin key"
    listed = second.command("admin", "list").stdout
    assert 2 == len(listed.splitlines())
    assert f"{second.home.name}, here" in listed
    third = mesh_rig.start("third", second.json("invite")["token"])
    wait_for(lambda: list(third.states().values()).count("alive") == 2, within_s=30, why="the third is in")
    refused = third.command("admin", "add", second.home.name, check=4)
    assert f"do it on {second.home.name}" in refused.stderr


def test_a_mesh_whose_admins_decide_by_two_of_three(mesh_rig: Rig) -> None:
    """Founded so, before the first start; a key is carried to another machine, and a sealed one is opened."""
    keys, secret = mesh_rig.folder / "keys", words(mesh_rig.folder)
    home = ("--home", str(mesh_rig.folder / "founder"))
    make = (*COMMAND, *home, "admin", "found", str(keys), "--name", "founder", "--mesh", "three keys")
    made = [subprocess.run([*make, "--passphrase-file", str(secret)], capture_output=True, text=True) for _ in "12"]
    assert [0, 1] == [it.returncode for it in made]
    assert "2 of 3 admins decide" in made[0].stdout
    assert "in a mesh already" in made[1].stderr
    assert ["admin-2.key", "admin-3.key"] == sorted(it.name for it in keys.iterdir())
    assert {0o600} == {it.stat().st_mode & 0o777 for it in keys.iterdir()}

    founder = mesh_rig.start("founder")
    assert "three keys" == founder.ready["mesh_name"]
    second = mesh_rig.start("second", founder.json("invite")["token"])
    wrong = mesh_rig.folder / "wrong"
    wrong.write_text("quite another one")
    key = str(keys / "admin-2.key")
    assert "does not open" in second.command("admin", "import", key, "--passphrase-file", str(wrong), check=1).stderr
    typed = second.command("admin", "import", key, check=1).stderr
    assert "--passphrase-file FILE" in typed
    second.command("admin", "import", key, "--passphrase-file", str(secret))

    vote = " ".join(founder.command("admin", "remove", _third(founder)).stdout.split())
    assert "1 of 2 votes against it" in vote
    wait_for(lambda: second.json("admin", "list")["proposed"], within_s=30, why="the second sees the proposal")
    proposed = second.command("admin", "list").stdout
    assert "proposed: remove" in proposed
    assert "by founder; agree by `meshnode admin remove" in " ".join(proposed.split())
    assert "is no admin any more; 2 admins" in second.command("admin", "remove", _third(second)).stdout
    all_hold([founder, second], 2)
    refused = founder.command("admin", "remove", "second", check=1).stderr
    assert "as many must agree here" in refused

    second.command("admin", "lock")  # it is sealed as it came; now the agent forgets it as well
    sealed = second.command("invite", check=4).stderr
    assert "meshnode admin unlock" in sealed
    second.command("admin", "unlock", "--passphrase-file", str(secret))
    assert second.json("invite")["token"].startswith("mesh1-")


def _third(agent: Agent) -> str:
    """The admin key that is on no machine."""
    rows = agent.json("admin", "list")["admins"]
    return str(next(row["key"] for row in rows if row["node"] is None)[:12])


def test_a_member_gets_another_key_without_a_token(mesh_rig: Rig) -> None:
    """`rotate`: the same process goes on under another id, and comes back with it after a crash."""
    founder, member = mesh_rig.mesh(2)
    old = member.id
    member.command("model", "add", str(ECHO), "--name", "echo")
    answer = member.json("rotate")
    assert old == answer["was"]

    def back() -> bool:
        rows = {row["id"]: row for row in founder.status()["nodes"]}
        return answer["id"] in rows and rows[answer["id"]]["usable"] and rows[old]["state"] == "left"

    wait_for(back, within_s=30, why="the founder uses the new node")
    x = mesh_rig.folder / "x.json"
    x.write_text("[[1.0]]")
    assert answer["id"] in founder.command("--json", "run", "echo", str(x), "--node", answer["id"]).stdout
    row = next(row for row in founder.json("members") if row["id"] == old)
    assert (True, f"it goes on as node {answer['id'][:8]}") == (row["revoked"], row["reason"])
    member.kill()
    again = mesh_rig.start(member.home.name)
    assert answer["id"] == again.ready["id"]
    assert answer["id"] in founder.command("--json", "events").stdout

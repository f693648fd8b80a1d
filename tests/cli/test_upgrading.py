"""Before newer software is put in place: who of the mesh would understand it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from meshnode.cli.upgrading import judged
from meshnode.wire.messages import FEATURES, PROTOCOL_VERSION
from tests.mesh.rig import rig


def row(versions: list[int] | None, features: list[str], why: str = "") -> dict[str, Any]:
    return {"id": "a" * 52, "name": "x", "software": "", "versions": versions, "features": features, "why": why}


def test_a_node_understands_when_one_version_is_common() -> None:
    """What it lacks besides is no obstacle; who did not answer is not judged."""
    new, old, other, silent = judged(
        [
            row([PROTOCOL_VERSION, PROTOCOL_VERSION + 1], [*FEATURES, "more"]),
            row([PROTOCOL_VERSION], []),
            row([PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2], []),
            row(None, [], "no answer within 5 s"),
        ]
    )
    assert (True, "", []) == (new["understands"], new["why"], new["lacks"])
    assert (True, list(FEATURES)) == (old["understands"], old["lacks"])
    assert (False, []) == (other["understands"], other["lacks"])
    assert "it speaks protocol 2, 3, this software protocol 1" == other["why"]
    assert (None, "no answer within 5 s") == (silent["understands"], silent["why"])


NEWER = "import meshnode.cli.upgrading as it; it.SPOKEN = (2,); from meshnode.cli.main import main; main()"
"""Software whose nodes speak another version and not this one."""


def test_the_nodes_of_a_mesh_say_what_they_speak(tmp_path: Path) -> None:
    """Also one that is not linked at the moment; exit code 1, and who it is, when they would not understand."""
    with rig(tmp_path) as mesh:
        first, second = mesh.mesh(2)
        said = first.json("upgrade-check")
        assert {first.id, second.id} == {row["id"] for row in said["nodes"]}
        assert all(row["understands"] and row["lacks"] == [] for row in said["nodes"])
        words = [sys.executable, "-c", NEWER, "--json", "--home", str(first.home), "upgrade-check"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert 1 == done.returncode
        assert [False, False] == [row["understands"] for row in json.loads(done.stdout)["nodes"]]
        assert "UNDERSTANDS" in first.command("upgrade-check").stdout

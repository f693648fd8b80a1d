"""Global options, exit codes, and how errors look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshnode.cli import main
from meshnode.errors import (
    AgentUnavailable,
    ConfigError,
    HomeError,
    MeshError,
    NoCapacity,
    NoNodeInZone,
    PermissionDenied,
    TokenRefused,
)
from tests.cli.conftest import Command
from tests.client.door import Door


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["run", "m", "f", "--home", "h", "--debug"], ["--home", "h", "--debug", "run", "m", "f"]),
        (["--home=h", "model", "ls", "--json"], ["--home=h", "--json", "model", "ls"]),
        (["run", "m", "--", "--json"], ["run", "m", "--", "--json"]),
        (["status", "--home"], ["status", "--home"]),
    ],
)
def test_global_options_may_stand_anywhere(words: list[str], expected: list[str]) -> None:
    """They are taken to the front; what follows -- is left alone."""
    assert expected == main.globals_first(words)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MeshError("x"), 1),
        (HomeError("x"), 1),
        (NoCapacity("x"), 1),
        (ConfigError("x"), 2),
        (AgentUnavailable("x"), 3),
        (PermissionDenied("x"), 4),
        (TokenRefused("x"), 4),
        (NoNodeInZone("x"), 4),
    ],
)
def test_exit_codes(error: MeshError, code: int) -> None:
    """1 failed, 2 usage, 3 cannot reach the agent, 4 refused by policy."""
    assert code == main.exit_code(error)


def test_no_agent_is_exit_3_with_a_hint(meshnode: Command) -> None:
    """One line and a hint on stderr, nothing on stdout."""
    code, out, err = meshnode("status")

    assert (3, "") == (code, out)
    assert err.splitlines()[0].startswith("meshnode: no agent answers")
    assert "meshnode up" in err.splitlines()[1]
    assert 2 == len(err.splitlines())


def test_an_error_is_one_object_with_json(meshnode: Command) -> None:
    """With --json the error is on stdout, as one object, and stderr is empty."""
    code, out, err = meshnode("status", "--json")

    assert (3, "") == (code, err)
    assert "agent_unavailable" == json.loads(out)["code"]


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["status", "--bogus"],
        ["run"],
        ["run", "double", "-i", "x"],
        ["run", "double", "x.npy", "--priority", "urgent"],
        ["invite", "--expires", "soon"],
        ["up", "--label", "x"],
        ["up", "--listen", "nowhere"],
        ["ping", "n", "--count", "0"],
        ["demo", "--nodes", "1"],
    ],
)
def test_usage_is_exit_2(meshnode: Command, words: list[str]) -> None:
    """What makes no sense as a command is exit code 2, one line and a hint, also as JSON."""
    code, out, err = meshnode(*words)
    assert (2, "") == (code, out)
    assert err.startswith("meshnode: ")
    assert len(err.splitlines()) <= 2

    code, out, err = meshnode(*words, "--json")
    assert (2, "") == (code, err)
    assert json.loads(out)["message"]


def test_tracebacks_only_with_debug(meshnode: Command) -> None:
    """--debug lets the error itself out."""
    with pytest.raises(AgentUnavailable):
        meshnode("--debug", "status")


def test_help_and_version_open_nothing(meshnode: Command) -> None:
    """--version and --help are exit code 0; no words at all show the help."""
    assert meshnode("--version")[:2] == (0, "meshnode 0.2.0\n")
    code, out, _ = meshnode("run", "--help")
    assert 0 == code
    assert "image rule" in out
    code, out, _ = meshnode()
    assert 2 == code
    assert "Commands" in out


def test_home_is_an_option_or_the_environment(door: Door, meshnode: Command, tmp_path: Path) -> None:
    """--home wins over MESHNODE_HOME."""
    assert 0 == meshnode("model", "list")[0]
    assert 3 == meshnode("model", "list", "--home", tmp_path / "other")[0]


def test_the_shell_completes_names(door: Door, meshnode: Command) -> None:
    """The names of models and nodes come from the agent; without one there are none."""
    from meshnode.cli import completion

    assert ["double"] == completion.model_names("do")
    assert [] == completion.model_names("x")
    assert ["door"] == completion.node_names("d")
    assert [] == completion.node_names("x")


def test_a_mistyped_command_is_refused_with_all_of_them_loaded(meshnode: Command) -> None:
    """The suggestion comes from every part."""
    code, _, said = meshnode("statsu")
    assert (2, True) == (code, "status" in said)

"""Only the module of a command is loaded for it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer

from meshnode.cli import parts


@pytest.mark.parametrize("part", parts.COMMANDS)
def test_the_table_names_all_commands_of_a_module(part: str) -> None:
    """In its order, which is that of the help."""
    app = typer.Typer()
    app.callback()(lambda: None)
    import_module(f"meshnode.cli.{part}").add_to(app)
    group = typer.main.get_command(app)
    assert set(parts.COMMANDS[part]) == set(vars(group)["commands"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["join", "x"], ["mesh"]),
        (["--json", "--home", "status", "up", "--name", "join"], ["node"]),
        (["--home=x", "model", "list"], ["models"]),
        (["--home"], list(parts.COMMANDS)),
        (["--help"], list(parts.COMMANDS)),
        (["jion", "x"], list(parts.COMMANDS)),
        ([], list(parts.COMMANDS)),
    ],
)
def test_what_a_command_line_needs(words: list[str], expected: list[str]) -> None:
    """All, where it names no command: the help and the suggestions want them."""
    assert expected == list(parts.needed(words))


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("meshnode", "asyncio numpy msgspec"),
        ("meshnode.cli.main, meshnode.cli.mesh, meshnode.membership.belonging", "numpy rich zeroconf psutil"),
        ("meshnode.cli.main, meshnode.cli.node", "numpy rich zeroconf psutil cryptography"),
    ],
)
def test_a_start_loads_little(modules: str, heavy: str) -> None:
    """`join` on twenty machines at once took twice as long for libraries that it does not use."""
    code = f"import sys, {modules}; print(*[it for it in {heavy.split()} if it in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "" == done.stdout.strip()

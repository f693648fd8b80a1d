"""The house rules that no linter knows: what must be written down is, and what must not be there is not."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from meshnode.wire import messages

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "meshnode").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PAGES = sorted((ROOT / "protocols").glob("*.md"))
CORES = [
    ROOT / "meshnode" / path
    for path in (
        "membership/swim.py",
        "membership/candidates.py",
        "membership/crowd.py",
        "membership/interfaces.py",
        "execution/queue.py",
        "catalog/transfer.py",
        "owner/manners.py",
        "tasks/lifecycle.py",
    )
]
LINES_MAX = 400
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|pytest\.mark\.(skip|xfail)\b")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_has_outgrown_its_idea() -> None:
    """A file is an answer to one question; past 400 lines it is two."""
    assert [] == [relative(p) for p in PACKAGE if len(p.read_text().splitlines()) > LINES_MAX]


def test_nothing_is_left_unfinished() -> None:
    """No markers of work to come: what cannot be done now stands in the documents as a limit."""
    here = Path(__file__)
    found = [
        f"{relative(p)}:{number}"
        for p in [*PACKAGE, *TESTS]
        if p != here
        for number, line in enumerate(p.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert [] == found


def test_no_sleep_synchronises_a_test() -> None:
    """Tests wait for a condition with a deadline; `time.sleep` waits for luck."""
    found = [relative(p) for p in TESTS if p != Path(__file__) and re.search(r"\btime\.sleep\(", p.read_text())]
    assert [] == found


def test_every_test_says_what_it_promises() -> None:
    """Each test function has a docstring of its own."""
    bare = []
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and not ast.get_docstring(node):
                bare.append(f"{relative(path)}:{node.name}")
    assert [] == bare


@pytest.mark.parametrize("message", get_args(messages.AnyMessage), ids=lambda cls: str(cls.__name__))
def test_every_message_has_its_page_and_its_vector(message: type[msgspec.Struct]) -> None:
    """A message that a node in another language must know is described in protocols/ and has golden bytes.

    The first of them goes by the name of its tag: `tests/mesh/liar.py` begins there to lie.
    """
    tag = str(message.__struct_config__.tag)
    assert any(f"`{tag}`" in page.read_text() for page in PAGES), f"no page in protocols/ describes `{tag}`"
    golden = {row["name"] for row in json.loads((ROOT / "protocols" / "vectors" / "messages.json").read_text())}
    assert tag in golden, f"no golden bytes of {tag}: make one in message_rows() of scripts/vectors, and run that"


@pytest.mark.parametrize("core", CORES, ids=relative)
def test_every_core_has_the_one_shape(core: Path) -> None:
    """A core answers `handle(now, …)` and `next_deadline()`, and never awaits."""
    tree = ast.parse(core.read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {"handle", "next_deadline"} <= names
    assert not any(isinstance(node, ast.Await | ast.AsyncFunctionDef) for node in ast.walk(tree))


def test_the_map_names_every_package() -> None:
    """ARCHITECTURE.md is the map: each package and top-level module has its place on it."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    top = [p for p in (ROOT / "meshnode").iterdir() if p.name not in ("__init__.py", "__pycache__", "py.typed")]
    names = [f"{p.name}/" if p.is_dir() else p.name for p in top if p.is_dir() or p.suffix == ".py"]
    assert [] == [name for name in names if f"`{name}`" not in text]


def test_the_project_names_no_machine_of_ours() -> None:
    """No path of a builder's machine and no registry host is in the project."""
    banned = re.compile(r"/(?:root|home/\w+)/|pypi\.org|files\.pythonhosted|registry\.npmjs")
    suffixes = {".py", ".md", ".toml", ".lock", ".sh", ".json", ""}
    files = [
        p
        for p in ROOT.rglob("*")
        if p.is_file()
        and p.suffix in suffixes
        and p != Path(__file__)
        and not any(part.startswith(".") and part != ".ci" for part in p.relative_to(ROOT).parts)
    ]
    assert [] == [relative(p) for p in files if banned.search(p.read_text(errors="replace"))]

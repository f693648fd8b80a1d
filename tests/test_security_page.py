"""SECURITY.md against the code: what listens, starts programs or reads outside bytes has its row, and no row lies."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import surface

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
TABLES: dict[str, Callable[[ast.Module], bool]] = {
    "What listens": surface.listens,
    "What starts programs": surface.starts,
    "What reads bytes from outside": surface.reads,
}
NONE = {
    "What listens": {
        "edge/http/metrics": "counts what happens: `listen` is no socket's",
        "membership/arriving": "asks for the multicast of `membership/multicast`",
        "sim/shells/run": "hears complaints: no socket's either",
        "tasks/dispatcher": "binds the stages of a pipeline to models",
    },
    "What starts programs": {},
    "What reads bytes from outside": {
        "catalog/transfer": "its own journal's, checked by `catalog/partial` piece by piece",
        "cli/hiding": "where its own arguments lie, by the kernel's word",
        "edge/frigate/listening": "its own key",
        "edge/grpc/door": "hands bytes to protobuf, after the token; certificate and key of the settings",
        "edge/grpc/messages": "the description of the protocol that comes with the package",
        "edge/mqtt/decoding": "what the decoder says: JSON into a typed struct, bounded",
        "execution/arena": "copies bytes",
        "execution/session": "ONNX Runtime's own outputs",
        "execution/worker": "a constant of its own",
        "links/local": "the kernel's word for who calls",
        "membership/multicast": "has its row among those that listen",
    },
}
"""What is called as those are called that want a row, and wants none: why."""
BY_HAND = {"catalog/protobuf", "catalog/scan", "edge/http/guard", "edge/http/server", "edge/tracing"} | {
    "edge/mqtt/connection",
    "owner/sources",
}
"""Readers that no call gives away."""
ROW = re.compile(r"^\| `([\w/]+)` \|(.*)\|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)`")


def rows(title: str) -> dict[str, str]:
    """The rows of the table below a heading, by module."""
    section = PAGE[PAGE.index(f"### {title}\n") + 4 :]
    return dict(ROW.findall(re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]))


@pytest.mark.parametrize("title", TABLES)
def test_everything_has_its_row(title: str) -> None:
    """A new socket, program or parser is red until the page says who reaches it, and how far; a row needs its code."""
    trees, told = surface.modules(), rows(title)
    found = {name for name, tree in trees.items() if TABLES[title](tree)}
    by_hand = BY_HAND if title == "What reads bytes from outside" else set()
    assert [] == sorted(found - told.keys() - NONE[title].keys()), "they have no row in SECURITY.md"
    assert [] == sorted(told.keys() - found - by_hand), "they have a row, and do nothing of the kind"
    assert [] == sorted(NONE[title].keys() - found), "nobody asks them for a row any more"
    assert by_hand <= told.keys()
    assert set() == told.keys() & NONE[title].keys()


@pytest.mark.parametrize("title", TABLES)
def test_each_row_names_its_test(title: str) -> None:
    """One that is there; and no cell is empty."""
    for name, row in rows(title).items():
        cells = [cell.strip() for cell in row.split("|")]
        assert all(cells), name
        (test,) = TEST.findall(cells[-1])
        assert (ROOT / test).is_file(), f"{name}: {test}"


def test_errors_are_called_by_their_codes() -> None:
    """What a table calls an error is one."""
    known = set(re.findall(r'code = "(\w+)"', "\n".join(p.read_text() for p in (ROOT / "meshnode").rglob("*.py"))))
    tables = PAGE[PAGE.index("### What listens") : PAGE.index("## The worker's sandbox")]
    said = set(re.findall(r"`([a-z]+_[a-z_]+|refused)`", tables))
    assert set() == said - known


@pytest.mark.parametrize(
    ("text", "judge"),
    [
        ("async def f():\n await asyncio.start_server(g, h, 1)", surface.listens),
        ("s.bind(('', 1))", surface.listens),
        ("web.TCPSite(r, h)", surface.listens),
        ("import subprocess as s\nsubprocess.run(['x'])", surface.starts),
        ("os.execv(a, b)", surface.starts),
        ("await asyncio.create_subprocess_exec('x')", surface.starts),
        ("msgspec.msgpack.decode(b)", surface.reads),
        ("D = msgspec.json.Decoder[X](X)", surface.reads),
        ("yaml.safe_load(f)", surface.reads),
        ("pickle.loads(b)", surface.reads),
        ("Path(p).read_bytes()", surface.reads),
        ("x509.load_der_x509_certificate(b)", surface.reads),
    ],
)
def test_the_search_finds_what_it_is_for(text: str, judge: Callable[[ast.Module], bool]) -> None:
    """Each kind of call is seen, and a module without any is left alone."""
    source = f"async def it():\n {text.replace(chr(10), chr(10) + ' ')}"
    assert judge(ast.parse(source))
    assert not judge(ast.parse("x = subprocess.PIPE\ny.decode()\nos.path.join('a')"))

"""Every command and every piece of Python in the documents does what the page says, page by page, with real agents."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, commands, fits, needs
from tests.docs.reader import Reader
from tests.edge.mqtt import mosquitto

NOT_RUN_MAX = 10
"""Blocks that need what a test cannot have (another machine, root, a service manager). Fewer is better."""


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [it for it in PAGES if blocks(it)], ids=ids)
async def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Its blocks in order, in a throw-away home."""
    if "mosquitto" not in needs(page):
        follow(page, Reader(tmp_path, blocks(page)))
        return
    if mosquitto.COMMAND is None or shutil.which("mosquitto_pub") is None:
        pytest.skip("needs mosquitto and its clients: apt install mosquitto mosquitto-clients")
    async with mosquitto.broker(tmp_path / "broker") as broker:
        follow(page, Reader(tmp_path, blocks(page), broker.port))


def follow(page: Path, reader: Reader) -> None:
    try:
        reader.prepares(needs(page))
        for block in blocks(page):
            reader.does(block)
        reader.ends()
    finally:
        reader.close()


def test_few_blocks_are_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them says why."""
    left: list[Block] = [it for page in PAGES for it in blocks(page) if it.mark == "not run"]
    done = sum(len(blocks(page)) for page in PAGES) - len(left)
    with capsys.disabled():
        print(f"\n{done} blocks of the documents are run, {len(left)} are not:")
        for it in left:
            print(f"  {it}: {it.said}")
    assert [] == [str(it) for it in left if len(it.said) < 8]
    assert NOT_RUN_MAX >= len(left)


def test_no_command_hides_from_the_tests() -> None:
    """What looks like a command stands in a block that is run, not in a bare fence."""
    hidden = [
        f"{it}: {line}"
        for page in PAGES
        for it in blocks(page, ("", "text", "shell", "bash", "sh"))
        for line in it.body.splitlines()
        if re.match(r"\S*\$ |meshnode \w", line) and page.name != "cli.md"
    ]
    assert [] == hidden


def test_links_lead_somewhere() -> None:
    """Each link to a file, and to a heading of one, as GitHub makes its name."""
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{ids(page)}: {target}")
    assert [] == broken


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in titles}


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page."""
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [it.relative_to(ROOT / "docs").as_posix() for it in (ROOT / "docs").rglob("*.md")]
    assert [] == [it for it in pages if it != "README.md" and f"({it})" not in index]


def test_a_page_that_lies_is_found_out(tmp_path: Path) -> None:
    """A command that fails, and one that says something else than is shown."""
    for text in ("$ false\n", "$ echo one\ntwo\n", "$ printf 'one\\nmore\\n'\none\n"):
        block = Block(ROOT / "README.md", 1, "console", text)
        reader = Reader(tmp_path / str(len(text)), [block])
        try:
            reader.does(block)
            with pytest.raises(AssertionError):
                reader.ends()
        finally:
            reader.close()


def test_what_is_shown_may_leave_out() -> None:
    """Dots within a line and on one of their own, and blanks as they come; nothing else."""
    assert fits("a ... c\n...\nend\n", "a  b c\nx\ny\nend\n")
    assert fits("...\nend", "end")
    assert not fits("a ... c", "a b\nc")
    assert not fits("a", "a\nb")


def test_prompts_name_machines_and_lines_go_on() -> None:
    """`> ` after a backslash belongs to the command."""
    block = Block(ROOT / "README.md", 1, "console", "desktop$ one \\\n> two\nshown\n$ three\n")
    assert [("desktop", "one \\\ntwo", "shown\n"), ("", "three", "")] == [
        (it.machine, it.command, it.shown) for it in commands(block)
    ]

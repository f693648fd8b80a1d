"""What a page of the documents asks its reader to do: its blocks, in order.

A block is a fence with a language. A comment just above it says more:

    <!-- file: NAME -->      it is what the reader writes into that file
    <!-- config -->          it is a piece of config.toml: it is loaded, and nothing is run
    <!-- not run: WHY -->    it cannot be run by a test

and `<!-- needs: WHAT, ... -->` anywhere on the page says what is there before: `agent`, an agent that runs on the first
machine; the name of a model in models/, which it then knows; `mosquitto`, a broker at BROKER.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ABOVE = re.compile(r"<!-- (file|config|not run)(?:: (.+?))? -->")
PROMPT = re.compile(r"^(?P<machine>[a-z][a-z0-9-]*)?\$ (?P<command>.*)$")
RUN = ("console", "python", "toml")


@dataclass(frozen=True, slots=True)
class Block:
    """A fence of a page."""

    page: Path
    line: int
    language: str
    body: str
    mark: str = ""
    """"file", "config" or "not run"; and what it says:"""
    said: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A line that is typed at a machine's prompt, and what is shown below it."""

    machine: str
    command: str
    shown: str


def blocks(page: Path, languages: tuple[str, ...] = RUN) -> list[Block]:
    """All blocks of a page that a test has to do with."""
    found, text, at = [], page.read_text(), 0
    lines = text.splitlines()
    while at < len(lines):
        indent = len(lines[at]) - len(lines[at].lstrip())
        if not lines[at].startswith("```", indent):
            at += 1
            continue
        end = lines.index(" " * indent + "```", at + 1)
        mark = ABOVE.fullmatch(lines[at - 1].strip()) if at else None
        said = (mark[1], mark[2] or "") if mark else ("", "")
        if lines[at][indent + 3 :] in languages:
            body = "".join(line[indent:] + "\n" for line in lines[at + 1 : end])
            found.append(Block(page, at + 1, lines[at][indent + 3 :], body, *said))
        at = end + 1
    return found


def needs(page: Path) -> list[str]:
    """What has to be there before the first block."""
    found = re.search(r"<!-- needs: (.+?) -->", page.read_text())
    return found[1].split(", ") if found else []


def commands(block: Block) -> list[Command]:
    """The lines after prompts; a line that ends in a backslash goes on, and `> ` begins its next one."""
    found: list[Command] = []
    typing = False
    for line in block.body.splitlines():
        last = found[-1] if found else None
        if typing and last:
            found[-1] = Command(last.machine, last.command + "\n" + line.removeprefix("> "), "")
        elif prompt := PROMPT.match(line):
            found.append(Command(prompt["machine"] or "", prompt["command"], ""))
        elif last:
            found[-1] = Command(last.machine, last.command, last.shown + line + "\n")
        else:
            raise AssertionError(f"{block}: it begins without a prompt: {line!r}")
        typing = line.endswith("\\") and (typing or bool(PROMPT.match(line)))
    return found


def pattern(shown: str) -> re.Pattern[str]:
    """What is shown, where `...` is anything within a line, or, alone on one, any lines; blanks count as one."""
    rows = [
        r"(?:.*\n)*?" if row == "..." else ".*?".join(re.escape(part) for part in row.split("...")) + r"\n"
        for row in map(_one_blank, shown.strip().splitlines())
    ]
    return re.compile("".join(rows))


def fits(shown: str, output: str) -> bool:
    """Whether a command said what the page shows."""
    said = "".join(_one_blank(line) + "\n" for line in output.strip().splitlines())
    return pattern(shown).fullmatch(said) is not None


def _one_blank(line: str) -> str:
    return " ".join(line.split())

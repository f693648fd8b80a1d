"""The command line in this process, against a small agent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnode.cli import main
from tests.client.door import Door

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """An agent of the home `tmp_path`."""
    with Door(tmp_path) as it:
        yield it


@pytest.fixture
def meshnode(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run `meshnode WORDS` on the home `tmp_path`: its exit code, stdout and stderr."""
    monkeypatch.setenv("MESHNODE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> tuple[int, str, str]:
        code = main.run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    loggers = [logging.getLogger(), logging.getLogger("meshnode")]
    before = [(it.level, list(it.handlers)) for it in loggers]
    yield run
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        for added in [it for it in logger.handlers if it not in handlers]:
            logger.removeHandler(added)  # they write to this test's file and captured stderr
            added.close()

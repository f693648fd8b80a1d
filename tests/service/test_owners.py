"""Giving a home to the user of the machine's service, which root does in a folder that may be somebody's already."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnode.cli import service
from meshnode.service import managers

UID = GID = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_no_link_in_a_home_leads_out_of_it(tmp_path: Path) -> None:
    """Symbolic or hard, to a file or to a folder: what is elsewhere stays whose it is, and all else is given."""
    home, elsewhere = tmp_path / "home", tmp_path / "etc"
    (home / "models").mkdir(parents=True)
    (home / "models" / "m").write_text("")
    elsewhere.mkdir()
    (elsewhere / "shadow").write_text("root")
    (home / "config.toml").symlink_to(elsewhere / "shadow")
    (home / "peers").symlink_to(elsewhere)
    (home / "trust").hardlink_to(elsewhere / "shadow")

    managers.give(home, UID, GID)

    assert [0, 0] == [owner(elsewhere), owner(elsewhere / "shadow")]
    given = (home, home / "models", home / "models" / "m", home / "config.toml", home / "peers")
    assert [UID] * 5 == [owner(it) for it in given]


def test_root_writes_settings_through_nobodys_link(tmp_path: Path) -> None:
    """A link where they belong is replaced by a file."""
    (tmp_path / "shadow").write_text("root")
    (tmp_path / "config.toml").symlink_to(tmp_path / "shadow")
    service._write(tmp_path / "config.toml", "name = 'a'")
    assert ("root", "name = 'a'") == ((tmp_path / "shadow").read_text(), (tmp_path / "config.toml").read_text())
    assert not (tmp_path / "config.toml").is_symlink()

"""Files of the home: whole or not at all, and never believed when damaged."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from meshnode.errors import HomeError
from meshnode.trust import files
from meshnode.trust.files import move_aside, read_checked, take_lock, write_atomic, write_checked


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    """A state file gives its payload back, is 0600, and leaves no temporary file."""
    path = tmp_path / "state"
    write_checked(path, b"first")
    write_checked(path, b"second")

    assert b"second" == read_checked(path)
    assert 0o600 == path.stat().st_mode & 0o777
    assert ["state"] == [p.name for p in tmp_path.iterdir()]


def test_a_file_that_is_not_there_is_absent(tmp_path: Path) -> None:
    """No file is no error."""
    assert read_checked(tmp_path / "state") is None


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "longer", "noise"])
def test_a_damaged_file_is_moved_aside_and_told_once(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is treated as absent, kept under another name, and not reported again."""
    path = tmp_path / "state"
    write_checked(path, b"payload")
    data = path.read_bytes()
    path.write_bytes(
        {
            "flip": data[:-1] + bytes([data[-1] ^ 1]),
            "cut": data[:-2],
            "empty": b"",
            "longer": data + b"x",
            "noise": b"not one of ours at all, but long enough to hold a header",
        }[spoil]
    )
    spoiled = path.read_bytes()

    with caplog.at_level(logging.WARNING):
        assert read_checked(path) is None
        assert read_checked(path) is None

    assert spoiled == (tmp_path / "state.damaged-1").read_bytes()
    assert 1 == len(caplog.records)


def test_a_precious_file_is_never_taken_for_absent(tmp_path: Path) -> None:
    """A damaged file that must not be started over stays where it is and is an error each time."""
    path = tmp_path / "state"
    path.write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(HomeError, match="damaged"):
            read_checked(path, precious=True)
    assert b"damaged" == path.read_bytes()


def test_a_newer_versions_file_is_not_touched(tmp_path: Path) -> None:
    """A file written by a newer meshnode is an error and stays."""
    path = tmp_path / "state"
    write_checked(path, b"x", version=3)
    with pytest.raises(HomeError, match="newer meshnode"):
        read_checked(path, version=2)
    assert b"x" == read_checked(path, version=3)


def test_a_turned_bit_makes_no_newer_version(tmp_path: Path) -> None:
    """The number of the format is under the checksum: a damaged one is a damaged file, and stops no start."""
    path = tmp_path / "state"
    for version in (1, 2):
        write_checked(path, b"x", version=version)
        whole = path.read_bytes()
        for bit in range(16):
            turned = bytearray(whole)
            turned[4 + bit // 8] ^= 1 << bit % 8
            path.write_bytes(turned)
            assert read_checked(path, version=version) is None, bit


def test_moving_aside_never_overwrites(tmp_path: Path) -> None:
    """Each damaged file keeps its own name."""
    for expected in ("key.left-1", "key.left-2"):
        (tmp_path / "key").write_text("x")
        assert expected == move_aside(tmp_path / "key", "left").name


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """When a write fails in the middle the old content stays, no temporary file is left, and the error says so."""
    path = tmp_path / "state"
    write_checked(path, b"old")
    # A child whose files may not grow past 4 KiB: the kernel's own way to fail a write.
    script = (
        "import signal, resource, sys; from pathlib import Path\n"
        "from meshnode.trust.files import write_checked; from meshnode.errors import HomeError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_checked(Path(sys.argv[1]), bytes(100_000))\n"
        "except HomeError as error: print(error)\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)

    assert f"{path} cannot be written" in run.stdout
    assert b"old" == read_checked(path)
    assert ["state"] == [p.name for p in tmp_path.iterdir()]


def test_a_folder_that_is_gone_is_a_typed_error(tmp_path: Path) -> None:
    """Writing below something that is no folder is a HomeError, nothing else."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "state", tmp_path / "file" / "state"):
        with pytest.raises(HomeError, match="cannot be written"):
            write_atomic(path, b"x")


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    """The second to ask is told the first one's process, and gets the lock when the first lets go."""
    first = take_lock(tmp_path / "agent.lock")
    try:
        with pytest.raises(HomeError, match=f"process {os.getpid()}"):
            take_lock(tmp_path / "agent.lock")
    finally:
        os.close(first)
    os.close(take_lock(tmp_path / "agent.lock"))


def test_headers_are_fixed() -> None:
    """The header has 46 bytes: files of this version stay readable."""
    assert 46 == files._HEADER.size


def test_a_lock_and_a_file_are_written_through_no_link(tmp_path: Path) -> None:
    """Not through one that lies where the temporary file goes either: what it leads to stays as it is."""
    (tmp_path / "shadow").write_text("root")
    (tmp_path / "agent.lock").symlink_to(tmp_path / "shadow")
    with pytest.raises(HomeError, match="cannot be used"):
        take_lock(tmp_path / "agent.lock")
    for link in (Path.symlink_to, Path.hardlink_to):
        link(tmp_path / f".trust.{os.getpid()}.tmp", tmp_path / "shadow")
        write_atomic(tmp_path / "trust", b"new")
    assert ("root", b"new") == ((tmp_path / "shadow").read_text(), (tmp_path / "trust").read_bytes())

"""The previous release as programs: a wheel built from its commit, installed beside the libraries of this environment.

It is built once and kept next to the libraries: `previous/` in the environment that runs the tests.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
_named = tomllib.loads((Path(__file__).parent / "release.toml").read_text())
VERSION: str = _named["version"]
TAG: str = _named["tag"]
COMMIT: str = _named["commit"]


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)


@functools.cache
def unavailable() -> str:
    """Why the previous release cannot be built here; empty when it can."""
    try:
        if _git("cat-file", "-e", f"{COMMIT}^{{commit}}").returncode:
            return f"the history of {VERSION} is missing here: `git fetch --unshallow`, or fetch commit {COMMIT[:12]}"
        if (tagged := _git("rev-parse", "-q", "--verify", f"{TAG}^{{commit}}").stdout.decode().strip()) and (
            tagged != COMMIT
        ):
            return f"the tag {TAG} names {tagged[:12]} here and not {COMMIT[:12]}, which tests/mixed/release.toml names"
    except OSError as error:
        return f"git is missing: {error}"
    return ""


@functools.cache
def command() -> list[str]:
    """`meshnode` of the previous release; built when it is not there yet."""
    # -P: the folder in which it is started is a checkout of this software.
    return [str(_environment() / "bin" / "python"), "-P", "-m", "meshnode.cli.main"]


def python() -> str:
    """An interpreter in which `import meshnode` is the previous release."""
    return command()[0]


def _environment() -> Path:
    """Where it is installed. Another Python or another place of the libraries needs another one."""
    libraries = sysconfig.get_path("purelib")
    key = hashlib.sha256(f"{libraries} {sys.version}".encode()).hexdigest()[:8]
    folder = Path(sys.prefix) / "previous" / f"{VERSION}-{COMMIT[:12]}-{key}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes want it in the same moment
        if not folder.exists():
            _build(folder, libraries)
    return folder


def _build(folder: Path, libraries: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch = Path(name)
        source = scratch / "source"
        archive = _git("archive", "--format=zip", COMMIT).stdout
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            packed.extractall(source)
        _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch)], source)
        (wheel,) = scratch.glob("meshnode-*.whl")
        made = scratch / "made"
        venv.create(made, with_pip=False, symlinks=True)
        (site,) = made.glob("lib/python*/site-packages")
        # The libraries come after its own package; what installs this software among them is a .pth, and stays unread.
        (site / "beside.pth").write_text(f"{libraries}\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "--no-index", "--no-compile", "--target", str(site), str(wheel)], scratch)
        wheel.rename(made / wheel.name)
        made.rename(folder)


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"

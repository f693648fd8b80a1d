"""An environment for each system, with the versions that its requirements name, outside the checkout."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.bench.comparison.register import System

HERE = Path(__file__).parent
DEFAULT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshnode-compare"
SHOWN = {
    "meshnode",
    "onnxruntime",
    "onnxruntime-gpu",
    "nats-py",
    "grpcio",
    "mlserver",
    "litserve",
    "distributed",
    "ray",
}
LIST = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"


def python(at: Path, environment: str) -> Path:
    """Its interpreter."""
    return at / environment / "bin" / "python" if environment else Path(sys.executable)


def install(at: Path, environment: str) -> str:
    """Make it, or leave it when it was made from the same requirements; why that failed, or nothing."""
    wanted = (HERE / "requirements" / f"{environment}.txt").read_text()
    stamp = at / environment / "made-from"
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    print(f"installing {environment}", file=sys.stderr)
    pip = [str(python(at, environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(at / environment)],
        [*pip, "-r", str(HERE / "requirements" / f"{environment}.txt")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            return (done.stderr.strip() or done.stdout.strip() or "no word from pip").splitlines()[-1]
    stamp.write_text(wanted)
    return ""


def fetch(at: Path, program: str) -> str:
    """A program of Debian's, unpacked beside the environments, without a service that starts; why not, or nothing."""
    if found(at, program):
        return ""
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg")
    if not (apt and dpkg):
        return f"there is no {program} on the PATH, and no apt-get to fetch one with; install it by hand"
    folder = at / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([apt, "download", program], cwd=folder, capture_output=True, text=True)
    for package in sorted(folder.glob(f"{program}_*.deb")):
        subprocess.run([dpkg, "-x", str(package), str(folder)], capture_output=True)
    return "" if found(at, program) else f"apt-get download {program}: {done.stderr.strip().splitlines()[-1:]}"


def found(at: Path, program: str) -> str | None:
    """Where a program is: the one that was fetched before the machine's own."""
    mine = at / "tools"
    return shutil.which(program, path=f"{mine}/usr/sbin:{mine}/usr/bin") or shutil.which(program)


def missing(at: Path, system: System) -> str:
    """Why a system cannot be measured here, or nothing."""
    if system.environment and not (at / system.environment / "made-from").exists():
        return "not installed: run scripts/bench/compare --install"
    if system.program and not found(at, system.program):
        return f"no {system.program}: run scripts/bench/compare --install"
    return ""


def versions(at: Path, system: System) -> dict[str, str]:
    """The packages of a system that matter, and its program."""
    if system.environment:
        done = subprocess.run([str(python(at, system.environment)), "-c", LIST], capture_output=True, text=True)
        there = json.loads(done.stdout)
    else:
        there = {it.name.lower(): it.version for it in importlib.metadata.distributions()}
    shown = {name: version for name, version in sorted(there.items()) if name in SHOWN}
    if system.program and (program := found(at, system.program)):
        said = subprocess.run([program, "--version"], capture_output=True, text=True)
        shown[system.program] = (said.stdout or said.stderr).strip().split()[-1]
    return shown

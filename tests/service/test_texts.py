"""What service managers are given, read by their own tools where these are installed."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath

import pytest

from meshnode.service.texts import HOMES, STATE, Service, launchd, systemd, windows

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
ODD = Service(("/opt/my mesh/bin/meshnode",), PurePosixPath('/srv/50% "off" $HOME'), system=True, user="meshnode")
HERE = Service(("/bin/true",), PurePosixPath("/srv/mesh"))
MACHINES = Service(("/bin/true",), PurePosixPath(STATE), system=True, user="root")


def verified(folder: Path, text: str) -> str:
    """What systemd complains about."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = folder / "meshnode.service"
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    return "\n".join(line for line in done.stderr.splitlines() if "meshnode" in line)


@pytest.mark.parametrize("service", [HERE, MACHINES], ids=["user", "system"])
def test_systemd_reads_the_unit_without_a_complaint(service: Service, tmp_path: Path) -> None:
    """`systemd-analyze verify` knows every setting and finds the program."""
    assert "" == verified(tmp_path, systemd(service))


def test_systemd_holds_the_system_unit_for_safe(tmp_path: Path) -> None:
    """`systemd-analyze security` calls it OK; what is left open is what the network, GPUs and Python need."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "meshnode.service"
    unit.write_text(systemd(MACHINES).replace("User=root", "User=daemon"))
    words = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", unit]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if "offline" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a file")
    assert 0 == done.returncode, done.stdout[-500:]


def test_the_recipe_for_many_machines_has_the_same_unit() -> None:
    """`deploy/meshnode.service` is what `meshnode service install --system --print` says, with its script before."""
    recipe = Service(
        ("/opt/meshnode/bin/meshnode",),
        PurePosixPath(STATE),
        system=True,
        user="meshnode",
        before="/opt/meshnode/first-boot",
    )
    assert systemd(recipe) == (DEPLOY / "meshnode.service").read_text()


def test_words_with_blanks_quotes_and_percent_signs_stay_whole(tmp_path: Path) -> None:
    """In the unit by systemd's rules; it is the program that is missing, and nothing else."""
    text = systemd(ODD)
    assert 'ExecStart="/opt/my mesh/bin/meshnode" up' in text
    assert r'ReadWritePaths="/srv/50%% \"off\" $HOME"' in text
    said = verified(tmp_path, text)
    assert "/opt/my mesh/bin/meshnode is not executable" in said
    assert 1 == len(said.splitlines())


@pytest.mark.parametrize("home", [*(f"{top}/ann/mesh" for top in HOMES), "/srv/mesh"])
def test_a_home_among_the_users_homes_can_be_written(home: str) -> None:
    """ProtectHome=yes would hide it."""
    lines = systemd(Service(("/opt/m/bin/meshnode",), PurePosixPath(home), system=True, user="m")).splitlines()
    assert ("ProtectHome=yes" if home == "/srv/mesh" else "ProtectHome=read-only") in lines
    assert f"ReadWritePaths={home}" in lines


def test_a_python_among_the_users_homes_can_be_read() -> None:
    """The program may be elsewhere, and what it is made of there."""
    made_of = (PurePosixPath(f"{HOMES[0]}/ann/python"),)
    text = systemd(Service(("/opt/m/bin/meshnode",), PurePosixPath("/srv/mesh"), system=True, user="m", reads=made_of))
    assert "ProtectHome=read-only" in text.splitlines()


def test_launchd_gets_a_property_list_with_the_words_as_they_are() -> None:
    """It is started at login, and again whenever it ends."""
    document = plistlib.loads(launchd(ODD).encode())
    assert ["/opt/my mesh/bin/meshnode", "up"] == document["ProgramArguments"]
    assert {"MESHNODE_HOME": str(ODD.home)} == document["EnvironmentVariables"]
    assert (True, True, "meshnode") == (document["RunAtLoad"], document["KeepAlive"], document["UserName"])


def test_windows_gets_a_task_that_starts_again() -> None:
    """The document of the Task Scheduler, well-formed, with the home as one word."""
    text = windows(ODD).partition("\n")[2]
    root = ElementTree.fromstring(text)  # noqa: S314 - made here
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    assert ODD.program[0] == root.findtext(f"{space}Actions/{space}Exec/{space}Command")
    assert "PT1M" == root.findtext(f"{space}Settings/{space}RestartOnFailure/{space}Interval")

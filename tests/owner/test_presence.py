"""Who sits at the display, and since when nothing moved: several desktops, and what their programs said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnode.owner.presence import LinuxPresence, MacPresence
from meshnode.owner.sources import COMMAND_EVERY_S, FAILED_EVERY_S
from tests.owner.machine import Programs, plant

WALL = 1_700_000_000.0
SESSION = "UID=1000\nACTIVE=1\nSTATE={state}\nREMOTE=0\nTYPE={type}\nCLASS={cls}\nSEAT=seat0"
INTERRUPTS = """\
            CPU0       CPU1
   1:         {keys}          0  IR-IO-APIC    1-edge      i8042
   8:          0          0  IR-IO-APIC    8-edge      rtc0
 120:          5       {usb}  IR-PCI-MSI 327680-edge      xhci_hcd
 NMI:        111        222   Non-maskable interrupts
 ERR:          0"""


def session(kind: str, *, cls: str = "user", state: str = "active") -> str:
    return SESSION.format(type=kind, cls=cls, state=state)


def interrupts(keys: int, usb: int) -> str:
    return INTERRUPTS.format(keys=keys, usb=usb)


def desktop(root: Path, kind: str = "wayland", **programs: str | None) -> tuple[LinuxPresence, Programs]:
    plant(root, {"run/systemd/sessions/2": session(kind), "proc/interrupts": interrupts(10, 10)})
    run = Programs(**programs)
    return LinuxPresence(root, run, lambda: WALL), run


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"run/systemd/sessions/.keep": ""}, False),
        ({"run/systemd/sessions/1": session("tty")}, False),
        ({"run/systemd/sessions/c1": session("wayland", cls="greeter")}, False),
        ({"run/systemd/sessions/3": session("x11", state="closing")}, False),
        ({"run/systemd/sessions/3": session("x11")}, True),
        (
            {"run/systemd/sessions/1": session("tty"), "run/systemd/sessions/2": session("wayland", state="online")},
            True,
        ),
        ({"run/systemd/sessions/.keep": "", "tmp/.X11-unix/X0": ""}, False),
        ({}, False),
        ({"tmp/.X11-unix/X0": ""}, True),
        ({"tmp/.X11-unix/X99": ""}, False),
        ({"run/user/1000/wayland-1": "", "run/user/1000/wayland-1.lock": ""}, True),
    ],
)
def test_a_display_is_one_where_somebody_is_logged_in(tmp_path: Path, files: dict[str, object], expected: bool) -> None:
    """A greeter, an SSH login and a test's virtual display are none; without logind the sockets decide."""
    display, idle_s = LinuxPresence(plant(tmp_path, files), Programs(), lambda: WALL).read(0.0)
    assert expected == display
    assert idle_s is None


def test_a_server_runs_no_programs(tmp_path: Path) -> None:
    """Where nobody is logged in nobody is asked."""
    run = Programs(busctl="t 5\n")
    LinuxPresence(plant(tmp_path, {"run/systemd/sessions/1": session("tty")}), run).read(0.0)
    assert [] == run.runs


def test_gnome_knows_the_idle_time(tmp_path: Path) -> None:
    """The compositor's answer is asked for once in ten seconds and ages in between."""
    it, run = desktop(tmp_path, busctl="t 600000\n")
    assert [(True, 600.0), (True, 609.0)] == [it.read(0.0), it.read(9.0)]
    run.said["busctl"] = "t 1500\n"
    assert (True, 1.5) == it.read(COMMAND_EVERY_S)
    assert 2 == len(run.runs)


def test_the_keyboard_is_quicker_than_the_compositor(tmp_path: Path) -> None:
    """A key that is seen by its interrupt counts before the next question; USB is not listened to then."""
    it, _ = desktop(tmp_path, busctl="t 600000\n")
    it.read(0.0)
    plant(tmp_path, {"proc/interrupts": interrupts(10, 99)})
    assert (True, 601.0) == it.read(1.0)
    plant(tmp_path, {"proc/interrupts": interrupts(11, 99)})
    assert [(True, 0.0), (True, 1.0)] == [it.read(2.0), it.read(3.0)]


def test_x11_has_its_own_program(tmp_path: Path) -> None:
    """`xprintidle` is believed under X11 only: behind Wayland it sees a part of the input."""
    it, _ = desktop(tmp_path / "x", kind="x11", xprintidle="250000\n")
    assert (True, 250.0) == it.read(0.0)
    it, run = desktop(tmp_path / "w", kind="wayland", xprintidle="250000\n")
    assert (True, 0.0) == it.read(0.0)
    assert ["busctl", "loginctl"] == [words[0] for words in run.runs]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"IdleHint=yes\nIdleSinceHint={int(WALL - 400)}000000\n", 400.0),
        (f"IdleHint=no\nIdleSinceHint={int(WALL - 400)}000000\n", 0.0),
        ("IdleHint=yes\n", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_logind_is_believed_when_it_says_idle(tmp_path: Path, said: str | None, expected: float) -> None:
    """Many desktops never set the hint: its `no` says nothing, and the watch has just begun."""
    it, _ = desktop(tmp_path, loginctl=said)
    assert (True, expected) == it.read(0.0)


def test_of_two_sessions_both_must_be_idle(tmp_path: Path) -> None:
    """The one that fell idle last counts."""
    hints = (
        f"IdleHint=yes\nIdleSinceHint={int(WALL - 900)}000000\n\nIdleHint=yes\nIdleSinceHint={int(WALL - 300)}000000"
    )
    plant(tmp_path, {"run/systemd/sessions/5": session("x11")})
    it, run = desktop(tmp_path, loginctl=hints)
    assert (True, 300.0) == it.read(0.0)
    assert ("2", "5") == run.runs[-1][-2:]
    run.said["loginctl"] = hints.replace("yes", "no", 1)
    assert (True, COMMAND_EVERY_S) == it.read(COMMAND_EVERY_S)


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        (" 1: 7 0 IR-IO-APIC 1-edge i8042", True),
        ("77: 7 0 intel-gpio 50 ELAN0676:00", True),
        ("77: 7 0 pinctrl_amd 9 i2c_hid_acpi", True),
        ("14: 7 0 IR-IO-APIC 14-fasteoi INTC1055:00", False),
        ("10: 7 0 IR-IO-APIC 10-fasteoi AMDI0010:03, AMDI0010:00", False),
        ("80: 7 0 intel-gpio 20 BOSC0200:00", False),
        ("24: 7 0 PCI-MSIX-0000:00:01.0 0-edge virtio0-config", False),
    ],
)
def test_only_input_devices_are_watched(tmp_path: Path, line: str, counts: bool) -> None:
    """A touchpad is one; the bus on which it sits, an accelerometer and a disk are not."""
    it, _ = desktop(tmp_path, busctl="t 600000\n")
    for now, changed in enumerate((line, line.replace(": 7", ": 9"))):
        plant(tmp_path, {"proc/interrupts": changed})
        idle_s = it.read(float(now))[1]
    assert (0.0 if counts else 601.0) == idle_s


def test_where_nothing_answers_the_devices_are_watched(tmp_path: Path) -> None:
    """Idle is at most as long as we watched; a keyboard and a USB mouse both end it; failed programs are left alone."""
    it, run = desktop(tmp_path)
    assert [(True, 0.0), (True, 200.0)] == [it.read(0.0), it.read(200.0)]
    plant(tmp_path, {"proc/interrupts": interrupts(10, 11)})
    assert [(True, 0.0), (True, 10.0)] == [it.read(210.0), it.read(220.0)]
    plant(tmp_path, {"proc/interrupts": interrupts(12, 11)})
    assert (True, 0.0) == it.read(230.0)
    assert 2 == len(run.runs)
    it.read(FAILED_EVERY_S)
    assert 4 == len(run.runs)


def test_a_machine_that_hides_its_interrupts_is_unsure(tmp_path: Path) -> None:
    """Without anything to watch, the idle time is unknown and not guessed."""
    it, _ = desktop(tmp_path)
    (tmp_path / "proc/interrupts").unlink()
    assert (True, None) == it.read(0.0)


def test_keys_in_a_terminal_are_input(tmp_path: Path) -> None:
    """The time of access of a pseudo-terminal is that of its last key, also of somebody who is there by SSH."""
    plant(tmp_path, {"dev/pts/0": "", "dev/pts/1": "", "dev/pts/ptmx": ""})
    for name, age_s in (("0", 500), ("1", 20), ("ptmx", 1)):
        os.utime(tmp_path / "dev/pts" / name, (WALL - age_s, WALL))
    it, _ = desktop(tmp_path, busctl="t 600000\n")
    assert (True, 20.0) == it.read(0.0)


def test_a_session_that_ends_is_forgotten(tmp_path: Path) -> None:
    """After a log-out the machine is a server; at the next log-in the watch begins anew."""
    it, _ = desktop(tmp_path)
    it.read(0.0)
    (tmp_path / "run/systemd/sessions/2").unlink()
    assert (False, None) == it.read(500.0)
    plant(tmp_path, {"run/systemd/sessions/3": session("wayland"), "proc/interrupts": interrupts(10, 10)})
    assert (True, 0.0) == it.read(600.0)


IOREG = """\
+-o Root  <class IORegistryEntry, id 0x100000100, retain 40>
  +-o IOHIDSystem  <class IOHIDSystem, id 0x10000042f, registered, matched, active>
      {
        "IOClass" = "IOHIDSystem"
        "HIDIdleTime" = 241000000000
        "HIDParameters" = {"HIDClickTime"=500000000}
      }
"""


def test_a_mac_counts_in_nanoseconds(tmp_path: Path) -> None:
    """The console belongs to who is logged in; IOKit tells the idle time."""
    plant(tmp_path, {"dev/console": ""})
    it = MacPresence(tmp_path, Programs(ioreg=IOREG))
    mine = os.getuid()
    display, idle_s = it.read(0.0)
    assert (mine != 0) == display
    assert (241.0 if mine else None) == idle_s
    assert (None, None) == MacPresence(tmp_path / "none", Programs()).read(0.0)

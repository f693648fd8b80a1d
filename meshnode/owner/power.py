"""Mains or battery, and the charge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from meshnode.owner.sources import listing, number, text


@dataclass(frozen=True, slots=True)
class Supply:
    """`percent` is the charge of all batteries together; None = unknown."""

    on_battery: bool | None = None
    percent: float | None = None


def linux(root: Path) -> Supply:
    """By `/sys/class/power_supply`. A machine with no battery of its own is on mains; a mouse's is not its own."""
    supplies = listing(root / "sys/class/power_supply")
    if supplies is None:
        return Supply()
    plugged: list[bool] = []
    states: list[str] = []
    charges: list[float] = []
    for supply in supplies:
        kind = text(supply / "type")
        if kind in ("Battery", "UPS") and text(supply / "scope") != "Device" and number(supply / "present") != 0:
            states.append(text(supply / "status") or "Unknown")
            charge = number(supply / "capacity")
            if charge is not None:
                charges.append(min(100.0, max(0.0, charge)))
        elif kind is not None and kind not in ("Battery", "UPS", "Wireless"):
            plugged.append(number(supply / "online") == 1)
    percent = sum(charges) / len(charges) if charges else None
    return Supply(_on_battery(plugged, states), percent)


def _on_battery(plugged: list[bool], states: list[str]) -> bool | None:
    if not states or any(plugged) or "Charging" in states:
        return False
    if "Discharging" in states or plugged:
        return True
    return None if set(states) == {"Unknown"} else False


def elsewhere() -> Supply:
    """By psutil, on other platforms."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):
        return Supply()
    if battery is None:
        return Supply(on_battery=False)
    plugged = battery.power_plugged
    return Supply(None if plugged is None else not plugged, float(battery.percent))

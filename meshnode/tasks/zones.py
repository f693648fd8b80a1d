"""Which zone contains which: `eu/berlin/store-12` lies in `eu/berlin` and in `eu`."""

from __future__ import annotations


def in_zone(zone: str, wanted: str) -> bool:
    """Whether a node in `zone` may run what is bound to `wanted`."""
    return zone == wanted or zone.startswith(f"{wanted}/")

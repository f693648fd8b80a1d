"""Which zone contains which: `eu/berlin/store-12` lies in `eu/berlin` and in `eu`. Pure.

A node's zone is what its grant names; what a node says of itself is shown to people and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshnode.errors import InvalidInput
from meshnode.trust.form import ZONE_CHARS_MAX


def in_zone(zone: str, wanted: str) -> bool:
    """Whether a node in `zone` may run what is bound to `wanted`."""
    return zone == wanted or zone.startswith(f"{wanted}/")


def inside(zone: str, bounds: Iterable[str]) -> bool:
    """Whether a node in `zone` may have what is bound to all of these."""
    return all(in_zone(zone, wanted) for wanted in bounds)


def kinship(zone: str, other: str) -> int:
    """In how many zones, one within the other, both lie."""
    count = 0
    for mine, theirs in zip(zone.split("/"), other.split("/"), strict=False):
        if mine != theirs or not mine:
            break
        count += 1
    return count


def checked_zone(zone: str) -> str:
    """The same, when it can be a zone. Raises InvalidInput."""
    parts = zone.split("/")
    if len(zone) > ZONE_CHARS_MAX or not zone.isprintable() or not all(part.strip() for part in parts):
        raise InvalidInput(
            f"{zone[:200]!r} cannot be a zone",
            hint=f"names with / between them, as in eu/berlin/store-12, {ZONE_CHARS_MAX} characters at most",
        )
    return zone

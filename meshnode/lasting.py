"""Settings of what is kept, and how long: memberships, and the record of what was done. Part of `meshnode.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meshnode.ranges import Within

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node that holds an admin key gives to others. The limits of trust itself are in `protocols/trust.md`."""

    renew: bool = True
    """Renew the memberships of nodes that ask before theirs end. Off = only by hand: `meshnode renew NODE`."""
    valid_days: Annotated[float, Within(1e-4, 3650)] = 365.0
    """So long are the certificates and grants that it gives. Shorter makes who was away longer than this and 30 days
    need a token; longer makes one that nobody revoked last."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The record of what was done here, `audit/` in the home: about 250 bytes a task."""

    enabled: bool = True
    keep_days: Annotated[float, Within(1, 36500)] = 90.0
    """Older files are removed…"""
    bytes_max: Annotated[int, Within(1 * MIB, 2**50)] = 512 * MIB
    """…and the oldest beyond this much together: two million tasks."""
    file_bytes: Annotated[int, Within(64 * KIB, 2**40)] = 64 * MIB
    """A file that has grown beyond this is followed by the next of the day."""

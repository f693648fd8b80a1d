"""Settings of how long memberships last. Part of `meshnode.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meshnode.ranges import Within


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node that holds an admin key gives to others. The limits of trust itself are in `protocols/trust.md`."""

    renew: bool = True
    """Renew the memberships of nodes that ask before theirs end. Off = only by hand: `meshnode renew NODE`."""
    valid_days: Annotated[float, Within(1e-4, 3650)] = 365.0
    """So long are the certificates and grants that it gives. Shorter makes who was away longer than this and 30 days
    need a token; longer makes one that nobody revoked last."""

"""Bytes over the links of one side, all together: counted where they are read and written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Bytes since the start, with what frames add and without what TLS and TCP do."""

    sent: int = 0
    received: int = 0

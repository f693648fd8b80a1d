"""How many bytes a second may pass. A core: it says how long to wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """A bucket that may be overdrawn by one taker at a time: pieces are larger than what a slow rate gathers.

    Args:
        bytes_s: bytes a second; 0 = no bound.
        burst_s: what was not used gathers for so long.
    """

    bytes_s: float
    burst_s: float = 0.25
    _free_at: float = float("-inf")
    """When all that was promised so far has passed."""

    def wait_s(self, now: float, nbytes: int) -> float:
        """So many bytes are to pass: how long they have to wait."""
        if self.bytes_s <= 0:
            return 0.0
        begins = max(self._free_at, now - self.burst_s)
        self._free_at = begins + nbytes / self.bytes_s
        return max(0.0, begins - now)

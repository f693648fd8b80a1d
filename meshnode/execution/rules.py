"""How tightly a worker is confined: what was set, and what its provider bears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshnode.config import Sandbox
from meshnode.sandbox import Profile

CPU = "CPUExecutionProvider"
TRIES = 2
"""Workers of the CPU with the whole of it, before one with less."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`models` are the folders that models may be read from."""

    models: tuple[Path, ...]
    sandbox: Sandbox = Sandbox.AUTO

    def arguments(self, provider: str, failures: int) -> list[str]:
        """For `confined`, when so many workers before this one did not become ready.

        An accelerator that does not work behind the filter is tried without, and its grade says so; unless the sandbox
        is required, for which its grade is too low anyway. The CPU's worker begins with the whole; where none starts,
        what is taken back is that files are restricted, since code may lie in places that nobody thought of.
        """
        if self.sandbox is Sandbox.OFF:
            profile = Profile.LIMITS
        elif provider == CPU:
            profile = Profile.CALLS if failures >= TRIES and self.sandbox is Sandbox.AUTO else Profile.FULL
        else:
            profile = Profile.LIMITS if failures else Profile.DEVICES
        return [profile, self.sandbox, *(str(path.resolve()) for path in self.models), "--"]

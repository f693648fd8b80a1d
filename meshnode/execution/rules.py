"""How tightly a worker is confined: what was set, and what its provider bears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshnode.config import Sandbox
from meshnode.sandbox import Profile

CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Rules:
    """`models` are the folders that models may be read from."""

    models: tuple[Path, ...]
    sandbox: Sandbox = Sandbox.AUTO

    def arguments(self, provider: str, failures: int) -> list[str]:
        """For `confined`, when so many workers before this one did not become ready.

        An accelerator that does not work behind the filter is tried without, and its grade says so; unless the sandbox
        is required. The CPU's worker always has the whole.
        """
        profile = Profile.FULL if provider == CPU else Profile.LIMITS if failures else Profile.DEVICES
        if self.sandbox is Sandbox.OFF:
            profile = Profile.LIMITS
        return [profile, self.sandbox, *(str(path.resolve()) for path in self.models), "--"]

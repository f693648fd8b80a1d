"""Whether traffic costs money: NetworkManager's word, on Linux."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from meshnode.owner.sources import Command, Run, run_program

METERED = {"u 1": True, "u 3": True, "u 2": False, "u 4": False}
"""yes, guessed yes, no, guessed no; 0 is unknown."""
READ_EVERY_S = 30.0


@dataclass(slots=True)
class LinuxNetwork:
    """By NetworkManager's property `Metered`, which follows the default route."""

    root: Path = Path("/")
    run: Run = run_program
    _busctl: Command = field(init=False)

    def __post_init__(self) -> None:
        name = "org.freedesktop.NetworkManager"
        words = ("busctl", "--system", "--auto-start=no", "get-property", name, f"/{name.replace('.', '/')}", name)
        self._busctl = Command((*words, "Metered"), self.run, READ_EVERY_S)

    def read(self, now: float) -> bool | None:
        """Whether the link is metered; None = unknown, as it is without NetworkManager."""
        if not (self.root / "run/NetworkManager").is_dir():
            return None
        answer = self._busctl.output(now)
        return METERED.get(answer[0].strip()) if answer else None

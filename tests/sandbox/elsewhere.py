"""A worker whose code needs a file that no rule knows of: `python -m tests.sandbox.elsewhere HOME PROFILE …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from meshnode import sandbox
from meshnode.execution import confined


def main() -> None:
    """See above."""
    home = Path(sys.argv.pop(1))
    enter = sandbox.enter

    def entered(*given: Any, **named: Any) -> sandbox.Confinement:
        confinement = enter(*given, **named)
        (home / "node.key").read_bytes()
        return confinement

    sandbox.enter = entered
    confined.main()


if __name__ == "__main__":
    main()

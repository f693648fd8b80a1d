"""An agent on a machine whose clock is wrong by so many seconds: `skewed.py SECONDS WORDS…`, as `meshnode WORDS…`.

The clock that is wrong is Python's `time.time`, which is what the agent reads; certificates are judged by it as well.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # the meshnode of this checkout, wherever this is started

from meshnode.cli.main import main

OFF_S = float(sys.argv.pop(1))
_true = time.time


def skewed() -> float:
    """What this machine takes the time for."""
    return _true() + OFF_S


if __name__ == "__main__":
    time.time = skewed
    main()

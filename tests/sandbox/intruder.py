"""A worker, begun as every worker, in which somebody tries things as soon as it is confined; then it goes on as ever.

`python -m tests.sandbox.intruder REPORT HOME MODELS PROFILE …`: the rest is `confined`'s. What came of each attempt is
written to the descriptor REPORT.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from meshnode import sandbox
from meshnode.execution import confined
from tests.sandbox import attempts


def main() -> None:
    """See above."""
    report, home, models = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    del sys.argv[1:4]
    enter = sandbox.enter

    def entered(*given: Any, **named: Any) -> sandbox.Confinement:
        began = time.perf_counter()
        confinement = enter(*given, **named)
        took_s = time.perf_counter() - began
        tried = {
            "took_s": took_s,
            "files": attempts.outcomes(attempts.files(home, models)),
            "system": attempts.outcomes(attempts.system(os.getppid())),
            "needed": attempts.outcomes(attempts.needed(models)),
        }
        os.write(report, json.dumps(tried).encode())
        os.close(report)
        return confinement

    sandbox.enter = entered
    confined.main()


if __name__ == "__main__":
    main()

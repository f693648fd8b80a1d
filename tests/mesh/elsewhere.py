"""`python -m tests.mesh.elsewhere ROOT WORDS…`: the command `meshnode WORDS` on a machine whose files lie in ROOT."""

from __future__ import annotations

import sys
from pathlib import Path

from meshnode.cli import main
from meshnode.owner.sensing import Machine

if __name__ == "__main__":
    defaults = Machine.__init__.__kwdefaults__
    assert defaults is not None
    defaults |= {"root": Path(sys.argv[1]), "run": lambda words: None, "platform": "linux"}
    sys.exit(main.run(sys.argv[2:]))

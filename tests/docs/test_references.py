"""The pages that are made of the code are what it says today."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.docs.pages import ROOT


def test_the_references_are_up_to_date() -> None:
    """docs/configuration.md and docs/cli.md; `scripts/reference` writes them anew."""
    done = subprocess.run(
        [sys.executable, "scripts/reference", "--check"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "40"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)

"""When Python looks for rings; each in a process of its own, since it is one for the process."""

from __future__ import annotations

import subprocess
import sys

SETTLED = """
import gc, weakref
from meshnode import collecting

class Ring:
    def __init__(self):
        self.itself = self

with collecting.loading():
    assert not gc.isenabled()
    life = Ring()
gone = weakref.ref(life)
collecting.settle()
print(gc.isenabled(), gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)
later = weakref.ref(Ring())
gc.collect()
print(later() is None)
del life
gc.collect()
print(gone() is None)
collecting.settle()
print(gone() is None)
"""


def test_what_was_loaded_is_not_looked_through_again() -> None:
    """Rings that are made later are found; those of a life that ended, when the next one has begun."""
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)
    assert ["True True True", "True", "False", "True"] == done.stdout.splitlines()

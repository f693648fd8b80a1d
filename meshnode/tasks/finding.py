"""The one node that a person means by a name or by the beginning of an id."""

from __future__ import annotations

from collections.abc import Sequence

from meshnode.errors import InvalidInput
from meshnode.membership.view import Member

ID_PREFIX_MIN = 4


def find_member(view: Sequence[Member], wanted: str) -> Member:
    """Raises InvalidInput when no node, or more than one, is meant."""
    exact = [m for m in view if wanted in (m.id, m.name)]
    found = exact or [m for m in view if len(wanted) >= ID_PREFIX_MIN and m.id.startswith(wanted)]
    for states in (("alive", "suspect"), ("dead",)):
        # A name belongs to who is there; a machine that left and joined anew is another node of the same name.
        if likely := [m for m in found if m.state in states]:
            found = likely
            break
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(m.id[:8] for m in found)
        raise InvalidInput(f"{len(found)} nodes are called {wanted!r}", hint=f"name it by its id: {ids}")
    raise InvalidInput(f"no node {wanted!r} in this mesh", hint="`meshnode status` lists the nodes")

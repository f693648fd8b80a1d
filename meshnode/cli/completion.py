"""Names for the shell's completion, asked of the agent; when it does not answer, there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshnode.errors import MeshError

if TYPE_CHECKING:
    from meshnode.blocking import Client


def _names(ask: Callable[[Client], list[str]], incomplete: str) -> list[str]:
    from meshnode.blocking import Client

    # While the shell completes, the options of the line are not parsed: MESHNODE_HOME or the default home is asked.
    try:
        with Client() as client:
            return sorted({name for name in ask(client) if name.startswith(incomplete)})
    except MeshError:
        return []


def model_names(incomplete: str) -> list[str]:
    """The models of the mesh."""
    return _names(lambda client: [model["name"] for model in client.models()], incomplete)


def node_names(incomplete: str) -> list[str]:
    """The nodes of the mesh that have not left."""
    return _names(lambda client: [n["name"] for n in client.status()["nodes"] if n["state"] != "left"], incomplete)

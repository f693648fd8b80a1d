"""The doors to programs of other kinds: opened when asked for, and what is missing is named."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from meshnode.doors import Grpc
from meshnode.edge.node import Node
from meshnode.edge.outside import Doors
from meshnode.errors import ToolMissing


async def test_a_door_without_its_packages_says_how_to_get_them(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC is an extra."""
    for name in [it for it in sys.modules if it.startswith("meshnode.edge.grpc.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    node.settings = replace(node.settings, grpc=Grpc(listen="127.0.0.1:0"))
    doors = Doors(node)
    with pytest.raises(ToolMissing) as caught:
        await doors.start()
    assert "pip install 'meshnode[grpc]'" == caught.value.hint
    await doors.stop()

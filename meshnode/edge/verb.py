"""What a verb of the local door is: the struct of its arguments, and who answers it with what becomes JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from meshnode.edge.node import Node

JSON = Any
Verbs: TypeAlias = "dict[str, tuple[type[Any], Callable[[Node, Any], Awaitable[JSON]]]]"


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A verb without arguments."""

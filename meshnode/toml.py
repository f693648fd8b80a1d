"""TOML as people write it, or one error: tomllib raises others beside its own, for numbers and nesting without end."""

from __future__ import annotations

import tomllib
from typing import Any


def read(text: str) -> dict[str, Any]:
    """The document. Raises ValueError, with the place where tomllib knows one."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None

"""TOML as people write it, or one error: tomllib raises others beside its own, for numbers and nesting without end."""

from __future__ import annotations

import tomllib
from typing import Any

from meshnode.errors import InvalidInput


def read(text: str) -> dict[str, Any]:
    """The document. Raises ValueError, with the place where tomllib knows one."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def given(text: str, what: str, bytes_max: int) -> dict[str, Any]:
    """The same of somebody's request: of so many bytes at most. Raises InvalidInput, which says `what` it is."""
    if (size := len(text.encode())) > bytes_max:
        raise InvalidInput(f"the {what} has {size} bytes; {bytes_max} are allowed")
    try:
        return read(text)
    except ValueError as error:
        raise InvalidInput(f"the {what} is no TOML: {error}") from error

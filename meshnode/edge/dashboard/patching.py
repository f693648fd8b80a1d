"""What changed between two documents, as a JSON merge patch (RFC 7396). Pure.

Documents hold no null: in a patch it says that something is gone. Lists are sent whole.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def pruned(value: Any) -> Any:
    """The same without null: what is not known is not there."""
    if isinstance(value, dict):
        return {key: pruned(item) for key, item in value.items() if item is not None}
    return [pruned(item) for item in value] if isinstance(value, list) else value


def difference(before: Object, now: Object) -> Object:
    """The patch that makes `now` of `before`; empty when nothing changed."""
    patch: Object = {key: None for key in before if key not in now}
    for key, value in now.items():
        old = before.get(key)
        if old is value or (old == value and type(old) is type(value)):
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            patch[key] = difference(old, value)
        else:
            patch[key] = value
    return patch

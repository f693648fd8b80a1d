"""What a setting may be where its type alone says too little: outside of its range nothing would work.

A rule stands beside its setting, in the annotation; what must hold between settings is in `contradictions`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, Protocol, get_type_hints

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Rule(Protocol):
    """What a value must be, once it is of the right type."""

    def check(self, value: Any) -> None:
        """Raises ValueError with what was expected."""
        ...


@dataclass(frozen=True, slots=True)
class Within:
    """A number from `low` to `high`, both ends included."""

    low: float
    high: float

    def check(self, value: float) -> None:
        """Raises ValueError with the range."""
        if not self.low <= value <= self.high:
            raise ValueError(f"expected {_number(self.low)} to {_number(self.high)}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Printable:
    """A text that others are shown."""

    characters_max: int

    def check(self, value: str) -> None:
        """Raises ValueError with the limit."""
        if len(value) > self.characters_max or not value.isprintable():
            raise ValueError(f"expected at most {self.characters_max} printable characters, not {_short(value)}")


@dataclass(frozen=True, slots=True)
class Labels:
    """A table of texts that travels in each advert: its bytes together are what an advert has room for."""

    count_max: int
    characters_max: int
    bytes_max: int

    def check(self, value: Mapping[str, str]) -> None:
        """Raises ValueError with the limits."""
        texts = [text for pair in value.items() for text in pair]
        limits = f"at most {self.count_max} labels of {self.characters_max} printable characters"
        if len(value) > self.count_max or any(len(t) > self.characters_max or not t.isprintable() for t in texts):
            raise ValueError(f"expected {limits}")
        if (nbytes := sum(len(text.encode()) for text in texts)) > self.bytes_max:
            raise ValueError(f"expected {limits}, {self.bytes_max} bytes together, not {nbytes} bytes")


def rules(part: type[Any], name: str) -> tuple[Rule, ...]:
    """What must hold for a setting of a part."""
    hint = get_type_hints(part, include_extras=True)[name]
    return getattr(hint, "__metadata__", ())


def contradictions(settings: Any) -> list[str]:
    """What does not hold between settings that are fine each for itself."""
    pairs = (
        ("membership", "probe_timeout_s", "probe_interval_s"),
        ("links", "frame_bytes", "stream_credit_bytes"),
        ("links", "small_body_bytes", "stream_credit_bytes"),
        ("links", "stream_credit_bytes", "connection_credit_bytes"),
        ("links", "body_bytes_max", "buffered_bytes_max"),
        ("links", "relay_retry_s", "relay_retry_max_s"),
        ("owner", "calm_share", "busy_share"),
        ("owner", "hot_below_c", "cool_above_c"),
        ("owner", "critical_below_c", "hot_below_c"),
    )
    found = []
    for part, small, large in pairs:
        least, most = (getattr(getattr(settings, part), name) for name in (small, large))
        if least > most:
            found.append(f"{part}.{small} = {least!r} is more than {part}.{large} = {most!r}")
    return found


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _short(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")


def apply(part: Any, values: Mapping[str, Any], where: str, mistakes: list[str]) -> Any:
    """Settings with `values` in place of theirs, nested as they are; what is wrong is added to `mistakes`."""
    known = {f.name: getattr(part, f.name) for f in fields(part)}
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            mistakes.append(f"{where}: unknown setting {key!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
        elif is_dataclass(known[key]) and isinstance(value, Mapping):
            changes[key] = apply(known[key], value, f"{where}: {key}", mistakes)
        else:
            try:
                changes[key] = _fit(known[key], value)
                for rule in rules(type(part), key):
                    rule.check(changes[key])
            except (TypeError, ValueError) as error:
                mistakes.append(f"{where}: {key}: {error}")
    return replace(part, **changes)


def _fit(default: Any, value: Any) -> Any:
    """The value as the type of the default; raises TypeError or ValueError with what was expected."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"expected true or false, not {value!r}")
        return value
    if isinstance(default, (int, float)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"expected a number, not {value!r}")
        if not 0 <= value < math.inf:
            raise ValueError(f"expected a number >= 0, not {value!r}")
        if isinstance(default, int) and value != int(value):
            raise ValueError(f"expected a whole number, not {value!r}")
        return type(default)(value)
    if isinstance(default, Enum):
        try:
            return type(default)(value)
        except ValueError:
            raise ValueError(f"expected one of {', '.join(type(default))}, not {value!r}") from None
    if isinstance(default, str):
        if not isinstance(value, str):
            raise TypeError(f"expected text, not {value!r}")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise TypeError(f"expected a list of texts, not {value!r}")
        return tuple(value)
    if isinstance(default, dict):
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            raise TypeError(f"expected a table of texts, not {value!r}")
        return dict(value)
    raise TypeError(f"expected a table, not {value!r}")


def amount(text: str | int) -> int:
    """Bytes, from `4GB`, `512 MiB` or a number. Raises ValueError."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f"{text!r} is no amount of memory: write it as 4GB or 512MiB")
    try:
        return round(float(match[1]) * UNITS[match[2].upper()])
    except OverflowError as error:
        raise ValueError(f"{text[:40]!r}… is more memory than there is") from error

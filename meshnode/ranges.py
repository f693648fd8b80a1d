"""What a setting may be where its type alone says too little: outside of its range nothing would work.

A rule stands beside its setting, in the annotation; what must hold between settings is in `contradictions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints


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

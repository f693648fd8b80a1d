"""Whether foreign work is taken now, and the reason when it is not: the whole decision, as a core.

Events: what the sensors say (`Sensed`), and the owner's own word (`ByHand`). Effects: `Changed` at once, for those who
act on it here, and `Tell`, at most one in `TELL_S`, for the others. A cause must last before it counts where a passing
one is normal (heat, other programs), has one threshold to come and another to go, and an automatic pause lasts at least
`settle_s`: nothing flaps. What a sensor cannot say pauses nothing, with one exception: a machine with a display
whose input cannot be observed is taken for one whose owner is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from meshnode.config import Manners, Owner

TELL_S = 2.0
"""Others hear of a change at most once in so many seconds."""
CHARGE_STEP = 5.0
"""Percent; a smaller change of the charge is not worth a new reason."""
FLOOR_RISE = 5.0
"""Percent above the lowest charge until a free machine takes work on battery again."""

OFF = "its owner lends nothing (manners = off)"
CRITICAL = "critically hot"
OWNER = "owner is here"
UNSURE = "owner may be here: input cannot be observed"
METERED = "on a metered link"
HOT = "too hot"
BUSY = "busy with other programs"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors say at one moment; None = unknown.

    `display`: somebody is logged in at a display. `idle_s`: seconds since the last input. `charge_percent` is 0..100.
    `headroom_c`: degrees Celsius below the machine's critical mark. `throttled`: the processor is slowed down by heat.
    `others_cpu`: the share of all processors that other programs use, 0..1.
    """

    display: bool | None = None
    idle_s: float | None = None
    on_battery: bool | None = None
    charge_percent: float | None = None
    headroom_c: float | None = None
    throttled: bool | None = None
    metered: bool | None = None
    others_cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Sensed:
    """The sensors were read."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class ByHand:
    """The owner pauses, with this reason, or with "" ends that pause."""

    reason: str


Event = Sensed | ByHand


@dataclass(frozen=True, slots=True)
class Changed:
    """From now on: the reason for taking no foreign work, or "" to take it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    """The others are to hear this reason."""

    reason: str


Effect = Changed | Tell


@dataclass(slots=True)
class Latch:
    """A condition that comes only after it held for `on_after_s`, and goes after its end held for `off_after_s`."""

    on_after_s: float
    off_after_s: float
    on: bool = False
    _since: float | None = None

    def see(self, now: float, *, rise: bool, fall: bool) -> bool:
        """Whether it holds now; between the two thresholds neither `rise` nor `fall` is true and nothing moves."""
        if not (fall if self.on else rise):
            self._since = None
            return self.on
        if self._since is None:
            self._since = now
        if now - self._since >= (self.off_after_s if self.on else self.on_after_s):
            self.on, self._since = not self.on, None
        return self.on


@dataclass(slots=True)
class Politeness:
    """The owner's manners at work.

    Args:
        battery_floor: percent; below it a free machine takes nothing on battery.

    Attributes:
        reason: why no foreign work is taken now, or "".
        told: the reason that others heard last.
    """

    manners: Manners
    settings: Owner
    battery_floor: float
    reason: str = ""
    told: str = ""
    _by_hand: str = ""
    _cause: str = ""
    _cause_since: float = 0.0
    _told_at: float | None = None
    _charge: float | None = None
    _critical: Latch = field(init=False)
    _hot: Latch = field(init=False)
    _busy: Latch = field(init=False)
    _flat: Latch = field(init=False)

    def __post_init__(self) -> None:
        s = self.settings
        self._critical = Latch(0.0, s.cool_after_s)
        self._hot = Latch(s.hot_after_s, s.cool_after_s)
        self._busy = Latch(s.busy_after_s, s.calm_after_s)
        self._flat = Latch(0.0, 0.0)
        if self.manners is Manners.OFF:
            self.reason = self.told = OFF

    def handle(self, now: float, event: Event | None = None) -> list[Effect]:
        """One event, or None for a deadline; returns what changed."""
        match event:
            case None:
                pass
            case Sensed(reading):
                self._settle(now, self._automatic(now, reading))
            case ByHand(reason):
                self._by_hand = reason
            case _:
                assert_never(event)
        effects: list[Effect] = []
        reason = OFF if self.manners is Manners.OFF else self._by_hand or self._cause
        if reason != self.reason:
            self.reason = reason
            effects.append(Changed(reason))
        if self.told != self.reason and (self._told_at is None or now - self._told_at >= TELL_S):
            self.told, self._told_at = self.reason, now
            effects.append(Tell(self.reason))
        return effects

    def next_deadline(self) -> float | None:
        """When `handle(now)` wants to be called without an event, in monotonic seconds."""
        if self.told != self.reason and self._told_at is not None:
            return self._told_at + TELL_S
        return None

    def _settle(self, now: float, cause: str) -> None:
        """A cause counts at once; its end only when the pause was long enough."""
        if cause:
            if not self._cause:
                self._cause_since = now
            self._cause = cause
        elif now - self._cause_since >= self.settings.settle_s:
            self._cause = ""

    def _automatic(self, now: float, it: Reading) -> str:
        """What speaks against foreign work, the weightiest first. Every latch sees every reading."""
        s = self.settings
        headroom_c = it.headroom_c
        critical = self._critical.see(
            now,
            rise=headroom_c is not None and headroom_c <= s.critical_below_c,
            fall=headroom_c is None or headroom_c >= s.cool_above_c,
        )
        hot = self._hot.see(
            now,
            rise=it.throttled is True or (headroom_c is not None and headroom_c <= s.hot_below_c),
            fall=it.throttled is not True and (headroom_c is None or headroom_c >= s.cool_above_c),
        )
        busy = self._busy.see(
            now,
            rise=it.others_cpu is not None and it.others_cpu >= s.busy_share,
            fall=it.others_cpu is None or it.others_cpu <= s.calm_share,
        )
        battery = self._battery(now, it)
        if critical:
            return CRITICAL
        if battery or self.manners is Manners.FREE:
            return battery
        if it.display and it.idle_s is None:
            return UNSURE
        if it.display and it.idle_s is not None and it.idle_s < s.away_s:
            return OWNER
        if it.metered:
            return METERED
        if hot:
            return HOT
        return BUSY if busy and it.display else ""

    def _battery(self, now: float, it: Reading) -> str:
        """`on battery (63 %)` when that speaks against foreign work."""
        charge = it.charge_percent
        flat = self._flat.see(
            now,
            rise=it.on_battery is True and charge is not None and charge < self.battery_floor,
            fall=it.on_battery is not True or charge is None or charge >= self.battery_floor + FLOOR_RISE,
        )
        if not it.on_battery or (self.manners is Manners.FREE and not flat):
            self._charge = None
            return ""
        if charge is None:
            return "on battery"
        if self._charge is None or abs(charge - self._charge) >= CHARGE_STEP:
            self._charge = charge
        return f"on battery ({self._charge:.0f} %)"

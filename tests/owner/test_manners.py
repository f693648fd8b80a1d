"""The decision: what pauses, in which order, how long, and that nothing flaps."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import Manners, Owner
from meshnode.owner.manners import (
    BUSY,
    CRITICAL,
    HOT,
    METERED,
    OFF,
    OWNER,
    TELL_S,
    UNSURE,
    ByHand,
    Changed,
    Event,
    Latch,
    Politeness,
    Reading,
    Sensed,
    Tell,
)

FLOOR = 40.0
SETTINGS = Owner()
NOTHING = Reading()
SERVER = Reading(display=False, on_battery=False, headroom_c=40.0, metered=False)
AWAY = Reading(display=True, idle_s=600.0, on_battery=False, headroom_c=40.0, metered=False, others_cpu=0.01)
HERE = dataclasses.replace(AWAY, idle_s=3.0)


def core(manners: Manners = Manners.POLITE) -> Politeness:
    return Politeness(manners, SETTINGS, FLOOR)


def settled(manners: Manners, reading: Reading) -> str:
    """The reason after the machine was like this for a while."""
    it = core(manners)
    for now in range(100):
        it.handle(float(now), Sensed(reading))
    return it.reason


@pytest.mark.parametrize(
    ("reading", "polite", "free"),
    [
        (NOTHING, "", ""),
        (SERVER, "", ""),
        (AWAY, "", ""),
        (HERE, OWNER, ""),
        (dataclasses.replace(AWAY, idle_s=179.9), OWNER, ""),
        (dataclasses.replace(AWAY, idle_s=180.0), "", ""),
        (dataclasses.replace(AWAY, idle_s=None), UNSURE, ""),
        (dataclasses.replace(SERVER, idle_s=0.0), "", ""),
        (dataclasses.replace(AWAY, others_cpu=0.3), BUSY, ""),
        (dataclasses.replace(SERVER, others_cpu=1.0), "", ""),
        (dataclasses.replace(AWAY, metered=True), METERED, ""),
        (dataclasses.replace(SERVER, metered=True), METERED, ""),
        (dataclasses.replace(AWAY, headroom_c=5.0), HOT, ""),
        (dataclasses.replace(AWAY, throttled=True), HOT, ""),
        (dataclasses.replace(SERVER, headroom_c=2.0), CRITICAL, CRITICAL),
        (dataclasses.replace(SERVER, on_battery=True, charge_percent=63.4), "on battery (63 %)", ""),
        (dataclasses.replace(SERVER, on_battery=True, charge_percent=39.0), "on battery (39 %)", "on battery (39 %)"),
        (dataclasses.replace(SERVER, on_battery=True), "on battery", ""),
        (dataclasses.replace(HERE, on_battery=True, charge_percent=80.0), "on battery (80 %)", ""),
        (dataclasses.replace(HERE, on_battery=True, headroom_c=0.0), CRITICAL, CRITICAL),
    ],
)
def test_what_speaks_against_foreign_work(reading: Reading, polite: str, free: str) -> None:
    """Each cause by itself and the weightiest of several, for each of the manners; what is unknown pauses nothing."""
    assert polite == settled(Manners.POLITE, reading)
    assert free == settled(Manners.FREE, reading)
    assert OFF == settled(Manners.OFF, reading)


def test_the_owner_is_heard_at_once_and_trusted_to_stay_a_while() -> None:
    """Input pauses with the reading that shows it; the pause ends only when there was none for three minutes."""
    it = core()
    assert [] == it.handle(0.0, Sensed(AWAY))
    assert [Changed(OWNER), Tell(OWNER)] == it.handle(1.0, Sensed(HERE))
    assert [] == it.handle(100.0, Sensed(dataclasses.replace(AWAY, idle_s=99.0)))
    assert [Changed(""), Tell("")] == it.handle(181.0, Sensed(AWAY))


def test_the_owners_word_is_above_what_is_sensed() -> None:
    """A pause by hand holds on an idle machine, and its end uncovers what the sensors say."""
    it = core()
    it.handle(0.0, Sensed(AWAY))
    assert [Changed("paused by hand"), Tell("paused by hand")] == it.handle(1.0, ByHand("paused by hand"))
    assert [] == it.handle(2.0, Sensed(HERE))
    assert [Changed(OWNER), Tell(OWNER)] == it.handle(9.0, ByHand(""))


def test_who_lends_nothing_is_not_asked() -> None:
    """With manners = off neither hand nor sensor changes anything, and the first advert says so."""
    it = core(Manners.OFF)
    assert OFF == it.told
    assert [] == it.handle(0.0, ByHand("paused by hand"))
    assert [] == it.handle(1.0, ByHand(""))
    assert [] == it.handle(2.0, Sensed(HERE))


def test_a_passing_cause_pauses_for_a_moment_that_is_worth_it() -> None:
    """An automatic pause lasts at least `settle_s`."""
    it = core()
    it.handle(0.0, Sensed(dataclasses.replace(SERVER, metered=True)))
    assert [] == it.handle(1.0, Sensed(SERVER))
    assert METERED == it.reason
    assert [Changed(""), Tell("")] == it.handle(SETTINGS.settle_s, Sensed(SERVER))


def test_others_hear_the_last_of_several_changes() -> None:
    """What changes within two seconds is told once, at the deadline that the core asks for, as it is then."""
    it = core()
    assert [Changed("a"), Tell("a")] == it.handle(0.0, ByHand("a"))
    assert it.next_deadline() is None
    assert [Changed("")] == it.handle(0.5, ByHand(""))
    assert [Changed("b")] == it.handle(1.0, ByHand("b"))
    assert TELL_S == it.next_deadline()
    assert [Tell("b")] == it.handle(TELL_S)
    assert it.next_deadline() is None


def test_what_ends_before_it_was_told_is_not_told() -> None:
    """A change that was taken back in time costs nobody anything."""
    it = core()
    it.handle(0.0, ByHand("a"))
    it.handle(0.5, ByHand(""))
    it.handle(0.6, ByHand("a"))
    assert it.next_deadline() is None
    assert [] == it.handle(TELL_S)


def test_the_charge_is_told_in_steps() -> None:
    """A battery that empties slowly makes a new reason every five percent."""
    it = core()
    reasons = []
    for step in range(200):
        charge = 90.0 - step * 0.1
        it.handle(float(step * 10), Sensed(dataclasses.replace(SERVER, on_battery=True, charge_percent=charge)))
        reasons.append(it.reason)
    assert ["on battery (90 %)", "on battery (85 %)", "on battery (80 %)", "on battery (75 %)"] == list(
        dict.fromkeys(reasons)
    )


def test_a_free_machine_on_battery_waits_for_more_than_the_floor() -> None:
    """Around the lowest charge nothing flaps: it takes work again five percent above, or on mains."""
    it = core(Manners.FREE)
    taken = []
    for now, charge in enumerate((45.0, 39.9, 40.1, 44.9, 45.0)):
        it.handle(now * 60.0, Sensed(Reading(on_battery=True, charge_percent=charge)))
        taken.append(not it.reason)
    assert [True, False, False, False, True] == taken


def test_a_burst_of_heat_or_work_is_normal() -> None:
    """Other programs count after ten seconds, and until they were calm for thirty; between the marks nothing moves."""
    it = core()

    def at(now: float, share: float) -> str:
        it.handle(now, Sensed(dataclasses.replace(AWAY, others_cpu=share)))
        return it.reason

    assert ["", "", "", ""] == [at(0, 0.9), at(9, 0.9), at(10, 0.2), at(15, 0.9)]
    assert ["", BUSY] == [at(24, 0.9), at(25, 0.9)]
    assert [BUSY, BUSY, BUSY] == [at(60, 0.2), at(61, 0.1), at(90, 0.1)]
    assert "" == at(91, 0.1)


def test_a_latch_has_two_thresholds_and_two_times() -> None:
    """It moves only after the whole time, and starts to count anew when the cause was interrupted."""
    it = Latch(on_after_s=2.0, off_after_s=3.0)
    seen = [
        it.see(now, rise=rise, fall=fall)
        for now, rise, fall in (
            (0.0, True, False),
            (1.0, False, True),
            (2.0, True, False),
            (4.0, True, False),
            (5.0, False, True),
            (7.0, False, False),
            (8.0, False, True),
            (11.0, False, True),
        )
    ]
    assert [False, False, False, True, True, True, True, False] == seen


unsure_bool = st.none() | st.booleans()
readings = st.builds(
    Reading,
    display=unsure_bool,
    idle_s=st.none() | st.floats(0, 1000),
    on_battery=unsure_bool,
    charge_percent=st.none() | st.floats(0, 100),
    headroom_c=st.none() | st.floats(-5, 60),
    throttled=unsure_bool,
    metered=unsure_bool,
    others_cpu=st.none() | st.floats(0, 1),
)
events = st.lists(st.tuples(st.floats(0.1, 20), st.builds(Sensed, readings)), max_size=60)
anything = st.lists(
    st.tuples(
        st.floats(0.01, 20),
        st.none() | st.builds(Sensed, readings) | st.sampled_from([ByHand(""), ByHand("paused by hand")]),
    ),
    max_size=60,
)


@given(st.sampled_from(Manners), events)
def test_the_sensors_cannot_make_it_flap(manners: Manners, steps: list[tuple[float, Event]]) -> None:
    """Whatever they say and how fast: from a pause to the end of it `settle_s` pass."""
    it, now, since, paused = core(manners), 0.0, 0.0, manners is Manners.OFF
    for step_s, event in steps:
        now += step_s
        it.handle(now, event)
        if bool(it.reason) != paused:
            paused = not paused
            assert paused or now - since >= SETTINGS.settle_s
            since = now


@given(st.sampled_from(Manners), anything)
def test_every_change_has_its_reason_and_gossip_is_spared(
    manners: Manners, steps: list[tuple[float, Event | None]]
) -> None:
    """Effects tell exactly the changes, reasons fit an advert, and two words to the others are `TELL_S` apart."""
    it, now = core(manners), 0.0
    reason, told, told_at = it.reason, it.told, -TELL_S
    for step_s, event in steps:
        now += step_s
        for effect in it.handle(now, event):
            match effect:
                case Changed(new):
                    assert new != reason
                    reason = new
                case Tell(new):
                    assert new != told
                    assert new == it.reason
                    assert now - told_at >= TELL_S
                    told, told_at = new, now
        assert (reason, told) == (it.reason, it.told)
        assert len(reason) <= 128
        assert reason.isprintable()
        deadline = it.next_deadline()
        assert (deadline is None) == (reason == told)


@given(st.lists(st.tuples(st.floats(0.1, 5), readings), min_size=1, max_size=40))
def test_it_always_comes_back(steps: list[tuple[float, Reading]]) -> None:
    """After any past, a calm server takes work again within the longest of the times."""
    it, now = core(), 0.0
    for step_s, reading in steps:
        now += step_s
        it.handle(now, Sensed(reading))
    longest_s = max(SETTINGS.cool_after_s, SETTINGS.calm_after_s, SETTINGS.settle_s)
    for _ in range(int(longest_s) + 2):
        now += 1.0
        it.handle(now, Sensed(SERVER))
    assert "" == it.reason

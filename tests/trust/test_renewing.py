"""When a membership is due, and who has nothing to renew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshnode.trust.grants import LATE_S, Grant
from meshnode.trust.renewing import Term, grant_is_due, outlook
from meshnode.wire.messages import NodeId

DAY = 86400
NODE = NodeId("a" * 52)


def grant(begins: int, ends: int, *, final: bool = False, quarantine: str = "") -> Grant:
    return Grant(NODE, "n", frozenset(), (), NODE, begins, ends, bytes(32), quarantine=quarantine, final=final)


def test_a_year_is_renewed_from_its_last_third_and_told_in_its_last_month() -> None:
    """Of certificate and grant, whichever comes first."""
    year = 360 * DAY
    ahead = outlook(Term(0, year), grant(30 * DAY, 30 * DAY + year), signer_lasts=True)

    assert (240 * DAY, 330 * DAY, year) == (ahead.due_at, ahead.urgent_at, ahead.ends_at)
    later = outlook(Term(90 * DAY, 90 * DAY + year), grant(30 * DAY, 30 * DAY + year), signer_lasts=True)
    assert (270 * DAY, 390 * DAY) == (later.due_at, later.ends_at)


def test_a_certificate_of_who_is_no_admin_any_more_is_due_at_once() -> None:
    """However long it is valid."""
    assert 7 == outlook(Term(7, 9000), grant(7, 9000), signer_lasts=False).due_at


def test_a_set_end_is_not_put_off() -> None:
    """The certificate is renewed up to it and no further; nobody is alarmed about what was meant."""
    short = outlook(Term(0, 300), grant(0, 900, final=True), signer_lasts=True)
    full = outlook(Term(0, 900), grant(0, 900, final=True), signer_lasts=True)

    assert (200, 300, True) == (short.due_at, short.ends_at, short.final)
    assert (float("inf"), float("inf"), 900) == (full.due_at, full.urgent_at, full.ends_at)


@given(st.integers(0, 2**40), st.integers(1, 2**33), st.integers(0, 2**41))
def test_an_admin_grants_anew_only_in_the_last_third(begins: int, life: int, now: int) -> None:
    """Not before, not what is final, not who is in quarantine; and who is due is still let in."""
    ends = begins + life
    due = grant_is_due(grant(begins, ends), now)

    assert due == (3 * (ends - now) <= life) or abs(3 * (ends - now) - life) <= 1  # a float's last digit
    assert not grant_is_due(grant(begins, ends, final=True), now)
    assert not grant_is_due(grant(begins, ends, quarantine="doubt"), now)
    assert (ends + LATE_S, ends) == (grant(begins, ends).ends_at, grant(begins, ends, final=True).ends_at)

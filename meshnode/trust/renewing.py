"""When a membership is renewed: a certificate and a grant each have a last third, and it begins there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.trust.grants import Grant

SHARE = 1 / 3
"""Of its life is left when a renewal is first asked for: four months of a year, for laptops sleep for weeks."""
URGENT = 1 / 12
"""Of its life is left, a month of a year, and people are told that nobody has renewed it."""


@dataclass(frozen=True, slots=True)
class Term:
    """From when until when something is valid, UTC seconds."""

    begins: float
    ends: float

    def left(self, share: float) -> float:
        """When so much of it is left."""
        return self.ends - (self.ends - self.begins) * share


@dataclass(frozen=True, slots=True)
class Outlook:
    """What of a membership is to be renewed, and when.

    `due_at` is when that begins, `urgent_at` when it should have been done, `ends_at` when the first of the two ends.
    `final` says why nothing will be: an admin set the end.
    """

    due_at: float
    urgent_at: float
    ends_at: float
    final: bool


def term_of(grant: Grant) -> Term:
    """A grant's."""
    return Term(grant.granted_at, grant.expires_at)


def outlook(leaf: Term, grant: Grant, *, signer_lasts: bool) -> Outlook:
    """When the membership of a node with this certificate and grant is due.

    At once when who signed the former is no admin any more, and no batch invite that holds.
    """
    terms = [leaf] if grant.final else [leaf, term_of(grant)]
    if grant.final and leaf.ends >= grant.expires_at:
        terms = []
    due, urgent = (min((term.left(share) for term in terms), default=float("inf")) for share in (SHARE, URGENT))
    if not signer_lasts:
        due = leaf.begins
    return Outlook(due, urgent, min(leaf.ends, grant.expires_at), grant.final)


def grant_is_due(grant: Grant, now: float) -> bool:
    """Whether an admin that is asked grants it anew: it is not asked for more statements than needed."""
    return not grant.final and not grant.quarantine and now >= term_of(grant).left(SHARE)

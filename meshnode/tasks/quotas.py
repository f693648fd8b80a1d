"""How much of this node a submitter gets: the limits of the policy, and a fair share while others want it too.

A core, told the time; a refusal says when to come again. Limits are token buckets. Fairness is decided at admission
and needs no other order in the line: for each submitter there is a count of the compute that was let in and of what has
run, and who was let in for more than has run of another that asks at the moment comes in only when a slot is idle. So a
flood holds up another's task by one run, whatever priority it claims, while a node with one submitter refuses nothing.
The price: as long as somebody else asks too, tasks of the one who is ahead do not wait here, and what does not wait is
not run in batches. Counts of those that were away begin where the others are: who was idle has saved `CREDIT_S`.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, field

from msgspec import Struct

from meshnode.errors import Refused
from meshnode.trust.policy import Quota
from meshnode.wire.messages import Digest, NodeId

ACTIVE_S = 2.0
"""Who asked within this time wants a share."""
FORGET_S = 120.0
"""A minute's bucket is full again by then."""
AHEAD_S = 0.25
"""So much more compute than another one may have had without being ahead: two that both flood take turns this long."""
CREDIT_S = 0.5
COST_PRIOR_S = 0.02
"""Of a run of a model that never ran here."""
COST_NEW = 0.3
"""Weight of the last run."""
RETRY_MIN_S, RETRY_MAX_S = 0.02, 1.0
SUBMITTERS_MAX = 4096
MODELS_MAX = 1024


@dataclass(slots=True)
class _Bucket:
    """May go below zero; who comes then waits."""

    tokens: float
    at: float

    def fill(self, now: float, rate: float, most: float) -> None:
        self.tokens = min(most, self.tokens + (now - self.at) * rate)
        self.at = now


@dataclass(slots=True)
class _Account:
    given_s: float = 0.0
    """Compute of all that was let in."""
    served_s: float = 0.0
    """Of what has run."""
    asked_at: float = -ACTIVE_S
    open: int = 0
    buckets: dict[str, _Bucket] = field(default_factory=dict)


class Ticket(Struct, frozen=True):
    """A task that was let in; give it back with `left`."""

    submitter: NodeId
    model: Digest
    cost_s: float


@dataclass(slots=True)
class Quotas:
    """See the module's docstring; times are monotonic seconds."""

    _accounts: OrderedDict[NodeId, _Account] = field(default_factory=OrderedDict)
    _costs: OrderedDict[Digest, float] = field(default_factory=OrderedDict)
    _open: int = 0
    _open_s: float = 0.0

    def check(self, now: float, submitter: NodeId, model: Digest, quota: Quota, slots: int) -> None:
        """Would a task be let in now? Raises Refused."""
        account = self._of(now, submitter)
        self._check_quota(now, account, quota)
        self._check_share(now, account, slots)

    def enter(
        self, now: float, submitter: NodeId, model: Digest, quota: Quota, slots: int, input_bytes: int = 0
    ) -> Ticket:
        """A task comes. Raises Refused."""
        self.check(now, submitter, model, quota, slots)
        account, cost_s = self._accounts[submitter], self._costs.get(model, COST_PRIOR_S)
        account.open += 1
        account.given_s += cost_s
        self._open += 1
        self._open_s += cost_s
        for name, spent in (("tasks_s", 1.0), ("bytes_s", input_bytes), ("compute_s_minute", cost_s)):
            if name in account.buckets:
                account.buckets[name].tokens -= spent
        return Ticket(submitter, model, cost_s)

    def left(self, ticket: Ticket, run_s: float | None) -> None:
        """It is over; `run_s` is the compute that it took, None when it did not run to its end."""
        self._open -= 1
        self._open_s = max(0.0, self._open_s - ticket.cost_s) if self._open else 0.0
        account = self._accounts.get(ticket.submitter)
        if run_s is not None:
            known = self._costs.pop(ticket.model, run_s)
            self._costs[ticket.model] = known + COST_NEW * (run_s - known)
            if len(self._costs) > MODELS_MAX:
                self._costs.popitem(last=False)
        if account is None:
            return
        account.open -= 1
        took_s = 0.0 if run_s is None else run_s
        owed_s = took_s - ticket.cost_s
        account.given_s += owed_s
        account.served_s += took_s
        if "compute_s_minute" in account.buckets:
            account.buckets["compute_s_minute"].tokens -= owed_s

    # --- inside ---

    def _of(self, now: float, submitter: NodeId) -> _Account:
        account = self._accounts.pop(submitter, None) or _Account()
        self._accounts[submitter] = account
        others = self._others(now, account)
        if others:
            most = max(it.served_s for it in others)
            away = now - account.asked_at > ACTIVE_S and not account.open  # what it had before is forgotten
            start_s = min(account.served_s, most) if away else account.served_s
            shift_s = max(start_s, most - CREDIT_S) - account.served_s
            account.given_s += shift_s
            account.served_s += shift_s
        account.asked_at = now
        for oldest, it in list(itertools.islice(self._accounts.items(), 2)):  # two for each that comes: it never grows
            if not it.open and (now - it.asked_at > FORGET_S or len(self._accounts) > SUBMITTERS_MAX):
                del self._accounts[oldest]
        return account

    def _others(self, now: float, account: _Account) -> list[_Account]:
        """Who else wants something at the moment."""
        return [
            it for it in self._accounts.values() if it is not account and (it.open or now - it.asked_at <= ACTIVE_S)
        ]

    def _check_share(self, now: float, account: _Account, slots: int) -> None:
        if self._open < slots:
            return
        others = self._others(now, account)
        if all(account.given_s <= it.served_s + AHEAD_S for it in others):
            return
        retry_s = min(max(self._open_s / slots / 2, RETRY_MIN_S), RETRY_MAX_S)
        raise Refused("others want this node too, and this submitter had its share of it", retry_after_s=retry_s)

    def _check_quota(self, now: float, account: _Account, quota: Quota) -> None:
        if quota.concurrent and account.open >= quota.concurrent:
            raise Refused(
                f"{account.open} tasks of this submitter are here: quota.concurrent = {quota.concurrent}",
                retry_after_s=max(self._open_s / max(1, self._open), RETRY_MIN_S),
            )
        rates = (
            ("tasks_s", float(quota.tasks_s), float(max(1, quota.tasks_s))),
            ("bytes_s", float(quota.bytes_s), float(quota.bytes_s)),
            ("compute_s_minute", quota.compute_s_minute / 60, float(quota.compute_s_minute)),
        )
        for name, rate, most in rates:
            if not rate:
                account.buckets.pop(name, None)
                continue
            bucket = account.buckets.setdefault(name, _Bucket(most, now))
            bucket.fill(now, rate, most)
            short = (1.0 if name == "tasks_s" else 0.0) - bucket.tokens
            if short > 0 or (name != "tasks_s" and short == 0):
                limit = getattr(quota, name)
                raise Refused(
                    f"this submitter has used up quota.{name} = {limit}",
                    retry_after_s=min(max(short / rate, RETRY_MIN_S), 60.0),
                )

"""What is believed about everyone, and what news does to it: roster, suspicions and what is to be told. A core.

`learn` is the one way in. Accusations by others pass four judges: the signature, the accuser's rate, this node's own
ears (whoever was heard from lately is told of the accusation and not suspected), and time: another's verdict only
shortens this node's own suspicion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from meshnode.config import Membership as Settings
from meshnode.membership import updates
from meshnode.membership.alarms import Alarms
from meshnode.membership.dissemination import News
from meshnode.membership.events import Changed, Effect, Reborn, Send, Sync
from meshnode.membership.oneself import Oneself
from meshnode.membership.pace import BULK, Defence, Reminders
from meshnode.membership.roster import Roster, Row, raw_id
from meshnode.membership.rules import Rules
from meshnode.membership.suspicion import CONFIRMATIONS, Accusers, Suspicion, Suspicions, shortest_s
from meshnode.membership.updates import AnyUpdate, Dead, Gossip, Left, Suspect
from meshnode.wire.messages import NodeId

OLD_S = 60.0
"""What has been so for this long is told to those who ask, and is no news."""
AGED_SHARE = 0.5
"""A tombstone is spoken of for this share of the time that it is kept."""
TELL_AGAIN_S = 3.0
"""So often is a suspect told again by whoever accused it: what was told first may have been lost with the network."""
TOMBSTONES_MIN = 1024
"""So many are kept in any mesh; in larger ones as many as there are members."""


@dataclass(slots=True)
class Ledger:
    """See the module's docstring.

    Args:
        heard: when a node was last heard from, monotonic seconds; -inf for never.
        refuted: told that this node had to defend itself.
    """

    oneself: Oneself
    roster: Roster
    settings: Settings
    rules: Rules
    heard: Callable[[NodeId], float]
    refuted: Callable[[], None]
    me: NodeId = field(init=False)
    news: News = field(init=False)
    suspicions: Suspicions = field(default_factory=Suspicions)
    _accusers: Accusers = field(default_factory=Accusers)
    _proofs: Reminders = field(default_factory=Reminders)
    _defence: Defence = field(default_factory=Defence)
    _died: dict[NodeId, float] = field(default_factory=dict)
    _tomb_at: dict[NodeId, float] = field(default_factory=dict)
    """The nearest alarm of each tombstone: one a node, however often it comes and goes."""
    _alarms: Alarms[tuple[Literal["tell", "tomb"], NodeId]] = field(default_factory=Alarms)

    def __post_init__(self) -> None:
        self.me = self.roster.id_text(self.oneself.raw)
        self.news = News(self.settings.retransmit_mult, self.rules.feedback)
        self.roster.put(self.own_row())

    # --- time ---

    def next(self) -> float:
        """When `ring` is due."""
        return min(self.suspicions.next(), self._alarms.next(), self._defence.next())

    def ring(self, now: float, effects: list[Effect], *, blind: bool) -> None:
        """Suspicions become verdicts, unless this node is blind; suspects, accusers and tombstones get their due."""
        owed = self._defence.owed
        if owed is not None and self._defence.next() <= now:
            self._defence.owed = None
            self._about_me(now, owed, effects, None)
        if not blind:
            for node, suspicion in self.suspicions.due(now):
                self._verdict(now, node, suspicion, effects)
        for what, node in self._alarms.due(now):
            if what == "tell":
                self._tell_again(now, node, effects)
            else:
                self._tomb(now, node)

    def evict(self, now: float, node: NodeId, effects: list[Effect]) -> None:
        """A member was thrown out: it is gone, whatever is said, and not spoken of."""
        row = self.roster.get(node)
        if row is not None and node != self.me:
            row = replace(row, state="left", against=None, reason="revoked")
            self._hold(now, row, row.word, effects, age_s=0.0, tell=False)
            self.roster.age(node)

    def age_s(self, node: NodeId, now: float) -> float:
        """How long a node has been dead or gone here."""
        return max(0.0, now - self._died.get(node, now))

    def died_lately(self, node: NodeId, now: float, within_s: float) -> bool:
        """Whether it became dead or left within so many seconds."""
        return now - self._died.get(node, -1e18) < within_s

    # --- news ---

    def learn(
        self,
        now: float,
        update: AnyUpdate,
        effects: list[Effect],
        *,
        over_link: bool = False,
        age_s: float = 0.0,
        tell: bool = True,
        sender: NodeId | None = None,
        own: bool = False,
    ) -> bool:
        """Take in one update; whether anything is different afterwards.

        `own`: this node finds so now. Its signature alone does not say that: a verdict of its earlier start may come
        round, or one that a copy of its home signed, and is hearsay.
        """
        subject = self.roster.subject(update)
        if subject == self.me:
            return self._about_me(now, update, effects, sender)
        row = self.roster.newer(update)
        if row is None:
            return self._again(subject, update)
        if isinstance(update, Suspect | Dead) and not own:
            if not self._hears_out(now, update, subject, effects, over_link=over_link):
                return False
            if row.state == "dead" and self.rules.own_verdict:
                row = replace(row, state="suspect")
        self._hold(now, row, update, effects, age_s=age_s, tell=tell and age_s < OLD_S)
        if own or over_link:
            self._tell_accused(row, update, effects)
        if own:
            self._tell_later(now, subject)
        return True

    def accuse(self, now: float, row: Row, effects: list[Effect]) -> None:
        """This node could not reach a member: it suspects it, or confirms what others suspect."""
        self.learn(now, updates.suspect(self.oneself.sign, *self._accusation(row)), effects, own=True)

    def say_alive(self, effects: list[Effect]) -> None:
        """Tell this node's own newest word."""
        if self.oneself.yielded or self.oneself.gone:
            return
        row = self.own_row()
        before = self.roster.get(self.me)
        self.roster.put(row)
        self.news.put(self.me, row.word)
        effects.append(Changed(row, before.state if before is not None else None))

    def leave(self, reason: str, effects: list[Effect]) -> Left:
        """This node says goodbye; what it says is the end of it."""
        row = self.own_row()
        goodbye = self.oneself.leave(reason)
        row = replace(row, state="left", word=goodbye, reason=reason)
        self.roster.put(row)
        effects.append(Changed(row, "alive"))
        return goodbye

    @property
    def view(self) -> int:
        """The table's root for others to compare; 0 while there is news, for then they differ anyway."""
        return 0 if self.news else self.roster.root

    def own_row(self) -> Row:
        """This node's row."""
        it = self.oneself
        return Row(self.me, it.key, it.gen, it.inc, "alive", it.advert, it.word)

    def take(self, peer: NodeId, room: int) -> tuple[AnyUpdate, ...]:
        """What to tell a peer in so many bytes; a suspect is told first of what is said against it."""
        row = self.roster.get(peer)
        first: tuple[AnyUpdate, ...] = ()
        if self.rules.buddy and row is not None and row.state == "suspect" and row.against is not None:
            first = (row.against,)
            room -= updates.size(first)
        taken = self.news.take(room, self.roster.living, first=peer)
        return first + tuple(update for update in taken if update not in first)

    # --- inside ---

    def _accusation(self, row: Row) -> tuple[bytes, int, int, bytes]:
        return raw_id(row.key), row.gen, row.inc, self.oneself.raw

    def _hears_out(
        self, now: float, update: Suspect | Dead, subject: NodeId, effects: list[Effect], *, over_link: bool
    ) -> bool:
        """Whether an accusation by another is listened to."""
        if self.rules.own_verdict and not over_link and not self._accusers.heard(update.accuser, now):
            return False
        if self.rules.first_hand and now - self.heard(subject) < self.settings.probe_interval_s:
            effects.append(Send(subject, Gossip((update,))))
            return False
        return True

    def _hold(
        self, now: float, row: Row, update: AnyUpdate, effects: list[Effect], *, age_s: float, tell: bool
    ) -> None:
        before = self.roster.get(row.id)
        self.roster.put(row)
        if tell:
            self.news.put(row.id, update)
        else:
            self.news.drop(row.id)
        self._track(now, row, update, age_s=age_s, quiet=not tell)
        effects.append(Changed(row, before.state if before is not None else None))

    def _track(self, now: float, row: Row, update: AnyUpdate, *, age_s: float, quiet: bool) -> None:
        """Suspicions and tombstones follow the row."""
        if row.state == "suspect":
            assert isinstance(update, Suspect | Dead)
            held = self.suspicions.get(row.id)
            if held is None or held.version != row.version:
                min_s = shortest_s(self.settings, self.roster.living)
                # With too few others to confirm it, waiting for confirmations would only make it long.
                few = self.roster.living - 2 < CONFIRMATIONS or not self.rules.confirmations
                max_s = min_s if few else min_s * self.settings.suspicion_max_mult
                held = Suspicion(row.version, now, min_s, max_s, {update.accuser}, quiet=quiet)
                held.verdict = isinstance(update, Dead)
                self.suspicions.begin(row.id, held)
            else:
                self._count_in(row.id, held, update)
        else:
            self.suspicions.end(row.id)
        if row.state in ("dead", "left"):
            self._died[row.id] = now - age_s
            self._look_at_tomb(row.id, now - age_s + self.settings.tombstone_s * AGED_SHARE)
            self._cap_tombs()
        else:
            self._died.pop(row.id, None)

    def _again(self, subject: NodeId, update: AnyUpdate) -> bool:
        """Nothing new about the node; but it may be one more accuser, or our own news coming back."""
        self.news.heard(subject, update, self.roster.living)
        suspicion = self.suspicions.get(subject)
        if suspicion is None or not isinstance(update, Suspect | Dead) or update.accuser in suspicion.accusers:
            return False
        confirms = (update.gen, update.inc) == suspicion.version and len(suspicion.accusers) <= CONFIRMATIONS
        if not confirms or not self.roster.genuine(update):
            return False
        self._count_in(subject, suspicion, update)
        if not suspicion.quiet and len(self.news) <= BULK:
            self.news.put(subject, update)  # the first confirmations are told on, unless there is much else to tell
        return True

    def _count_in(self, node: NodeId, suspicion: Suspicion, update: Suspect | Dead) -> None:
        suspicion.accusers.add(update.accuser)
        suspicion.verdict |= isinstance(update, Dead)
        if self.rules.confirmations:
            self.suspicions.changed(node)

    def _verdict(self, now: float, node: NodeId, suspicion: Suspicion, effects: list[Effect]) -> None:
        row = self.roster.get(node)
        if row is None or row.state != "suspect" or row.version != suspicion.version:
            return
        if isinstance(row.against, Dead):
            said: Dead = row.against  # another said so first: its word will do
        else:
            said = updates.dead(self.oneself.sign, *self._accusation(row))
        self._hold(now, replace(row, state="dead", against=said), said, effects, age_s=0.0, tell=not suspicion.quiet)

    def _tell_accused(self, row: Row, update: AnyUpdate, effects: list[Effect]) -> None:
        if self.rules.tell_suspect and row.state == "suspect":
            effects.append(Send(row.id, Gossip((update,))))

    def _tell_again(self, now: float, node: NodeId, effects: list[Effect]) -> None:
        row, suspicion = self.roster.get(node), self.suspicions.get(node)
        if row is not None and row.against is not None and suspicion is not None and suspicion.tell_at <= now:
            self._tell_accused(row, row.against, effects)
            self._tell_later(now, node)

    def _tell_later(self, now: float, node: NodeId) -> None:
        suspicion = self.suspicions.get(node)
        if suspicion is not None:
            suspicion.tell_at = now + TELL_AGAIN_S
            self._alarms.set(suspicion.tell_at, ("tell", node))

    def _about_me(self, now: float, update: AnyUpdate, effects: list[Effect], sender: NodeId | None) -> bool:
        """Refute what is said against this start of us; be newer than whatever an earlier start said."""
        if not isinstance(update, Suspect | Dead) and not self.roster.genuine(update):
            return False
        accused = isinstance(update, Suspect | Dead) and (update.gen, update.inc) == self.oneself.version
        if accused and self.rules.paced and not self._defence.may(update, now):
            return False
        answer = self.oneself.heard(update)
        if answer == "nothing":
            return False
        if answer == "unproven":
            if sender is not None and self._proofs.may(sender, now):
                effects.append(Sync(sender))  # if it is so, its table holds the word that we signed once
            return False
        if answer == "jump":
            effects.append(Reborn(self.oneself.gen))
        if answer == "refute" and isinstance(update, Suspect | Dead) and self._says_slow(update, now):
            self.refuted()
        if answer == "repeat":
            self.news.put(self.me, self.oneself.word)  # whoever told this has not heard our newer word
        else:
            self.say_alive(effects)
        if sender is not None and self.rules.tell_suspect and answer != "repeat":
            effects.append(Send(sender, Gossip((self.oneself.word,))))
        return answer != "repeat"

    def _says_slow(self, update: Suspect | Dead, now: float) -> bool:
        """Whether a refuted accusation is one more opinion that this node is hard to reach."""
        if not self.rules.paced:
            return True
        return self.roster.genuine(update) and self._defence.counts(update.accuser, now)

    def _tomb(self, now: float, node: NodeId) -> None:
        """Age or forget a tombstone, if it is one and its time has come."""
        if self._tomb_at.get(node, math.inf) > now:
            return  # a nearer alarm was set after this one, and has rung
        del self._tomb_at[node]
        died, keep_s = self._died.get(node), self.settings.tombstone_s
        if died is None:
            return
        if now - died >= keep_s - 1e-6:
            self._forget(node)
            return
        if aged := now - died >= keep_s * AGED_SHARE - 1e-6:
            self.roster.age(node)
        self._look_at_tomb(node, died + keep_s * (1.0 if aged else AGED_SHARE))

    def _look_at_tomb(self, node: NodeId, at: float) -> None:
        if at < self._tomb_at.get(node, math.inf):
            self._tomb_at[node] = at
            self._alarms.set(at, ("tomb", node))

    def _forget(self, node: NodeId) -> None:
        self._died.pop(node, None)
        self.roster.forget(node)

    def _cap_tombs(self) -> None:
        """Tombstones are bounded; the oldest go first."""
        if len(self._died) > max(TOMBSTONES_MIN, self.roster.living):
            self._forget(min(self._died, key=lambda node: self._died[node]))

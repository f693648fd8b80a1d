"""What this node says about itself, and how it answers what others say about it. A core without time.

A start of the agent has a start counter `gen`, which grows with each start, and a refutation counter `inc`. Whoever
says that this start is suspect or dead is refuted by a higher `inc`. Words of a higher `gen` than ours come from our
own past, when a backup of the home was restored, or from a twin: a copy of the home that runs at the same time. Both
are answered by jumping above. The past does not jump in its turn; a twin does, and that is how it is known. Then both
say so (`twin`), the one that was born earlier keeps the id, and the other yields: it takes no tasks and speaks no
more for the id, until the first has left.

Only this node's own signature makes a version, so an accusation of one that it never heard itself sign is a lie or
lacks its proof, and raises nothing: a member that could name any number would use up the counters of all the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from meshnode.membership import updates
from meshnode.membership.roster import raw_id
from meshnode.membership.updates import Alive, AnyUpdate, Dead, Left, Sign, Suspect

Answer = Literal["nothing", "repeat", "refute", "jump", "unproven"]
COUNTER_MAX = 2**32 - 1
"""Of both counters, as they go over the wire."""
RIVALS_MAX = 1024


@dataclass(slots=True)
class Oneself:
    """`born` names this start; see `updates.Alive`."""

    key: bytes
    gen: int
    born: int
    sign: Sign
    inc: int = 0
    advert: int = 0
    twin: int = 0
    yielded: bool = False
    gone: bool = False
    _rivals: set[int] = field(default_factory=set)
    _word: Alive | None = None

    @property
    def version(self) -> tuple[int, int]:
        """(gen, inc)"""
        return (self.gen, self.inc)

    @property
    def raw(self) -> bytes:
        """The 32 bytes of this node's id."""
        return raw_id(self.key)

    @property
    def word(self) -> Alive:
        """That it lives, signed."""
        said = (self.gen, self.inc, self.advert, self.twin)
        held = self._word
        if held is None or (held.gen, held.inc, held.advert, held.twin) != said:
            held = updates.alive(self.sign, self.key, *said[:3], born=self.born, twin=self.twin)
            self._word = held
        return held

    def leave(self, reason: str) -> Left:
        """That it leaves, signed; from now on it says nothing else."""
        self.gone = True
        return updates.left(self.sign, self.key, self.gen, self.inc, reason)

    def anew(self) -> None:
        """Be newer than whatever was said so far, without having been accused."""
        self.inc = min(self.inc + 1, COUNTER_MAX)

    def heard(self, update: AnyUpdate) -> Answer:
        """Something was said about this node; the word is newer afterwards when the answer is refute or jump.

        What is said to be the node's own word is genuine. Unproven: an accusation of a version above this one's;
        whoever believes it can show the word that made it.
        """
        version = (update.gen, update.inc)
        foreign = isinstance(update, Alive) and update.born != self.born
        if isinstance(update, Alive) and not foreign and version == self.version:
            return "nothing"
        if self.gone or (self.yielded and not isinstance(update, Left)):
            return "nothing"
        if version < self.version:
            return "repeat"
        if version > self.version and isinstance(update, Suspect | Dead):
            return "unproven"
        if update.gen == self.gen and update.inc < COUNTER_MAX and not foreign:
            self.inc = update.inc + 1
            return "refute"
        return self._above(update)

    def _above(self, update: AnyUpdate) -> Answer:
        """A higher start counter than ours, or the same with another start's name, or this one is used up."""
        if update.gen >= COUNTER_MAX:
            return "nothing"  # no start can come after: only a stolen key says such, and only an admin can end that
        if isinstance(update, Alive):
            proven = update.twin == self.born or update.born in self._rivals or self.twin == update.born
            if len(self._rivals) < RIVALS_MAX:
                self._rivals.add(update.born)
            if proven:
                knows = update.twin == self.born
                self.twin = update.born
                if self.born > update.born and knows:
                    self.yielded = True
                    return "nothing"
        else:
            self.yielded, self.twin = False, 0  # gone, or accused: whoever it was does not hold the id any more
        self.gen, self.inc = update.gen + 1, 0
        return "jump"

"""Trust sets of three nodes that hear statements in any order, against lists of who was let in and thrown out."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshnode.trust import form
from meshnode.trust.statements import StatementSet
from tests.trust.cast import NOW, Person, Town, empty

SETS = 3
PEOPLE = tuple(Person(seed) for seed in (2, 3, 4))


class Trust(RuleBasedStateMachine):
    """What was said lies in `said`, in that order; a set is what it has been told, and nothing of it can be untold."""

    @initialize()
    def begin(self) -> None:
        self.town = Town()
        self.said: list[bytes] = [self.town.genesis]
        self.grants: dict[bytes, Person] = {}
        self.sets: list[StatementSet] = [empty() for _ in range(SETS)]
        self.told: list[set[int]] = [set() for _ in range(SETS)]
        for number in range(SETS):
            self.tell(number, 0)

    def say(self, statement: bytes) -> None:
        """It is signed, and known where it was said: at the first node."""
        self.said.append(statement)
        self.tell(0, len(self.said) - 1)

    def tell(self, number: int, which: int) -> None:
        it, before = self.sets[number], set(self.sets[number].ids())
        it.merge([self.said[which]])
        self.told[number].add(which)
        assert before <= set(it.ids()), "something was forgotten"

    @rule(who=st.sampled_from(PEOPLE))
    def grant(self, who: Person) -> None:
        statement = self.town.grants(who)
        self.grants[form.parse(statement).id] = who
        self.say(statement)

    @rule(who=st.sampled_from(PEOPLE), by=st.sampled_from([None, *PEOPLE]))
    def revoke(self, who: Person, by: Person | None) -> None:
        """By the admin, by itself, or by somebody who may not."""
        self.say(self.town.revokes(who, by=by))

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), by=st.sampled_from([None, *PEOPLE]))
    def take_back(self, data: st.DataObject, by: Person | None) -> None:
        """A single grant; others of the same node stand."""
        id = data.draw(st.sampled_from(sorted(self.grants)))
        self.say((by or self.town.admin).says("revoke", form.revoke_statement_body(id), mesh=self.town.mesh))

    @rule(who=st.sampled_from(PEOPLE))
    def publish(self, who: Person) -> None:
        self.say(self.town.publishes(who))

    @rule(data=st.data(), number=st.integers(0, SETS - 1))
    def hear(self, data: st.DataObject, number: int) -> None:
        """One statement reaches one node, before or after what it needs; perhaps again."""
        self.tell(number, data.draw(st.integers(0, len(self.said) - 1)))

    @rule(one=st.integers(0, SETS - 1), other=st.integers(0, SETS - 1))
    def even_out(self, one: int, other: int) -> None:
        """What either lacks, as two linked nodes do it."""
        for a, b in ((one, other), (other, one)):
            held = set(self.sets[b].ids())
            self.sets[b].merge([data for id, data in self.sets[a].items() if id not in held])
        assert self.sets[one].root_hash == self.sets[other].root_hash
        assert {it.node for it in self.sets[one].members()} == {it.node for it in self.sets[other].members()}
        for number in (one, other):  # what still waits for its issuer's standing is not passed on
            held = set(self.sets[number].ids())
            self.told[number] |= {at for at, data in enumerate(self.said) if form.parse(data).id in held}

    @invariant()
    def who_is_in_follows_from_what_is_held(self) -> None:
        if not hasattr(self, "sets"):
            return
        for it in self.sets:
            held = [form.parse(data) for _, data in it.items()]
            admin = self.town.admin.spki
            back = {
                s.body["statement"] for s in held if s.kind == "revoke" and "statement" in s.body and s.issuer == admin
            }
            for who in PEOPLE:
                out = any(
                    s.kind == "revoke" and s.body.get("node") == who.id and s.issuer in (admin, who.spki) for s in held
                )
                let_in = any(s.kind == "grant" and s.body["node"] == who.id and s.id not in back for s in held)
                assert (it.revoked(who.id) is not None) == out, (
                    "who is out stays out, and only an admin puts others out"
                )
                assert (it.grant(who.id, NOW) is not None) == (let_in and not out)

    @invariant()
    def the_order_does_not_matter(self) -> None:
        if not hasattr(self, "sets"):
            return
        it, number = self.sets[-1], len(self.sets) - 1
        again = empty()
        for which in sorted(self.told[number], reverse=True):
            again.merge([self.said[which]])
        again.merge([self.said[which] for which in sorted(self.told[number])])
        assert it.root_hash == again.root_hash
        assert sorted(it.members(), key=str) == sorted(again.members(), key=str)


Trust.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestTrust = Trust.TestCase

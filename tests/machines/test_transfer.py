"""A model on its way here from holders that answer, fail, lie, come and go, against the files as they are."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshnode.catalog.rarity import numbering, pack
from meshnode.catalog.steps import (
    LIST,
    AskHave,
    AskList,
    AskPiece,
    Check,
    Complete,
    Effect,
    Event,
    Failed,
    GiveUp,
    HaveCame,
    Holders,
    ListCame,
    NoHave,
    OnDisk,
    PieceCame,
    Write,
)
from meshnode.catalog.transfer import STALL_S, Transfer
from meshnode.wire.messages import NodeId
from tests.catalog.making import PIECE, SETTINGS, A, B, C, D, E, F
from tests.catalog.test_transfer import model, sha

LIARS, FELLOWS = (B, C), (D, E)
WINDOW = 2


class Moving(RuleBasedStateMachine):
    """A is honest and has all of it; the others do as they like. Nothing that is wrong is ever written."""

    @initialize(
        sizes=st.lists(st.integers(0, 9 * PIECE), min_size=1, max_size=2).filter(any),
        seed=st.integers(0, 99),
        stays=st.booleans(),
        begun=st.sampled_from([True, True, False]),
    )
    def begin(self, sizes: list[int], seed: int, stays: bool, begun: bool) -> None:
        self.now, self.stays = 0.0, stays
        self.it = model(*sizes)
        self.pieces = {(i, n) for i in range(len(sizes)) for n in range(len(self.it.hashes(i)))}
        self.written: set[tuple[int, int]] = set()
        self.on_disk: set[tuple[int, int]] = set()
        self.open: list[AskList | AskPiece] = []
        self.looks: list[NodeId] = []
        self.checks: list[int] = []
        self.lied: set[NodeId] = set()
        """Whoever was caught must never be asked again."""
        self.end: Effect | None = None
        self.core = Transfer(
            F, self.it.manifest, replace(SETTINGS, pieces_in_flight=WINDOW, holders_max=2), random.Random(seed)
        )
        self.tell(Holders((B, A, C) if stays else (B, C)))
        while begun and any(isinstance(ask, AskList) for ask in self.open):
            self.answer(next(ask for ask in self.open if isinstance(ask, AskList)), rightly=True)
            while self.checks:
                self.tell(OnDisk(self.checks.pop(), ()))

    def tell(self, event: Event) -> None:
        over = self.end is not None
        for effect in self.core.handle(self.now, event):
            assert not over, "something is done when it is over"
            match effect:
                case AskList() | AskPiece():
                    assert effect not in self.open, "asked twice"
                    assert effect.holder not in self.lied, "a liar is asked again"
                    assert effect.holder != F
                    self.open.append(effect)
                case AskHave(holder):
                    assert holder not in self.looks
                    self.looks.append(holder)
                case Check(file, hashes):
                    assert self.it.hashes(file) == list(hashes), "a list that the manifest does not vouch for"
                    self.checks.append(file)
                case Write(file, index, data):
                    assert self.it.piece(file, index) == data, "a wrong piece is written"
                    assert (file, index) not in self.written | self.on_disk, "written twice"
                    self.written.add((file, index))
                case Complete() | GiveUp():
                    self.end = effect

    def answer(self, ask: AskList | AskPiece, *, rightly: bool) -> None:
        self.open.remove(ask)
        if isinstance(ask, AskList):
            data = b"".join(self.it.hashes(ask.file)) if rightly else b"x" * 32
            needed = ask.file not in self.checks and not self._known(ask.file)
            self._caught(ask.holder, needed and not rightly)
            self.tell(ListCame(ask.holder, ask.file, data))
            return
        data = self.it.piece(ask.file, ask.index) if rightly else b"x"
        needed = (ask.file, ask.index) not in self.written
        self._caught(ask.holder, needed and not rightly)
        self.tell(PieceCame(ask.holder, ask.file, ask.index, data, sha(data)))

    def _known(self, file: int) -> bool:
        return file in self.core._hashes

    def _caught(self, holder: NodeId, lie: bool) -> None:
        if lie and self.end is None:
            self.lied.add(holder)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), rightly=st.lists(st.sampled_from([True, True, False]), min_size=1, max_size=4))
    def answered(self, data: st.DataObject, rightly: list[bool]) -> None:
        for right in rightly[: len(self.open)]:
            ask = self.open[data.draw(st.integers(0, len(self.open) - 1))]
            self.answer(ask, rightly=right or ask.holder == A)

    @precondition(lambda self: any(ask.holder != A for ask in self.open))
    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        asks = [ask for ask in self.open if ask.holder != A]
        ask = asks[data.draw(st.integers(0, len(asks) - 1))]
        self.open.remove(ask)
        self.tell(Failed(ask.holder, ask.file, LIST if isinstance(ask, AskList) else ask.index, "reset"))

    @precondition(lambda self: self.looks)
    @rule(data=st.data(), fellows=st.sets(st.sampled_from((*FELLOWS, F))), silent=st.booleans())
    def said_what_it_has(self, data: st.DataObject, fellows: set[NodeId], silent: bool) -> None:
        """The truth, a lie, too little or too much of it; F is who fetches here, and may be named too."""
        holder = self.looks.pop()
        if silent and holder != A:
            self.tell(NoHave(holder))
            return
        count = numbering(self.it.manifest)[-1]
        have = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
        cut = data.draw(st.integers(0, 3))
        self.tell(HaveCame(holder, pack(have)[cut:], pack(have), tuple(sorted(fellows - {F}))))

    @precondition(lambda self: self.checks)
    @rule(data=st.data())
    def looked_on_disk(self, data: st.DataObject) -> None:
        file = self.checks.pop()
        there = data.draw(st.sets(st.integers(0, len(self.it.hashes(file)) - 1), max_size=2))
        self.on_disk |= {(file, index) for index in there}
        self.tell(OnDisk(file, tuple(sorted(there))))

    @precondition(lambda self: self.end is None)
    @rule(data=st.data(), seldom=st.sampled_from([False, False, True]))
    def holders(self, data: st.DataObject, seldom: bool) -> None:
        """Others come and go; the honest one only when it was there from the beginning."""
        if not seldom:
            return
        some = data.draw(st.lists(st.sampled_from(LIARS), unique=True))
        self.tell(Holders((A, *some) if self.stays else tuple(some)))

    @rule(wait_s=st.sampled_from([0.01, 0.6, 3.0, STALL_S + 1]))
    def tick(self, wait_s: float) -> None:
        self.now += wait_s

    @invariant()
    def windows_and_ends(self) -> None:
        if not hasattr(self, "core"):
            return
        for node in (A, *LIARS, *FELLOWS):
            assert sum(ask.holder == node for ask in self.open) <= WINDOW
        if isinstance(self.end, Complete):
            assert self.pieces == self.written | self.on_disk
            assert self.core.done_bytes == self.it.manifest.size
        if isinstance(self.end, GiveUp):
            assert not self.stays, "it gave up although somebody honest had all of it"

    def teardown(self) -> None:
        """From now on everybody answers: with an honest holder it becomes complete, without one it ends."""
        if not hasattr(self, "core"):
            return
        for _ in range(400):
            if self.end is not None:
                break
            self.now += 0.7
            if self.checks:
                self.tell(OnDisk(self.checks.pop(), ()))
            elif self.open:
                self.answer(self.open[0], rightly=True)
            else:
                while self.looks and self.end is None:
                    self.tell(NoHave(self.looks.pop()))
                if self.end is None:
                    self.tell(Holders((A,) if self.stays else ()))
        assert self.end is not None, "it goes on for ever"
        self.windows_and_ends()


Moving.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestMoving = Moving.TestCase

"""The transfer core: who is asked for what, who is believed, and how it ends."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.catalog.manifest import File, Manifest
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
    Holders,
    ListCame,
    OnDisk,
    PieceCame,
    Write,
)
from meshnode.catalog.transfer import FAILURES_MAX, LATE_S, Transfer
from meshnode.config import Catalog
from meshnode.errors import TransferFailed
from meshnode.wire.messages import NodeId
from tests.catalog.making import PIECE, SETTINGS, A, B, C, D, E, F


class First(random.Random):
    """Draws the first of each lot."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 0


class Plain(Transfer):
    """Nobody is asked what it has, and of equal pieces the first goes first."""

    def __init__(self, manifest: Manifest, settings: Catalog) -> None:
        super().__init__(F, manifest, settings, First(1))

    def handle(self, now: float, event: Event) -> list[Effect]:
        return [effect for effect in super().handle(now, event) if not isinstance(effect, AskHave)]


ONE_EACH = replace(SETTINGS, pieces_in_flight=1)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class Model:
    """Files as bytes, and the manifest of them."""

    files: list[bytes]
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        files = tuple(
            File(f"f{i}", len(data), sha(data), sha(b"".join(self.hashes(i)))) for i, data in enumerate(self.files)
        )
        self.manifest = Manifest("m", 1, files, (), (), PIECE)

    def hashes(self, file: int) -> list[bytes]:
        return [sha(self.piece(file, i)) for i in range(-(-len(self.files[file]) // PIECE))]

    def piece(self, file: int, index: int) -> bytes:
        return self.files[file][index * PIECE : (index + 1) * PIECE]

    def list_came(self, holder: NodeId, file: int = 0) -> ListCame:
        return ListCame(holder, file, b"".join(self.hashes(file)))

    def piece_came(self, holder: NodeId, index: int, file: int = 0) -> PieceCame:
        data = self.piece(file, index)
        return PieceCame(holder, file, index, data, sha(data))


def model(*sizes: int) -> Model:
    rng = random.Random(7)
    return Model([rng.randbytes(size) for size in sizes])


def started(it: Model, *holders: NodeId, settings: object = ONE_EACH, held: tuple[int, ...] = ()) -> Plain:
    """A transfer of one file whose list has come from the first holder."""
    core = Plain(it.manifest, settings)
    assert AskList(holders[0], 0) in core.handle(0.0, Holders(holders))
    core.handle(0.0, it.list_came(holders[0]))
    return core


def asks(effects: list[Effect]) -> list[tuple[NodeId, int]]:
    return [(it.holder, it.index) for it in effects if isinstance(it, AskPiece)]


def test_a_file_is_asked_for_list_first_then_pieces_then_it_is_complete() -> None:
    """The whole story with one holder and one request at a time."""
    it = model(PIECE + 1)
    core = Plain(it.manifest, ONE_EACH)
    assert [AskList(A, 0)] == core.handle(0.0, Holders((A,)))
    assert [Check(0, tuple(it.hashes(0)))] == core.handle(0.0, it.list_came(A))
    assert [AskPiece(A, 0, 0)] == core.handle(0.0, OnDisk(0, ()))
    assert [Write(0, 0, it.piece(0, 0)), AskPiece(A, 0, 1)] == core.handle(0.0, it.piece_came(A, 0))
    assert PIECE == core.done_bytes
    assert [Write(0, 1, it.piece(0, 1)), Complete()] == core.handle(0.0, it.piece_came(A, 1))
    assert [] == core.handle(0.0, it.piece_came(A, 1))
    assert core.next_deadline() is None


def test_what_is_on_disk_is_not_asked_for_again() -> None:
    """After a restart only the missing pieces move."""
    it = model(4 * PIECE)
    core = started(it, A, settings=SETTINGS)
    assert [(A, 1), (A, 3)] == asks(core.handle(0.0, OnDisk(0, (0, 2))))
    assert 2 * PIECE == core.done_bytes
    assert 0 == core.fetched_bytes


def test_a_model_that_is_all_on_disk_is_complete_at_once() -> None:
    """Only its lists are asked for."""
    core = started(model(2 * PIECE), A)
    assert [Complete()] == core.handle(0.0, OnDisk(0, (0, 1)))


def test_an_empty_file_needs_nothing_from_anybody() -> None:
    """It has no pieces, and no list worth a question."""
    assert [Complete()] == Plain(model(0).manifest, SETTINGS).handle(0.0, Holders(()))


def test_pieces_are_spread_over_the_holders_within_their_windows() -> None:
    """Four from each, no piece twice."""
    it = model(20 * PIECE)
    core = started(it, A, B, C, settings=SETTINGS)
    asked = asks(core.handle(0.0, OnDisk(0, ())))
    assert set(range(12)) == {index for _, index in asked}
    assert {A: 4, B: 4, C: 4} == {node: [n for n, _ in asked].count(node) for node in (A, B, C)}


def test_wrong_bytes_are_never_written_and_end_the_liar() -> None:
    """What the liar owes is asked from another at once, and it is asked nothing more."""
    it = model(3 * PIECE)
    core = started(it, A, B)
    assert [(A, 0), (B, 1)] == sorted(asks(core.handle(0.0, OnDisk(0, ()))))
    assert [] == core.handle(0.0, PieceCame(A, 0, 0, b"lies", sha(b"lies")))
    assert [Write(0, 1, it.piece(0, 1)), AskPiece(B, 0, 0)] == core.handle(0.0, it.piece_came(B, 1))
    assert [(B, 2)] == asks(core.handle(0.0, it.piece_came(B, 0)))
    assert Complete() in core.handle(0.0, it.piece_came(B, 2))


def test_a_piece_of_the_wrong_length_or_another_place_is_a_lie() -> None:
    """Only the hash of this very piece will do."""
    it = model(3 * PIECE)
    for data in (b"", it.piece(0, 0) + b"x", it.piece(0, 1)):
        core = started(it, A)
        core.handle(0.0, OnDisk(0, ()))
        (effect,) = core.handle(0.0, PieceCame(A, 0, 0, data, sha(data)))
        assert isinstance(effect, GiveUp)
        assert "did not match" in str(effect.error)


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(32), bytes(64), bytes(96)])
def test_a_wrong_piece_list_is_not_believed(data: bytes) -> None:
    """The manifest says what the list hashes to; the next holder is asked."""
    core = Plain(model(2 * PIECE).manifest, ONE_EACH)
    core.handle(0.0, Holders((A, B)))
    assert [AskList(B, 0)] == core.handle(0.0, ListCame(A, 0, data))


def test_a_holder_that_fails_is_asked_last_and_then_not_at_all() -> None:
    """Three failures in a row are enough; the pieces go to the others."""
    it = model(20 * PIECE)
    core = started(it, A, B)
    asked = dict(asks(core.handle(0.0, OnDisk(0, ()))))
    for second in range(FAILURES_MAX):
        effects = core.handle(float(second), Failed(A, 0, asked[A], "timed out"))
        asked.update(asks(effects))
    assert [] == asks(effects)
    assert [(B, asked[A])] == asks(core.handle(9.0, it.piece_came(B, asked[B])))


def test_requests_that_fail_together_count_as_one_failure() -> None:
    """A link too slow for four pieces at once is asked for fewer, not given up."""
    it = model(20 * PIECE)
    core = started(it, A, settings=SETTINGS)
    assert 4 == len(asks(core.handle(0.0, OnDisk(0, ()))))
    asked = [asks(core.handle(20.0, Failed(A, 0, index, "no answer in time"))) for index in range(4)]
    assert [[], [], [(A, 0)], [(A, 1)]] == asked
    assert [[], [(A, 0)]] == [asks(core.handle(40.0, Failed(A, 0, index, "no answer in time"))) for index in (0, 1)]
    assert [(A, 1)] == asks(core.handle(41.0, it.piece_came(A, 0)))[:1]


def test_a_faster_holder_gets_more() -> None:
    """The next piece goes where it will be done first."""
    it = model(40 * PIECE)
    core = started(it, A, B, settings=SETTINGS)
    now, served, busy = 0.0, {A: 0, B: 0}, {A: 1.0, B: 0.1}
    pending = [(now + busy[node], node, index) for node, index in asks(core.handle(0.0, OnDisk(0, ())))]
    while pending:
        pending.sort()
        now, node, index = pending.pop(0)
        served[node] += 1
        pending += [(now + busy[n], n, i) for n, i in asks(core.handle(now, it.piece_came(node, index)))]
    assert served[B] >= 4 * served[A]


def test_the_last_pieces_are_not_left_to_a_slow_holder() -> None:
    """When nothing new is left, what is late is asked from another as well; the first answer counts."""
    it = model(2 * PIECE)
    core = started(it, A, B)
    first, second = asks(core.handle(0.0, OnDisk(0, ())))
    slow, fast = first[0], second[0]
    core.handle(0.1, it.piece_came(fast, second[1]))
    assert LATE_S >= (core.next_deadline() or 9)
    assert [] == core.handle(LATE_S / 2, Holders((A, B)))
    assert [AskPiece(fast, 0, first[1])] == core.handle(LATE_S, Holders((A, B)))
    assert [] == core.handle(LATE_S + 0.1, Holders((A, B)))
    assert Complete() in core.handle(LATE_S + 0.2, it.piece_came(fast, first[1]))
    assert [] == core.handle(LATE_S + 9, it.piece_came(slow, first[1]))


def test_holders_beyond_the_limit_step_in_for_the_lost() -> None:
    """Only a few are used at once, and all of them before it is given up."""
    it = model(8 * PIECE)
    core = Plain(it.manifest, replace(ONE_EACH, holders_max=2))
    asked = core.handle(0.0, Holders((A, B, C, D, E, F)))
    order = []
    while not isinstance(asked[-1], GiveUp):
        (ask,) = asked
        assert isinstance(ask, AskList)
        order.append(ask.holder)
        asked = core.handle(0.0, ListCame(ask.holder, 0, b"lies"))
    assert [A, B, C, D, E, F] == order


def test_a_new_holder_is_used_and_one_that_left_is_not() -> None:
    """The mesh changes while a model moves."""
    it = model(9 * PIECE)
    core = started(it, A)
    core.handle(0.0, OnDisk(0, ()))
    assert [(B, 1)] == asks(core.handle(0.0, Holders((A, B))))
    assert [] == core.handle(0.0, Holders((B,)))
    assert [(B, 2)] == asks(core.handle(0.0, it.piece_came(B, 1)))
    assert [] == asks(core.handle(0.0, it.piece_came(A, 0)))


def test_without_holders_it_is_given_up_at_once() -> None:
    """The error says that nobody has it."""
    (effect,) = Plain(model(1).manifest, SETTINGS).handle(0.0, Holders(()))
    assert isinstance(effect, GiveUp)
    assert isinstance(effect.error, TransferFailed)
    assert "m:1 cannot be fetched (no node that is up has it)" == str(effect.error)


def test_the_error_names_each_holder_and_why() -> None:
    """Whoever reads it knows where to look."""
    core = Plain(model(1).manifest, ONE_EACH)
    core.handle(0.0, Holders((A, B)))
    core.handle(0.0, ListCame(A, 0, b"lies"))
    effects: list[Effect] = []
    for second in range(FAILURES_MAX):
        effects = core.handle(float(second), Failed(B, 0, LIST, "connection reset"))
    (effect,) = effects
    assert isinstance(effect, GiveUp)
    assert f"{A[:8]}: its piece list of f0 does not match the manifest" in str(effect.error)
    assert f"{B[:8]}: connection reset" in str(effect.error)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_course_of_events_ends_right(data: st.DataObject) -> None:
    """Holders come, go, lie, fail and answer in any order: no piece is written wrong or twice, none is forgotten,
    no holder has more open than allowed, and it ends complete whenever an honest holder stays."""
    it = model(*data.draw(st.lists(st.integers(0, 5 * PIECE), min_size=1, max_size=3)))
    honest, others = A, [B, C, D]
    held = {i: data.draw(st.sets(st.integers(0, max(0, len(it.hashes(i)) - 1)))) for i in range(len(it.files))}
    core = Plain(it.manifest, replace(SETTINGS, pieces_in_flight=2, holders_max=2))
    written: set[tuple[int, int]] = set()
    open_: list[AskList | AskPiece] = []
    now, ended = 0.0, False
    effects = core.handle(now, Holders((B, honest, C)))
    for _ in range(2000):
        answers: list[OnDisk] = []
        for effect in effects:
            match effect:
                case AskList() | AskPiece():
                    assert effect not in open_
                    open_.append(effect)
                case Check(file, hashes):
                    assert it.hashes(file) == list(hashes)
                    answers.append(OnDisk(file, tuple(sorted(held[file] & set(range(len(hashes)))))))
                case Write(file, index, content):
                    assert it.piece(file, index) == content
                    assert (file, index) not in written
                    assert index not in held[file]
                    written.add((file, index))
                case Complete():
                    ended = True
                case GiveUp():
                    raise AssertionError("an honest holder was there all the time")
        assert all(sum(ask.holder == node for ask in open_) <= 2 for node in (A, B, C, D))
        if ended:
            break
        now += data.draw(st.sampled_from([0.0, 0.01, 3.0]))
        if answers:
            effects = [effect for answer in answers for effect in core.handle(now, answer)]
            continue
        if not open_ or data.draw(st.integers(0, 9)) == 0:
            effects = core.handle(now, Holders((honest, *data.draw(st.permutations(others))[:2])))
            continue
        ask = open_.pop(data.draw(st.integers(0, len(open_) - 1)))
        index = LIST if isinstance(ask, AskList) else ask.index
        what = "answer" if ask.holder == honest else data.draw(st.sampled_from(["answer", "fail", "lie"]))
        if what == "fail":
            effects = core.handle(now, Failed(ask.holder, ask.file, index, "reset"))
        elif isinstance(ask, AskList):
            content = b"".join(it.hashes(ask.file)) if what == "answer" else b"x" * 32
            effects = core.handle(now, ListCame(ask.holder, ask.file, content))
        else:
            content = it.piece(ask.file, ask.index) if what == "answer" else b"x"
            effects = core.handle(now, PieceCame(ask.holder, ask.file, ask.index, content, sha(content)))
    assert ended
    total = {(i, n) for i in range(len(it.files)) for n in range(len(it.hashes(i)))}
    assert total == written | {(i, n) for i, n in total if n in held[i]}
    assert it.manifest.size == core.done_bytes

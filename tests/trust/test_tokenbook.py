"""Which invites are open, across restarts and full disks."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from meshnode.errors import HomeError, InvalidInput
from meshnode.trust import invites, tokenbook
from meshnode.trust.files import write_checked
from meshnode.trust.tokenbook import LINGER_S, OpenInvite, TokenBook
from tests.trust.cast import NOW, Person

MESH, NODE = "ab" * 32, Person(1).id


def opened(path: Path, *, mesh: str = MESH, now: float = NOW) -> TokenBook:
    book = TokenBook(path / "invites", NODE)
    book.read(mesh, now)
    return book


def invite(seed: int = 1, *, expires_at: int = NOW + 3600) -> OpenInvite:
    return OpenInvite(bytes([seed]) * 32, ["worker"], ["ward-3"], expires_at)


def test_open_invites_survive_a_restart(tmp_path: Path) -> None:
    """What was opened is open afterwards, with its roles, its wrong tries and the port."""
    book = opened(tmp_path)
    book.port = 4711
    book.add(invite())
    book.count_wrong(book.open[0], NOW)

    again = opened(tmp_path)
    assert ([OpenInvite(bytes([1]) * 32, ["worker"], ["ward-3"], NOW + 3600, 1)], 4711) == (again.open, again.port)


def test_a_burned_invite_stays_burned(tmp_path: Path) -> None:
    """It is closed on disk before `burn` returns, and its holder is told what became of it."""
    book = opened(tmp_path)
    book.add(invite())
    tag = invites.tag(book.open[0].key)
    book.burn(book.open[0], "used by lab", NOW)

    again = opened(tmp_path, now=NOW + 120)
    assert again.find(tag) is None
    assert "used by lab 2 min ago" == again.why_closed(tag, NOW + 120)
    assert "it is unknown here" == again.why_closed(bytes(8), NOW)


def test_five_wrong_proofs_burn_one_invite(tmp_path: Path) -> None:
    """The fifth closes it; other invites are not touched."""
    book = opened(tmp_path)
    book.add(invite(1))
    book.add(invite(2))
    target = book.open[0]
    for _ in range(5):
        assert target in book.open
        book.count_wrong(target, NOW)

    assert [invite(2)] == book.open == opened(tmp_path).open
    assert "5 wrong proofs" in book.why_closed(invites.tag(target.key), NOW)


def test_expired_invites_close_by_themselves(tmp_path: Path) -> None:
    """Also while the agent was down."""
    book = opened(tmp_path)
    book.add(invite(expires_at=NOW + 10))
    again = opened(tmp_path, now=NOW + 10)

    assert [] == again.open
    assert "expired 5 s ago" == again.why_closed(invites.tag(bytes([1]) * 32), NOW + 15)


def test_the_port_is_needed_as_long_as_somebody_can_be_told_something(tmp_path: Path) -> None:
    """Until the last open invite ends; after a use a while longer, within the token's life; after expiry not at all."""
    book = opened(tmp_path)
    assert 0 == book.port_needed_until()
    book.add(invite(1))
    book.add(invite(2, expires_at=NOW + 60))
    assert NOW + 3600 == book.port_needed_until()
    book.burn(book.open[1], "used", NOW)
    book.burn(book.open[0], "used", NOW)
    assert NOW + LINGER_S == book.port_needed_until()


def test_invites_to_another_mesh_are_nobodys(tmp_path: Path) -> None:
    """A home that went to another mesh, or has a new key, does not honour old tokens."""
    opened(tmp_path).add(invite())

    assert [] == opened(tmp_path, mesh="cd" * 32).open
    stranger = TokenBook(tmp_path / "invites", Person(2).id)
    stranger.read(MESH, NOW)
    assert [] == stranger.open


@pytest.mark.parametrize("stored", [[1], {"mesh": MESH}, {"mesh": MESH, "node": NODE, "open": [{"x": 1}]}])
def test_a_file_of_another_shape_is_moved_aside(tmp_path: Path, stored: object) -> None:
    """It opens no invites and does not stop the start."""
    write_checked(tmp_path / "invites", msgpack.packb(stored))
    assert [] == opened(tmp_path).open
    assert ["invites.damaged-1"] == [p.name for p in tmp_path.iterdir()]


def test_an_invite_that_cannot_be_written_down_is_none(tmp_path: Path) -> None:
    """Opening and burning fail as a whole; wrong proofs count all the same."""
    book = opened(tmp_path)
    book.add(invite())
    kept = book.open[0]
    book._path = tmp_path / "gone" / "invites"

    with pytest.raises(HomeError):
        book.add(invite(2))
    with pytest.raises(HomeError):
        book.burn(kept, "used", NOW)
    assert [kept] == book.open
    assert "it is unknown here" == book.why_closed(invites.tag(kept.key), NOW)
    for _ in range(5):
        book.count_wrong(kept, NOW)
    assert [] == book.open


def test_open_invites_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit is refused, naming it."""
    monkeypatch.setattr(tokenbook, "INVITES_MAX", 1)
    book = opened(tmp_path)
    book.add(invite())
    with pytest.raises(InvalidInput, match="1 invites are open"):
        book.add(invite(2))

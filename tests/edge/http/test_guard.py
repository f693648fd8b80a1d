"""Who may come in by HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.http.guard import CODE_S, COOKIE, SESSION_S, SESSIONS_MAX, Guard, NoToken
from meshnode.errors import PermissionDenied

TOKEN = "the-token-of-this-home"
FEED = "/dashboard/feed"
BEARER = {"Host": "localhost:8080", "Authorization": f"Bearer {TOKEN}"}


class Clock:
    """Seconds."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


def a_guard(clock: Clock | None = None) -> Guard:
    return Guard(TOKEN, frozenset({"localhost", "till-7"}), now=clock or Clock())


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST:1", "localhost.", "till-7", "127.0.0.1:9", "[::1]:8", "10.0.0.7"]
)
def test_its_names_and_addresses_are_taken(host: str) -> None:
    """With the token."""
    a_guard().check("GET", BEARER | {"Host": host}, {}, "http")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "till-7:x",
        "localhost:80:80",
        "a b",
        "[::1",
        "1",
    ],
)
def test_another_name_is_refused_whatever_the_token(host: str) -> None:
    """A page whose name was made to point here sends that name."""
    with pytest.raises(PermissionDenied):
        a_guard().check("GET", BEARER | {"Host": host}, {}, "http")


@pytest.mark.parametrize(
    "more",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost:8080"},
        {"Origin": "http://localhost:8081"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_pages_are_refused_whatever_they_know(more: dict[str, str]) -> None:
    """By what the browser says of them, which they cannot change."""
    with pytest.raises(PermissionDenied):
        a_guard().check("POST", BEARER | more, {}, "http")


def test_its_own_page_is_taken() -> None:
    """The browser names the same origin, or none."""
    a_guard().check("POST", BEARER | {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}, {}, "http")
    a_guard().check("GET", BEARER | {"Sec-Fetch-Site": "none"}, {}, "http")


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_no_other_word_is_the_token(word: str) -> None:
    """Whatever comes is compared, and nothing breaks the comparison."""
    for value in (word, f"Bearer {word}", f"Basic {TOKEN}", f"Bearer{TOKEN}", f"Bearer {TOKEN}{word}x"):
        with pytest.raises(NoToken):
            a_guard().check("GET", {"Host": "localhost", "Authorization": value}, {}, "http")


def test_a_link_is_good_once_and_soon() -> None:
    """Then its cookie is."""
    clock = Clock()
    guard = a_guard(clock)
    code, other = guard.new_code(), guard.new_code()
    cookie = {COOKIE: guard.redeem(code)}
    guard.check("GET", {"Host": "localhost"}, cookie, "http", FEED)
    with pytest.raises(NoToken):
        guard.redeem(code)
    clock.at += CODE_S
    with pytest.raises(NoToken):
        guard.redeem(other)
    clock.at += SESSION_S
    with pytest.raises(NoToken):
        guard.check("GET", {"Host": "localhost"}, cookie, "http", FEED)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/dashboard/feed"),
        ("GET", "/"),
        ("GET", "/v2/models/x"),
        ("POST", "/v2/models/x/infer"),
        ("GET", "/dash"),
    ],
)
def test_a_cookie_opens_the_page_and_nothing_more(method: str, path: str) -> None:
    """Browsers send it by themselves, and to every port of the machine: whoever got it so can read the dashboard."""
    guard = a_guard()
    cookie = {COOKIE: guard.redeem(guard.new_code())}
    guard.check("GET", {"Host": "localhost"}, cookie, "http", FEED)
    with pytest.raises(NoToken):
        guard.check(method, {"Host": "localhost", "Origin": "http://localhost"}, cookie, "http", path)


def test_sessions_are_bounded() -> None:
    """The oldest goes."""
    guard = a_guard()
    first = {COOKIE: guard.redeem(guard.new_code())}
    for _ in range(SESSIONS_MAX):
        last = {COOKIE: guard.redeem(guard.new_code())}
    guard.check("GET", {"Host": "localhost"}, last, "http", FEED)
    with pytest.raises(NoToken):
        guard.check("GET", {"Host": "localhost"}, first, "http", FEED)

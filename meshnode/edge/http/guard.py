"""Who may come in by HTTP: decided from the head of a request alone, before a byte of its body is read.

Three things are asked, because each keeps out what the others do not. The token keeps out other users of this machine.
The Host keeps out a web page whose name was made to point here (DNS rebinding), for its requests carry that name. The
Origin keeps out any other web page that sends requests here from a browser. Nothing is answered for another origin (no
CORS), so no page can read what it was refused.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from meshnode.errors import PermissionDenied

COOKIE = "meshnode"
PAGES = "/dashboard"
"""All that the cookie opens, for reading."""
CODE_S = 60.0
"""How long the link that `meshnode dashboard` opens may be used, once."""
SESSION_S = 12 * 3600.0
SESSIONS_MAX = 256
_HOST = re.compile(r"\A(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?\Z")


class NoToken(PermissionDenied):
    """The request says nothing, or something wrong, of who sends it."""


@dataclass(slots=True)
class Guard:
    """See the module's docstring.

    Args:
        token: what `Authorization: Bearer` must carry.
        names: by which this door is reached, beside its addresses.
        cookie: its name. Browsers tell no ports apart: two agents on one machine need two.
    """

    token: str
    names: Collection[str]
    cookie: str = COOKIE
    now: Callable[[], float] = time.monotonic
    _codes: dict[str, float] = field(default_factory=dict)
    _sessions: dict[str, float] = field(default_factory=dict)

    def check(
        self, method: str, headers: Mapping[str, str], cookies: Mapping[str, str], scheme: str, path: str = "/"
    ) -> None:
        """Raises PermissionDenied, NoToken."""
        self.check_page(headers, scheme)
        if self.has_token(headers.get("Authorization", "")):
            return
        # A browser sends the cookie by itself, and to every port of this machine: it opens the page and nothing more.
        if (
            method in ("GET", "HEAD")
            and path.startswith(f"{PAGES}/")
            and self._is_session(cookies.get(self.cookie, ""))
        ):
            return
        raise no_token()

    def has_token(self, authorization: str) -> bool:
        """Whether the value of an `Authorization` is this door's token."""
        kind, _, given = authorization.partition(" ")
        return kind.lower() == "bearer" and self._is_token(given.strip())

    def check_page(self, headers: Mapping[str, str], scheme: str) -> None:
        """Raises PermissionDenied for what a page of another origin asks, or one that came by another name."""
        host = headers.get("Host", "")
        self.check_host(host)
        origin = headers.get("Origin")
        if origin is not None and origin != f"{scheme}://{host}":
            raise PermissionDenied(f"requests from pages of {origin[:100]!r} are not taken")
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise PermissionDenied("requests from pages of another site are not taken")

    def check_host(self, host: str) -> None:
        """Raises PermissionDenied for a name that is not this door's."""
        match = _HOST.match(host)
        name = match[1].strip("[]").lower().rstrip(".") if match else ""
        if name and (name in self.names or _is_address(name)):
            return
        raise PermissionDenied(
            f"this is not {host[:100]!r}", hint="names by which it is reached are listed as http.hosts in config.toml"
        )

    # --- the browser's way in: a link that is good once, then a cookie ---

    def new_code(self) -> str:
        """For a link that opens the dashboard, once and soon."""
        self._codes = {code: until for code, until in self._codes.items() if until > self.now()}
        code = secrets.token_urlsafe(24)
        self._codes[code] = self.now() + CODE_S
        return code

    def redeem(self, code: str) -> str:
        """The value of the cookie for a code. Raises NoToken."""
        until = self._codes.pop(code, 0.0)
        if until <= self.now():
            raise NoToken("this link was used or is too old", hint="`meshnode dashboard` opens a new one")
        self._sessions = {it: end for it, end in self._sessions.items() if end > self.now()}
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = self.now() + SESSION_S
        return session

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode())

    def _is_session(self, given: str) -> bool:
        return self._sessions.get(given, 0.0) > self.now()


def no_token() -> NoToken:
    """What is said to who does not have it."""
    return NoToken("the token is missing or wrong", hint="send `Authorization: Bearer` with the content of http.token")


@functools.lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    """An address cannot be made to point elsewhere, as a name can."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

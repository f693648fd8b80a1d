"""What two members ask each other to find out what is wrong between them: `meshnode doctor`. Never asked by itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.wire.terms import Message, Seconds

TRIES_MAX = 16
WALL_MAX = 1e12
Host = Annotated[str, Meta(max_length=128)]
Label = Annotated[str, Meta(max_length=64)]


class LookAsk(Message, frozen=True, tag="look_ask"):
    """What do you see of me? `label` is the asker's in multicast, empty when it does not announce itself.

    With `announce` the other side announces itself by multicast, so that the asker can listen.
    """

    label: Label = ""
    announce: bool = False


class Look(Message, frozen=True, tag="look"):
    """`wall` is seconds since 1970 by the answering node's clock.

    `label` is its own in multicast. `heard_s` is how long ago it heard the asker's label, `datagram_s` how long ago a
    datagram of the asker was opened; neither when it never was.
    """

    wall: Annotated[float, Meta(ge=-WALL_MAX, le=WALL_MAX)]
    label: Label = ""
    heard_s: Seconds | None = None
    datagram_s: Seconds | None = None


class ReachAsk(Message, frozen=True, tag="reach_ask"):
    """Try the addresses that you know of me, from outside of any link. They are not in the request."""


class Try(msgspec.Struct, frozen=True, array_like=True):
    """What came of trying one address.

    `outcome` is `answered`, `stalled` (only when both sides used segments of `mss`), `mute` (it connected, and no TLS
    came), `refused`, `timeout`, `rejected` (a router or firewall said no), `unreachable` (nobody answers for that host
    on its link), `no_route`, or `error`. `large` tells whether packets of full size pass; when they do not, `mss` is
    the largest segment that did.
    """

    host: Host
    port: Annotated[int, Meta(ge=0, le=65535)]
    outcome: Annotated[str, Meta(max_length=16)]
    seconds: Seconds = 0.0
    large: bool | None = None
    mss: Annotated[int, Meta(ge=0, le=65535)] = 0


class Reached(Message, frozen=True, tag="reached"):
    """What came of it."""

    tries: Annotated[tuple[Try, ...], Meta(max_length=TRIES_MAX)] = ()

"""P28: twenty machines join at once; tokens that are used, expired, cut, or lead to somebody else are refused."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import meshnode
from meshnode.errors import MeshError
from meshnode.trust import invites
from meshnode.trust.redeeming import redeem
from tests.rig.net import net
from tests.rig.promises.figures import Figure, at_least, at_most, none_of, true
from tests.rig.promises.town import Stage
from tests.trust.test_joining import HOST, Place

JOINERS, JOINED_S = 20, 10.0


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Machines with a token each, all in the same moment; then what must fail, one after the other."""
    return [*_joined(stage, JOINERS if full else 3), *asyncio.run(_refused(stage.fresh()))]


def _joined(stage: Stage, count: int) -> list[Figure]:
    with net(stage.fresh(), [[0]] * (count + 1), seed=stage.seed) as it, ThreadPoolExecutor(count) as pool:
        founder = it.up(0)
        with meshnode.Client(home=founder.home) as client:
            tokens = [client.ask("invite")["token"] for _ in range(count)]
            began = time.monotonic()
            joins = [pool.submit(it.join, host, token) for host, token in enumerate(tokens, 1)]
            failed = [str(error) for join in joins if (error := join.exception(120)) is not None]
            took_s = time.monotonic() - began
            members = len(client.ask("members")) - 1
    did = f"`meshnode join` on {count} hosts in the same moment, a token each"
    return [
        none_of(did, "joins that failed", failed),
        at_least(did, "members that the founder has got", members, count),
        at_most(did, "the last one is in, the start of its process included, after", took_s, JOINED_S),
    ]


async def _refused(folder: Path) -> list[Figure]:
    place = Place(folder)
    try:
        return [figure for it in (_twice, _expired, _cut, _middle) for figure in await it(place)]
    finally:
        await place.stop()


async def _says(place: Place, token: str, did: str, what: str) -> Figure:
    """Whether a join with that token is refused, with these words, and made nobody a member."""
    try:
        await redeem(place.home(f"r{len(place.keepers)}"), token, "r")
    except MeshError as error:
        said = f"{error.code}: {error}"
        return true(did, f"token_refused: ... {what} ...", error.code == "token_refused" and what in said, said)
    return true(did, "refused", False, "it joined")


async def _twice(place: Place) -> list[Figure]:
    _, inviter = await place.founder("twice")
    token = await inviter.invite(expires_s=600, roles=None, zones=())
    await redeem(place.home("first"), token, "lab-gpu")
    return [await _says(place, token, "a token that was used", "used by lab-gpu")]


async def _expired(place: Place) -> list[Figure]:
    keeper, inviter = await place.founder("expired")
    token = await inviter.invite(expires_s=600, roles=None, zones=())
    old = invites.parse(token, now=time.time())
    assert isinstance(old, invites.Invite)
    late = invites.mint(invites.Invite(old.mesh_prefix, keeper.id, old.secret, int(time.time()) - 3 * 3600, old.hints))
    return [await _says(place, late, "a token that ran out 3 h ago", "expired 3 h ago")]


async def _cut(place: Place) -> list[Figure]:
    _, inviter = await place.founder("cut")
    token = await inviter.invite(expires_s=600, roles=None, zones=())
    return [await _says(place, token[:-9], "a token of which nine characters are missing", "incomplete")]


async def _middle(place: Place) -> list[Figure]:
    """Somebody with another key sits at the inviter's address, as a wrong pin in the token would look too."""
    _, inviter = await place.founder("middle")
    right = invites.parse(await inviter.invite(expires_s=600, roles=None, zones=()), now=time.time())
    assert isinstance(right, invites.Invite)
    mallory, _ = await place.founder("mallory")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, HOST, 0, ssl=mallory.join_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        lured = invites.Invite(right.mesh_prefix, right.inviter, right.secret, right.expires_at, ((HOST, port),))
        figure = await _says(place, invites.mint(lured), "a machine in the middle", "not the inviter; nothing was told")
    return [figure, none_of("a machine in the middle", "what it was told", [it for it in heard if it])]

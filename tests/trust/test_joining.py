"""Joining with a token, over real TLS sockets on loopback."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meshnode.errors import HomeError, InvalidInput, MeshError, PeerLost, PermissionDenied, ProtocolError, TokenRefused
from meshnode.trust import identity, invites, joining, redeeming
from meshnode.trust.joining import Inviter, redeem
from meshnode.trust.keeper import Keeper
from meshnode.trust.statements import Statement

HOST = "127.0.0.1"


class Place:
    """Homes and inviters below one folder; all end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keepers: list[Keeper] = []
        self.inviters: list[Inviter] = []
        self.joined: list[Statement] = []
        self.hints = [HOST]

    def home(self, name: str) -> Keeper:
        keeper = Keeper.open(self.folder / name)
        self.keepers.append(keeper)
        return keeper

    async def inviter(self, keeper: Keeper, *, host: str = HOST) -> Inviter:
        inviter = Inviter(
            keeper,
            host=host,
            hints=lambda: self.hints,
            peers=lambda: [(keeper.id, [(HOST, 7433), ("::1", 7433)])],
            joined=self.joined.append,
        )
        self.inviters.append(inviter)
        await inviter.start()
        return inviter

    async def founder(self, name: str = "a", *, host: str = HOST) -> tuple[Keeper, Inviter]:
        keeper = self.home(name)
        keeper.found("town", name)
        return keeper, await self.inviter(keeper, host=host)

    async def stop(self) -> None:
        for inviter in self.inviters:
            await inviter.stop()
        for keeper in self.keepers:
            keeper.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    it = Place(tmp_path)
    yield it
    await it.stop()


async def token_of(inviter: Inviter, *, expires_s: float = 600) -> str:
    return await inviter.invite(expires_s=expires_s, roles=None, zones=("ward-3",))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def leading_to(server: asyncio.Server, token: str) -> str:
    """The same token, with another address."""
    it = invites.parse(token, now=time.time())
    assert isinstance(it, invites.Invite)
    hints = ((HOST, server.sockets[0].getsockname()[1]),)
    return invites.mint(invites.Invite(it.mesh_prefix, it.inviter, it.secret, it.expires_at, hints))


async def say(port: int, message: dict[str, Any], *, lie: Callable[[bytes], dict[str, Any]] | None = None) -> Any:
    """Speak on the join port as somebody who keeps to no rules; the answer."""
    reader, writer = await asyncio.open_connection(HOST, port, ssl=identity.base_context(server=False))
    try:
        nonce = (await redeeming.receive(reader, 4096))["nonce"]
        redeeming.send(writer, {**message, **(lie(nonce) if lie else {})})
        return await redeeming.receive(reader, 2**20)
    finally:
        await redeeming.hang_up(writer)


def request(keeper: Keeper, token: str) -> tuple[dict[str, Any], Callable[[bytes], dict[str, Any]]]:
    """A right join request: its fixed fields, and those that follow from the nonce."""
    invite = invites.parse(token, now=time.time())
    fixed = {"v": 1, "invite": invites.tag(invite.key), "spki": keeper.spki, "name": "b"}
    return fixed, lambda nonce: {
        "proof": invites.proof(invite.key, invite.inviter, keeper.spki, nonce),
        "possession": keeper.key.sign(invites.possession(keeper.spki, invite.inviter, nonce)),
    }


async def test_a_token_makes_a_member(place: Place) -> None:
    """The joiner gets its certificate, everything the mesh knows and where its nodes are; both sides agree."""
    a, inviter = await place.founder()
    b = place.home("b")

    joined = await redeem(b, await token_of(inviter), "b")
    b.adopt(joined.membership)

    assert a.statements.root_hash == b.statements.root_hash
    assert ((a.id, ((HOST, 7433), ("::1", 7433))),) == joined.peers
    grant = a.statements.grant(b.id)
    assert grant is not None
    assert ("b", {"worker", "submitter", "publisher"}, ("ward-3",)) == (grant.name, grant.roles, grant.zones)
    assert [grant.statement] == [statement.id for statement in place.joined]
    assert b.id == a.check_peer(b.leaf, b.id)


async def test_a_token_works_once(place: Place) -> None:
    """The second machine is told who used it, also after a restart of the inviter; nobody new is a member."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    await redeem(place.home("b"), token, "lab-gpu")
    for _ in range(2):
        with pytest.raises(TokenRefused, match=r"used by lab-gpu \d+ s ago"):
            await redeem(place.home(f"c{len(place.keepers)}"), token, "c")
        await inviter.stop()
        inviter = await place.inviter(a)
    assert 2 == len(a.statements.members())


async def test_of_two_at_once_one_joins(place: Place) -> None:
    """However many show the token in the same moment, it makes one member."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    homes = [place.home(f"b{i}") for i in range(5)]

    outcomes = await asyncio.gather(*(redeem(home, token, home.home.name) for home in homes), return_exceptions=True)

    refused = [outcome for outcome in outcomes if isinstance(outcome, TokenRefused)]
    assert 4 == len(refused)
    assert 2 == len(a.statements.members())
    assert 1 == len(place.joined)


async def test_two_tokens_make_two_members_at_once(place: Place) -> None:
    """Joins with different tokens do not disturb each other."""
    a, inviter = await place.founder()
    tokens = [await token_of(inviter) for _ in range(5)]

    await asyncio.gather(*(redeem(place.home(f"b{i}"), token, f"b{i}") for i, token in enumerate(tokens)))
    assert ["a", "b0", "b1", "b2", "b3", "b4"] == [grant.name for grant in a.statements.members()]


async def test_an_expired_token_is_refused_by_both_sides(place: Place) -> None:
    """The joiner's clock refuses it at once; a joiner whose clock is wrong hears it from the inviter."""
    a, inviter = await place.founder()
    other = await token_of(inviter)
    token = await token_of(inviter, expires_s=3)
    b = place.home("b")
    fixed, follows = request(b, token)  # while it is good, on a loaded machine too
    await until(lambda: time.time() >= invites.parse(token, now=0).expires_at)

    with pytest.raises(TokenRefused, match="expired"):
        await redeem(b, token, "b")
    answer = await say(invites.parse(other, now=0).hints[0][1], fixed, lie=follows)
    assert "expired" in answer["error"]["message"]
    assert 1 == len(a.statements.members())


async def test_damaged_and_cut_tokens_are_refused_before_anything_is_dialled(place: Place) -> None:
    """The checksum is the first judge."""
    _, inviter = await place.founder()
    token = await token_of(inviter)
    b = place.home("b")
    wrong = "a" if token[70] != "a" else "b"

    with pytest.raises(TokenRefused, match="checksum"):
        await redeem(b, token[:70] + wrong + token[71:], "b")
    with pytest.raises(TokenRefused, match="incomplete: 130 of 138"):
        await redeem(b, token[:130], "b")
    assert 0 == len(inviter._porch)


async def test_a_machine_in_the_middle_hears_nothing(place: Place) -> None:
    """Who sits at the inviter's address with another key, or relays to it in clear, gets no byte of the proof."""
    a, inviter = await place.founder()
    invite = invites.parse(await token_of(inviter), now=time.time())
    mallory, _ = await place.founder("m")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redeeming.send(writer, {"v": 1, "nonce": bytes(32)})
        with suppress(OSError):
            heard.append(await reader.read())
        await redeeming.hang_up(writer)

    server = await asyncio.start_server(listen, HOST, 0, ssl=mallory.join_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        copied = invites.mint(
            invites.Invite(invite.mesh_prefix, invite.inviter, invite.secret, invite.expires_at, ((HOST, port),))
        )
        with pytest.raises(TokenRefused, match="not the inviter; nothing was told") as caught:
            await redeem(place.home("b"), copied, "b")
        await until(lambda: len(heard) == 1)

    assert [b""] == heard
    assert "do not go on" in caught.value.hint
    assert 1 == len(a.statements.members())


async def test_the_right_one_of_several_addresses_is_found(place: Place) -> None:
    """A stranger, a closed port and a silent one beside the inviter's address keep nobody from joining."""
    a, inviter = await place.founder()
    invite = invites.parse(await token_of(inviter), now=time.time())
    _, other = await place.founder("m")
    await token_of(other)
    with socket.create_server((HOST, 0)) as silent:
        assert other.port is not None
        hints = ((HOST, other.port), (HOST, silent.getsockname()[1]), invite.hints[0])
        token = invites.mint(
            invites.Invite(invite.mesh_prefix, invite.inviter, invite.secret, invite.expires_at, hints)
        )
        joined = await redeem(place.home("b"), token, "b")
    assert [a.id] == [node for node, _ in joined.peers]


async def test_nobody_at_the_address_is_told(place: Place) -> None:
    """A closed port is PeerLost with what to look at; a token without addresses is refused."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    await inviter.stop()
    with pytest.raises(PeerLost, match="did not answer") as caught:
        await redeem(place.home("b"), token, "b")
    assert "ask for a new one" in caught.value.hint
    place.hints = []
    with pytest.raises(TokenRefused, match="no address"):
        await redeem(place.home("c"), await token_of(await place.inviter(a)), "c")


async def test_another_mesh_than_the_tokens_is_not_entered(place: Place) -> None:
    """An inviter that answers for another mesh is refused when its answer is adopted."""
    _, inviter = await place.founder()
    invite = invites.parse(await token_of(inviter), now=time.time())
    token = invites.mint(invites.Invite("00" * 16, invite.inviter, invite.secret, invite.expires_at, invite.hints))
    b = place.home("b")
    joined = await redeem(b, token, "b")
    with pytest.raises(PermissionDenied, match="another mesh"):
        b.adopt(joined.membership)
    assert not b.belongs


async def test_five_wrong_proofs_burn_a_token(place: Place) -> None:
    """Who knows which invite is meant and cannot prove it has five tries; then its holder is told."""
    a, inviter = await place.founder()
    token, other = await token_of(inviter), await token_of(inviter)
    b = place.home("b")
    fixed, _ = request(b, token)
    assert inviter.port is not None
    for _ in range(5):
        answer = await say(inviter.port, {**fixed, "proof": bytes(32), "possession": bytes(64)})
        assert "does not fit" in answer["error"]["message"]

    with pytest.raises(TokenRefused, match="5 wrong proofs"):
        await redeem(b, token, "b")
    await redeem(b, other, "b")
    assert 2 == len(a.statements.members())


async def test_strangers_cannot_burn_tokens(place: Place) -> None:
    """Guesses that name no invite change nothing, on disk or off it."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    b = place.home("b")
    fixed, follows = request(b, token)
    before = (a.home / "invites").read_bytes()
    assert inviter.port is not None
    for seed in range(8):
        answer = await say(inviter.port, {**fixed, "invite": bytes([seed]) * 8}, lie=follows)
        assert "unknown here" in answer["error"]["message"]

    assert before == (a.home / "invites").read_bytes()
    await redeem(b, token, "b")


async def test_a_proof_is_good_for_one_connection_and_one_key(place: Place) -> None:
    """A recorded request, another key in its place, or a key that is only shown and not held: refused."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    b, c = place.home("b"), place.home("c")
    fixed, follows = request(b, token)
    recorded = follows(bytes(32))
    assert inviter.port is not None

    replayed = await say(inviter.port, {**fixed, **recorded})
    swapped = await say(inviter.port, {**fixed, "spki": c.spki}, lie=follows)
    unheld = await say(inviter.port, fixed, lie=lambda nonce: {**follows(nonce), "possession": c.key.sign(b"x")})

    assert ["does not fit", "does not fit", "does not hold the key"] == [
        next(part for part in ("does not fit", "does not hold the key") if part in answer["error"]["message"])
        for answer in (replayed, swapped, unheld)
    ]
    assert 1 == len(a.statements.members())
    await redeem(b, token, "b")


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"spki": 1}, {"name": ""}, {"name": "a\nb"}, {"name": "x" * 129}, {"invite": None}, {"proof": "text"}],
)
async def test_a_malformed_request_is_refused(place: Place, change: dict[str, Any]) -> None:
    """Wrong versions and types get a typed error, and the token stays good."""
    _, inviter = await place.founder()
    token = await token_of(inviter)
    b = place.home("b")
    fixed, follows = request(b, token)
    assert inviter.port is not None

    answer = await say(inviter.port, fixed, lie=lambda nonce: {**follows(nonce), **change})
    assert "protocol_error" == answer["error"]["code"]
    await redeem(b, token, "b")


async def test_a_revoked_key_does_not_come_back_with_a_token(place: Place) -> None:
    """It is told to make a new key, and the token stays good for another machine."""
    a, inviter = await place.founder()
    b = place.home("b")
    b.adopt((await redeem(b, await token_of(inviter), "b")).membership)
    a.revoke(b.id, "lost")
    token = await token_of(inviter)

    with pytest.raises(PermissionDenied, match=r"revoked \(lost\)") as caught:
        await redeem(b, token, "b")
    assert "new key" in caught.value.hint
    await redeem(place.home("c"), token, "c")


async def test_an_open_invite_survives_a_restart_on_the_same_port(place: Place) -> None:
    """The inviting agent goes and comes back, and the token in somebody's mail still works."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    port = inviter.port
    await inviter.stop()
    a.close()
    a = place.home("a")
    again = await place.inviter(a)

    assert port == again.port
    await redeem(place.home("b"), token, "b")
    assert 2 == len(a.statements.members())


async def test_a_taken_port_is_replaced(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """When another program took the port meanwhile, new tokens work; that old ones do not is told."""
    a, inviter = await place.founder()
    await token_of(inviter)
    port = inviter.port
    await inviter.stop()
    with socket.create_server((HOST, port or 0)):
        again = await place.inviter(a)
        assert again.port not in (None, port)
        await redeem(place.home("b"), await token_of(again), "b")
    assert f"port {port} is taken" in caplog.text


async def test_the_port_is_open_only_while_a_token_leads_to_it(place: Place) -> None:
    """Closed before the first invite, and again when the last one ran out."""
    _, inviter = await place.founder()
    assert inviter.port is None
    token = await token_of(inviter, expires_s=1)
    port = invites.parse(token, now=0).hints[0][1]
    assert port == inviter.port

    await until(lambda: inviter.port is None and not _answers(port))


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


async def test_an_invite_is_burned_before_it_is_signed(place: Place) -> None:
    """When the burn cannot be written, nobody becomes a member, and the token is good again afterwards."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    b = place.home("b")
    path, inviter._book._path = inviter._book._path, a.home / "gone" / "invites"

    with pytest.raises(HomeError):
        await redeem(b, token, "b")
    assert 1 == len(a.statements.members())
    inviter._book._path = path
    await redeem(b, token, "b")


async def test_only_an_admin_invites_and_only_within_bounds(place: Place) -> None:
    """No admin key, an unknown role, too long a life, a zone without a name: typed errors, no port opened."""
    _, inviter = await place.founder()
    b = place.home("b")
    b.adopt((await redeem(b, await token_of(inviter), "b")).membership)
    member = await place.inviter(b)

    with pytest.raises(PermissionDenied, match="only an admin may invite"):
        await token_of(member)
    assert member.port is None
    for expires_s, roles, zones in [
        (0, None, ()),
        (8 * 86400, None, ()),
        (60, ["emperor"], ()),
        (60, None, [""]),
        (60, None, ["a\x1b"]),
    ]:
        with pytest.raises(InvalidInput):
            await inviter.invite(expires_s=expires_s, roles=roles, zones=zones)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1"])
async def test_every_kind_of_address_is_listened_on(place: Place, host: str) -> None:
    """All interfaces, IPv6 with IPv4, and one IPv6 address."""
    if ":" in host and not await _has_ipv6():
        return
    place.hints = ["::1"] if ":" in host else [HOST]
    a, inviter = await place.founder(host=host)
    await redeem(place.home("b"), await token_of(inviter), "b")
    if host == "::":
        place.hints = [HOST]
        await redeem(place.home("c"), await token_of(inviter), "c")
    assert len(a.statements.members()) >= 2


async def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_noise_on_the_port_is_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no TLS, silence, a huge length, a half message: the connection ends and tokens still work."""
    monkeypatch.setattr(joining, "HANDSHAKE_S", 0.5)
    a, inviter = await place.founder()
    token = await token_of(inviter)
    assert inviter.port is not None

    async def ends(*, tls: bool, data: bytes) -> None:
        context = identity.base_context(server=False) if tls else None
        reader, writer = await asyncio.open_connection(HOST, inviter.port, ssl=context)
        try:
            writer.write(data)
            with suppress(ConnectionError):
                await reader.read()
        finally:
            await redeeming.hang_up(writer)

    async with asyncio.timeout(20):
        for tls, data in [
            (False, b"GET / HTTP/1.1\r\n\r\n"),
            (False, b""),
            (True, b""),
            (True, struct.pack(">I", 2**32 - 1)),
            (True, struct.pack(">I", 2000) + b"half"),
            (True, struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1"),
            (True, struct.pack(">I", 1) + b"\x01"),
        ]:
            await ends(tls=tls, data=data)
        await redeem(place.home("b"), token, "b")
    assert 2 == len(a.statements.members())


async def test_silence_from_one_address_keeps_nobody_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the room the oldest of the address with most goes, so that a machine from another one comes in at once."""
    monkeypatch.setattr(joining, "CONNECTIONS_MAX", 3)
    _, inviter = await place.founder(host="0.0.0.0")
    token = await token_of(inviter)
    held = [await asyncio.open_connection("127.0.0.2", inviter.port) for _ in range(5)]
    async with asyncio.timeout(5):
        for reader, _ in held[:2]:
            with suppress(ConnectionError):
                assert b"" == await reader.read()
        await redeem(place.home("b"), token, "b")
    for _, writer in held:
        writer.close()
    await until(lambda: len(inviter._porch) == 0)


class Ending:
    """A port in front of the inviter's that passes bytes on, and hangs up on the first connections at some point."""

    def __init__(self, port: int, times: int, after: int | None) -> None:
        self.port, self.times, self.after = port, times, after
        self.came = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`after` so many bytes of the joiner it ends; None: before it reads any."""
        self.came += 1
        ends = self.came <= self.times
        if ends and self.after is None:
            writer.transport.abort()
            return
        theirs, ours = await asyncio.open_connection(HOST, self.port)
        back = asyncio.ensure_future(self._pass(theirs, writer))
        passed = 0
        while data := await self._some(reader):
            passed += len(data)
            ours.write(data)
            if ends and self.after is not None and passed > self.after:
                break
        back.cancel()
        ours.close()
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._some(reader):
            writer.write(data)

    async def _some(self, reader: asyncio.StreamReader) -> bytes:
        with suppress(OSError):
            return await reader.read(65536)
        return b""


@pytest.mark.parametrize("after", [None, 0], ids=["at once", "within the handshake"])
async def test_who_was_told_nothing_is_come_back_to(place: Place, after: int | None) -> None:
    """A flooded port hangs up on joiners too: before the proof is shown the token is as good as ever."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    assert inviter.port is not None
    ending = Ending(inviter.port, 3, after)
    async with await asyncio.start_server(ending.serve, HOST, 0) as server:
        await redeem(place.home("b"), leading_to(server, token), "b")
    assert (4, 2) == (ending.came, len(a.statements.members()))


async def test_a_token_that_was_used_up_without_an_answer_is_told_so(place: Place) -> None:
    """The answer is lost, and the joiner comes back: it hears that the token is used, and by whom."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    b = place.home("b")
    wrote = 0

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal wrote
        theirs, ours = await asyncio.open_connection(HOST, inviter.port, ssl=identity.base_context(server=False))
        redeeming.send(writer, await redeeming.receive(theirs, 4096))
        redeeming.send(ours, await redeeming.receive(reader, 4096))
        answer = await redeeming.receive(theirs, 2**20)
        if wrote:
            redeeming.send(writer, answer)
        wrote += 1
        await redeeming.hang_up(writer)
        await redeeming.hang_up(ours)

    async with await asyncio.start_server(deaf, HOST, 0, ssl=a.join_context()) as server:
        with pytest.raises(TokenRefused, match="used by b"):
            await redeem(b, leading_to(server, token), "b")
    assert (2, 2) == (wrote, len(a.statements.members()))


async def test_half_an_answer_is_not_asked_for_again(place: Place) -> None:
    """The token is used up: that is told at once."""
    a, inviter = await place.founder()
    token = await token_of(inviter)
    came = 0

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        redeeming.send(writer, {"v": 1, "nonce": bytes(32)})
        await redeeming.receive(reader, 4096)
        writer.write(struct.pack(">I", 1000) + b"half")
        await redeeming.hang_up(writer)

    async with await asyncio.start_server(half, HOST, 0, ssl=a.join_context()) as server:
        with pytest.raises(PeerLost, match="fell silent") as caught:
            await redeem(place.home("b"), leading_to(server, token), "b")
    assert ("ask for a new token if this one was used up", 1) == (caught.value.hint, came)


async def test_who_always_hangs_up_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries it is told, and that the token was not used."""
    monkeypatch.setattr(redeeming, "AGAIN_S", 0.5)
    _, inviter = await place.founder()
    token = await token_of(inviter)
    assert inviter.port is not None
    ending = Ending(inviter.port, 10**9, None)
    async with await asyncio.start_server(ending.serve, HOST, 0) as server:
        with pytest.raises(PeerLost, match="hung up each time") as caught:
            await redeem(place.home("b"), leading_to(server, token), "b")
    assert "the token was not used" in caught.value.hint
    assert ending.came > 1
    await redeem(place.home("c"), token, "c")


async def test_a_joiner_that_a_flood_pushed_out_comes_in(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers at its own address come to a porch for two until it was sent away twice; then it is let in."""
    monkeypatch.setattr(joining, "CONNECTIONS_MAX", 2)
    a, inviter = await place.founder()
    assert "" != await token_of(inviter), "the port is open"
    sent_away = 0
    once = redeeming._try

    async def counted(*words: Any) -> redeeming.Joined:
        nonlocal sent_away
        try:
            return await once(*words)
        except redeeming._HungUp:
            sent_away += 1
            raise

    monkeypatch.setattr(redeeming, "_try", counted)

    async def flood() -> None:
        while sent_away < 2:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, inviter.port)
                writer.close()
            await asyncio.sleep(0)

    floods = [asyncio.ensure_future(flood()) for _ in range(4)]
    machines = 0
    try:
        while sent_away < 2:  # who is quick enough comes in at once; then the next one is tried
            machines += 1
            await redeem(place.home(f"b{machines}"), await token_of(inviter), f"b{machines}")
    finally:
        sent_away += 2
        await asyncio.gather(*floods)
    assert 1 + machines == len(a.statements.members())


async def test_twenty_machines_behind_one_address_come_in_at_once(place: Place) -> None:
    """A room full of new machines looks like one address, and strangers are there too: all of them are members."""
    a, inviter = await place.founder(host="0.0.0.0")
    assert inviter.port is None
    tokens = [await token_of(inviter) for _ in range(20)]
    strangers = [await asyncio.open_connection("127.0.0.2", inviter.port) for _ in range(joining.CONNECTIONS_MAX)]
    homes = [place.home(f"b{i}") for i in range(20)]
    joins = (redeem(home, token, home.home.name) for home, token in zip(homes, tokens, strict=True))
    joined = await asyncio.gather(*joins, return_exceptions=True)
    assert [] == [it for it in joined if isinstance(it, BaseException)]
    assert 21 == len(a.statements.members())
    for _, writer in strangers:
        writer.close()


async def test_a_stranger_costs_little(place: Place) -> None:
    """Bytes that are no TLS cost the inviting node a small part of what a TLS handshake with it costs the stranger."""
    _, inviter = await place.founder()
    await token_of(inviter)
    assert inviter.port is not None

    async def noise() -> None:
        reader, writer = await asyncio.open_connection(HOST, inviter.port)
        writer.write(b"noise" * 100)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(50):
        await noise()
    each_s = (resource.getrusage(resource.RUSAGE_SELF).ru_utime - before) / 50
    assert each_s < 0.01  # both sides together; a bound for loaded machines, the figure is in protocols/trust.md


class Liar:
    """An inviter that holds the right key and answers nonsense."""

    def __init__(self, keeper: Keeper, first: bytes, answer: bytes | None) -> None:
        self.keeper, self.first, self.answer = keeper, first, answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(struct.pack(">I", len(self.first)) + self.first)
        with suppress(OSError, asyncio.IncompleteReadError, MeshError):
            await redeeming.receive(reader, 4096)
            if self.answer is not None:
                writer.write(struct.pack(">I", len(self.answer)) + self.answer)
            await writer.drain()
        await redeeming.hang_up(writer)


@pytest.mark.parametrize(
    ("first", "answer", "error", "says"),
    [
        (b"\x80", None, ProtocolError, "nonce"),
        (b"\x81\xa5nonce\x01", None, ProtocolError, "nonce"),
        (b"\x93\x01\x02\x03", None, ProtocolError, "not a map"),
        (b"noise", None, ProtocolError, "not a map|malformed"),
        (b"\x81\xa5nonce\xc4\x20" + bytes(32), None, PeerLost, "hung up"),
        (b"\x81\xa5nonce\xc4\x20" + bytes(32), b"\x80", ProtocolError, "malformed"),
        (b"\x81\xa5nonce\xc4\x20" + bytes(32), b"\x81\xa5error\x81\xa8attempts\x01", ProtocolError, "malformed"),
        (b"\x81\xa5nonce\xc4\x20" + bytes(32), b"\x81\xa5error\x82\xa4code\xa3new\xa7message\xa2no", MeshError, "no"),
        (
            b"\x81\xa5nonce\xc4\x20" + bytes(32),
            b"\x83\xa4leaf\x01\xaastatements\x90\xa5peers\x90",
            ProtocolError,
            "malformed",
        ),
    ],
)
async def test_an_inviter_that_answers_nonsense_is_a_typed_error(
    place: Place,
    first: bytes,
    answer: bytes | None,
    error: type[MeshError],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the right machine says, the joiner ends with an error of ours."""
    monkeypatch.setattr(redeeming, "AGAIN_S", 0.0)
    a, inviter = await place.founder()
    invite = invites.parse(await token_of(inviter), now=time.time())
    server = await asyncio.start_server(Liar(a, first, answer).serve, HOST, 0, ssl=a.join_context())
    async with server:
        hints = ((HOST, server.sockets[0].getsockname()[1]),)
        token = invites.mint(
            invites.Invite(invite.mesh_prefix, invite.inviter, invite.secret, invite.expires_at, hints)
        )
        with pytest.raises(error, match=says):
            await redeem(place.home("b"), token, "b")


def test_joining_works_on_the_event_loop_of_production(tmp_path: Path) -> None:
    """The same on uvloop, where there is one."""
    uvloop = pytest.importorskip("uvloop")

    async def story() -> int:
        place = Place(tmp_path)
        try:
            a, inviter = await place.founder()
            token = await token_of(inviter)
            b = place.home("b")
            b.adopt((await redeem(b, token, "b")).membership)
            with pytest.raises(TokenRefused, match="used by b"):
                await redeem(place.home("c"), token, "c")
            return len(a.statements.members())
        finally:
            await place.stop()

    run: Callable[[Awaitable[int]], int] = uvloop.run
    assert 2 == run(story())

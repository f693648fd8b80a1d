"""Entering a mesh with a token: at its inviter, or with a batch token at any member that is up.

With a batch token the joiner signs its own certificate by the token's key, dials the members' ordinary port with it,
fetches what the mesh knows about trust, checks that against the mesh id in the token, and says that it joins: a
`redeem` statement, which the member spreads. Members are looked for at the addresses in the token, at the seeds, and by
multicast, until one lets this machine in or says why not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshnode.config import Settings, host_port
from meshnode.errors import MeshError, PeerLost, PermissionDenied, ProtocolError, Revoked, TokenRefused
from meshnode.links.address import Address, plain
from meshnode.links.link import Incoming, Link, Reply
from meshnode.links.pool import BULK, Pool
from meshnode.links.side import Side
from meshnode.membership import reading
from meshnode.membership.candidates import Gone, Heard
from meshnode.membership.multicast import Multicast
from meshnode.trust import batch, believing, form, hardware, identity
from meshnode.trust.batch import EARLY_S, BatchInvite
from meshnode.trust.homefiles import empty
from meshnode.trust.invites import BatchToken
from meshnode.trust.inviting import root_of
from meshnode.trust.keeper import Membership
from meshnode.trust.redeeming import Applicant, Joined
from meshnode.trust.statements import STATEMENT_BYTES_MAX, StatementSet
from meshnode.version import __version__
from meshnode.wire import batches, messages
from meshnode.wire.messages import Hello, NodeId, TrustDelta, TrustPush, TrustSync

log = logging.getLogger(__name__)

DEFAULT_PORT = 7433
LOOK_S = 30.0
"""So long members are looked for."""
ROUND_S = 1.0
"""Everybody who is known is tried so often; who did not know the token yet may have heard of it by then."""
STAGGER_S = 0.3
"""The next is tried beside the first after so long."""
TRIED_MAX = 16
"""Addresses in one round."""
EXCHANGE_S = 30.0
"""For a statement set of a large mesh over a slow line."""
RESOLVE_S = 5.0


async def arrive(applicant: Applicant, token: BatchToken, name: str, settings: Settings) -> Joined:
    """Join with a batch token at whichever member answers. Nothing is written; `Keeper.adopt` does that.

    Raises TokenRefused when a member says why not, Revoked for a key that was thrown out, PeerLost when nobody
    answers, ProtocolError.
    """
    if time.time() < token.issued_at - EARLY_S:
        raise TokenRefused(
            f"this machine's clock says {_utc(time.time())}, and the token was made on {_utc(token.issued_at)}",
            hint="set the clock: `sudo timedatectl set-ntp true`, or by hand",
        )
    arrival = Arrival(applicant, token, name, settings)
    try:
        async with asyncio.timeout(LOOK_S), arrival.listening():
            while True:
                if (joined := await arrival.round()) is not None:
                    return joined
                await asyncio.sleep(ROUND_S)
    except TimeoutError:
        tried = "; ".join(f"{host}:{port}: {why}" for (host, port), why in arrival.failures.items())
        raise PeerLost(
            f"no member of the token's mesh let this machine in ({tried or 'no address is known'})",
            hint="is one of them up and reachable? --seed HOST:PORT names one that the token does not",
        ) from None
    finally:
        await arrival.pool.stop("bye", "it has what it came for")


@dataclass(eq=False)
class Arrival:
    """One machine on its way into a mesh. It is the `Credentials` of its own pool."""

    applicant: Applicant
    token: BatchToken
    name: str
    settings: Settings
    failures: dict[Address, str] = field(default_factory=dict)
    _heard: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    _leaves: dict[NodeId, bytes] = field(default_factory=dict)
    _said: bytes = b""
    """One redemption, however many members hear it."""

    def __post_init__(self) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(self.token.seed)
        self.spki = identity.public_der(self.key)
        self.id: NodeId = identity.node_id(self.applicant.spki)
        root = root_of(self.key)
        self.leaf = identity.issue_leaf(self.key, root, self.applicant.spki, self.token.mesh_id, now=datetime.now(UTC))
        side = Side(
            hello=self._hello,
            handler=self._refuse,
            settings=self.settings.links,
            requests=messages.decode_peer_request,
            replies=messages.decode_peer_reply,
        )
        nothing = lambda *_: None  # noqa: E731 - this pool lives for one question
        self.pool = Pool(self, side, opened=nothing, lost=nothing, silent=nothing)
        self.pool.refresh()

    # --- finding ---

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear members announce themselves, where multicast is wanted and works."""
        ways = self.settings.discovery
        network = reading.now(host_port(self.settings.listen)[0], ways.interfaces)
        multicast = Multicast(self.token.mesh_id, network, 0, heard=self._note) if ways.mdns and network.used else None
        asking = asyncio.ensure_future(_ask(multicast)) if multicast is not None else None
        try:
            yield
        finally:
            if multicast is not None and asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await multicast.close()

    def _note(self, event: Heard | Gone) -> None:
        if isinstance(event, Heard):
            self._heard[event.label] = event.addresses

    async def _places(self) -> list[Address]:
        seeds = [await _resolved(seed) for seed in self.settings.discovery.seeds]
        known = [self.token.hints, *seeds, *self._heard.values()]
        return [*dict.fromkeys(address for addresses in known for address in addresses)][:TRIED_MAX]

    async def round(self) -> Joined | None:
        """Try everybody who is known, each a little after the one before: who answers first lets this machine in.

        Raises TokenRefused when nobody did and a member said why not.
        """
        places = await self._places()
        tries = {asyncio.ensure_future(self._at(it, i * STAGGER_S)): it for i, it in enumerate(places)}
        refusal: PermissionDenied | None = None
        try:
            for trying in asyncio.as_completed(tries):
                try:
                    return await trying
                except PermissionDenied as error:
                    refusal = error
                except MeshError as error:
                    log.info("not let in: %s", error)
        finally:
            for task in tries:
                task.cancel()
            for outcome, address in zip(
                await asyncio.gather(*tries, return_exceptions=True), tries.values(), strict=True
            ):
                if isinstance(outcome, MeshError):
                    self.failures[address] = str(outcome)
        if refusal is not None:
            raise refusal if isinstance(refusal, Revoked) else TokenRefused(str(refusal), hint=refusal.hint)
        return None

    async def _at(self, address: Address, after_s: float) -> Joined:
        await asyncio.sleep(after_s)
        # On a bulk link, which starts nothing at the member but its answers.
        return await self._exchange(await self.pool.dial(address, kind=BULK), address)

    # --- joining ---

    async def _exchange(self, link: Link, address: Address) -> Joined:
        received = await link.call(TrustSync(), (batches.pack_batch([]),), timeout_s=EXCHANGE_S)
        if not isinstance(received.message, TrustDelta):
            raise ProtocolError(f"TrustSync was answered with {type(received.message).__name__}")
        items = batches.unpack_batch(received.body, item_bytes_max=STATEMENT_BYTES_MAX)
        held = empty(self.token.mesh_id)
        _, refused = held.merge(items[: received.message.statements])
        if refused:
            raise ProtocolError(f"a member sent a statement that does not hold: {refused[0]}")
        member = link.peer.id
        try:
            leaf = self._leaves.get(member)
            believing.check_peer(held, leaf, member, lambda node: _revoked(held, node), datetime.now(UTC))
        except PermissionDenied as error:
            raise PeerLost(f"the machine that answered is no member of the token's mesh: {error}") from error
        if (out := _revoked(held, self.id)) is not None:
            raise out
        grant = held.grant(self.id)
        if grant is not None and time.time() >= grant.expires_at:
            raise TokenRefused(
                f"this node was a member until {_utc(grant.expires_at)}",
                hint="move its home away, so that it makes a new key, and join again",
            )
        if grant is None:  # else it was here before, and lost its power before it wrote that down
            self._said = redemption = self._said or self._redemption(self._invite(held))
            held.add(redemption)
            await link.call(TrustPush(), (batches.pack_batch([redemption]),), timeout_s=EXCHANGE_S)
        membership = Membership(self.leaf, tuple(data for _, data in held.items()), self.token.mesh_id)
        return Joined(membership, ((member, (address,)),))

    def _invite(self, held: StatementSet) -> BatchInvite:
        found = [it for it in held.invites().values() if it.key == self.spki]
        still = [it for it in found if not believing.closed(it, time.time())]
        if not still:
            why = believing.closed(found[0], time.time()) if found else "is unknown to this mesh"
            raise TokenRefused(f"the token {why}", hint="ask for a new one")
        return still[0]

    def _redemption(self, invite: BatchInvite) -> bytes:
        machine = b""
        if invite.hardware:
            machine = next((it for it in hardware.ids().values() if it in invite.hardware), b"")
            if not machine:
                raise TokenRefused(
                    f"the token is for {len(invite.hardware)} machines, and this one is none of them",
                    hint="`meshnode hardware` here prints the ids that `meshnode invite --hardware` takes",
                )
        return form.make_statement(
            "redeem",
            batch.redeem_body(invite.id, self.id, self.name, batch.time_to_join(invite, time.time()), machine),
            mesh=self.token.mesh_id,
            issuer=self.spki,
            sign=self.key.sign,
            issued_at=int(time.time()),
            nonce=secrets.token_bytes(form.NONCE_BYTES),
        )

    # --- what the pool needs ---

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """TLS that shows our certificate, and believes any other until the statements can be asked about it."""
        server, client = (
            identity.base_context(server=it, key=self.applicant.key, leaf=self.leaf) for it in (True, False)
        )
        return server, client

    def check_peer(self, leaf: bytes | None, expected: NodeId | None) -> NodeId:
        """Who a peer says that it is; believed when its mesh's statements were read."""
        if leaf is None:
            raise PermissionDenied("the peer showed no certificate")
        node = identity.leaf_id(leaf)
        self._leaves[node] = leaf
        return node

    def _hello(self) -> Hello:
        return Hello(
            versions=(messages.PROTOCOL_VERSION,),
            id=self.id,
            name=self.name,
            boot=0,
            root=bytes(32),
            port=0,
            software=f"meshnode/{__version__}",
            body_bytes_max=self.settings.links.body_bytes_max,
        )

    async def _refuse(self, incoming: Incoming) -> Reply:
        raise PermissionDenied("this machine is on its way into the mesh and answers nothing yet")


def _revoked(held: StatementSet, node: NodeId) -> Revoked | None:
    revocation = held.revoked(node)
    return None if revocation is None else Revoked(f"node {node[:8]} was revoked: {revocation.reason or 'no reason'}")


async def _ask(multicast: Multicast) -> None:
    """Ask who is there, again and again; without multicast the mesh is found by its addresses."""
    with suppress(Exception):  # sockets, interfaces: whatever it is, the addresses are tried as well
        await multicast.open()
        while True:
            multicast.ask()
            await asyncio.sleep(ROUND_S)


async def _resolved(seed: str) -> tuple[Address, ...]:
    host, port = host_port(seed, default_port=DEFAULT_PORT)
    with suppress(OSError, TimeoutError, UnicodeError):
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return tuple(dict.fromkeys(plain(row[4]) for row in found))
    return ()


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"

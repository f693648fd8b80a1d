"""Agents that multicast cannot reach find each other through a broker; a broker that lies costs nothing but that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from meshnode.agent import Agent
from meshnode.doors import Mqtt
from meshnode.edge.mqtt.sealing import FRESH_S, Here
from meshnode.trust.identity import node_id
from meshnode.trust.keeper import Keeper
from tests.edge.living import founder, joiner, living, sees, settings
from tests.edge.mqtt.doors import bridge_of, serving
from tests.edge.mqtt.mosquitto import Mosquitto, outsider
from tests.waiting import until


@asynccontextmanager
async def strangers(folder: Path, broker: Mosquitto) -> AsyncIterator[tuple[Agent, Agent]]:
    """Two members that know nothing of where the other is: no multicast, no seeds, nothing remembered, new ports."""
    async with AsyncExitStack() as stack:
        async with founder(folder / "ann") as ann, joiner(folder / "bob", ann.node):
            pass
        agents = []
        for name in ("ann", "bob"):
            (folder / name / "peers").unlink(missing_ok=True)
            keeper = Keeper.open(folder / name)
            given = settings(name, mqtt=Mqtt(broker.url))
            agents.append(await stack.enter_async_context(living(folder / name, keeper, (), given)))
        yield agents[0], agents[1]


async def test_two_that_know_nothing_find_each_other(tmp_path: Path, broker: Mosquitto) -> None:
    """By what they left with the broker, of which a stranger can read nothing."""
    async with outsider(broker, "out", "#") as out, strangers(tmp_path, broker) as (ann, bob):
        await until(lambda: sees(ann.node, bob.node) and sees(bob.node, ann.node), "they see each other")
        ways = {a.node.membership.member(b.node.keeper.id).found_by for a, b in ((ann, bob), (bob, ann))}  # type: ignore[union-attr]
        assert "rendezvous" in ways
        records = [it for it in out.seen if it.topic.startswith(bridge_of(ann).finding.sealing.base)]
        assert 2 <= len(records)
        for it in records:
            for secret in (ann.node.keeper.id, "mesh", "127.0.0.1"):
                assert secret.encode() not in it.payload
                assert it.topic.count("/") == 2
                assert secret not in it.topic.removeprefix("meshnode/")


async def test_a_broker_that_dies_changes_nothing_for_the_mesh(tmp_path: Path, broker: Mosquitto) -> None:
    """Two that found each other stay linked, and one that starts without the broker starts."""
    async with strangers(tmp_path, broker) as (ann, bob):
        await until(lambda: sees(ann.node, bob.node) and sees(bob.node, ann.node), "they see each other")
        broker.kill()
        await until(lambda: not bridge_of(ann).serving and not bridge_of(bob).serving, "both lost the broker")
        link = ann.node.pool.get(bob.node.keeper.id)
        assert link is not None
        assert sees(ann.node, bob.node)
        async with joiner(tmp_path / "cat", ann.node, "cat", mqtt=Mqtt(broker.url)) as cat:
            await until(lambda: sees(cat.node, bob.node), "a third one joins without it")
        await broker.start()
        await serving(ann)
        assert link is ann.node.pool.get(bob.node.keeper.id), "nothing was dialled anew"


async def test_what_a_lying_broker_says_is_refused(tmp_path: Path, broker: Mosquitto) -> None:
    """Altered, of another node, old, replayed, of a stranger, huge, junk: each counts, none is dialled."""
    async with founder(tmp_path / "ann") as ann, joiner(tmp_path / "bob", ann.node, mqtt=Mqtt(broker.url)) as bob:
        bridge = await serving(bob)
        finding, keeper = bridge.finding, ann.node.keeper
        place = finding.sealing.place(keeper.id)

        def sealed(
            number: int, *, at: float = 0.0, boot: int = keeper.boot, topic: str = place, by: Keeper = keeper
        ) -> bytes:
            where = Here((("192.0.2.1", 7),))
            return finding.sealing.seal(
                topic,
                where,
                key=by.spki,
                sign=by.key.sign,
                boot=boot,
                number=number,
                at=time.time() + at,
                nonce=b"n" * 12,
            )

        stranger = Keeper.open(tmp_path / "stranger")
        good = sealed(5)
        bent = bytearray(sealed(7))
        bent[40] ^= 1
        other = finding.sealing.place(stranger.id)
        lies = [
            (place, bytes(bent)),
            (place, sealed(8, at=-FRESH_S - 5)),
            (place, sealed(9, at=FRESH_S + 5)),
            (place, sealed(4)),
            (place, sealed(100, boot=keeper.boot - 1)),
            (other, good),
            (other, sealed(10, topic=other)),
            (other, sealed(11, topic=other, by=stranger)),
            (place, b"x" * 2000),
            (place, b"x"),
            (finding.sealing.notes, good),
        ]
        stranger.close()
        async with outsider(broker) as out:
            await out.client.publish(place, good, qos=1, retain=True)
            await until(lambda: finding.counts["found"] == 1, "the true one is taken")
            for number, (topic, payload) in enumerate(lies, 1):
                await out.client.publish(topic, payload, qos=1, retain=True)
                await until(lambda number=number: finding.counts["refused"] == number, f"lie {number} is refused")  # type: ignore[misc]
            await out.client.publish(place, b"", qos=1, retain=True)
            for _ in range(700):
                await out.client.publish(place, b"x" * 100, qos=0)
            await until(lambda: finding.counts["too many"] > 0, "a flood is not even opened")
        assert 1 == finding.counts["found"]
        assert sees(bob.node, ann.node)


@pytest.mark.parametrize("out_of", ["revoked", "unknown"])
async def test_who_was_thrown_out_is_not_dialled(tmp_path: Path, broker: Mosquitto, out_of: str) -> None:
    """It can still read what lies there, for it knew the mesh; what it writes counts for nothing."""
    async with founder(tmp_path / "ann", mqtt=Mqtt(broker.url)) as ann:
        bridge = await serving(ann)
        other = Keeper.open(tmp_path / "bob")
        if out_of == "revoked":
            async with joiner(tmp_path / "cat", ann.node, "cat") as cat:
                key, spki = cat.node.keeper.key, cat.node.keeper.spki
                statement = ann.node.keeper.revoke(cat.node.keeper.id, "it was lost")
                ann.node.trust.learnt([statement])
        else:
            key, spki = other.key, other.spki
        other.close()
        sealing = bridge.finding.sealing
        topic = sealing.place(node_id(spki))
        record = sealing.seal(
            topic, Here((("127.0.0.1", 9),)), key=spki, sign=key.sign, boot=1, number=1, at=time.time(), nonce=b"n" * 12
        )
        async with outsider(broker) as out:
            await out.client.publish(topic, record, qos=1, retain=True)
            await until(lambda: bridge.finding.counts["refused"] == 1, "it is refused")
        assert 0 == bridge.finding.counts["found"]

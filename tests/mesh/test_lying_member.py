"""A member with right credentials that lies in every field of every message: nobody else's work or record suffers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import numpy as np
import psutil

import meshnode
from meshnode.errors import MeshError
from meshnode.membership import advert
from meshnode.membership.advert import Held
from meshnode.trust import identity
from meshnode.trust.keeper import Keeper
from meshnode.trust.redeeming import redeem
from meshnode.wire import messages
from tests.mesh.liar import QUICK_S, Liar, structs_of
from tests.mesh.rig import MODELS, Agent, Rig
from tests.waiting import until

MEMORY_BYTES_MAX = 150_000_000
DESCRIPTORS_MAX = 60
AT_ONCE = 24
PINNED_MIN = 100
UNWELL = re.compile(r"Traceback|\S+ (ERROR|CRITICAL) ")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202e]")


async def honest_tasks(agent: Agent, over: asyncio.Event) -> int:
    """Somebody else's tasks, one after the other, each answered rightly; how many."""
    done = 0
    async with meshnode.AsyncClient(agent.home) as client:
        while not over.is_set():
            x = np.full((1, 4), done, np.float32)
            outputs = await client.infer("echo", {"x": x}, timeout=60.0)
            np.testing.assert_array_equal(x, outputs["y"])
            assert ["y"] == list(outputs)
            done += 1
    return done


async def tasks_for(liar: Liar, agent: Agent, over: asyncio.Event) -> Counter[str]:
    """Tasks that only the liar may run: the right answer or an error that says whose fault it is."""
    became: Counter[str] = Counter()
    async with meshnode.AsyncClient(agent.home) as client:
        while not over.is_set() or became.total() < PINNED_MIN:
            x = np.full((1, 4), became.total(), np.float32)
            try:
                outputs = await client.infer("echo", {"x": x}, timeout=2.0, node=liar.id)
            except MeshError as error:
                became[error.code] += 1
                continue
            np.testing.assert_array_equal(x, outputs["y"])
            became["right"] += 1
    return became


def address_of(agent: Agent) -> tuple[str, int]:
    host, _, port = agent.address.rpartition(":")
    return host, int(port)


def records(agent: Agent, of: list[Agent]) -> list[tuple[object, ...]]:
    """What an agent believes of the honest ones."""
    ids = {it.id for it in of}
    return sorted(
        (row["id"], row["name"], row["state"], row["usable"], tuple(row.get("zones") or ()))
        for row in agent.status()["nodes"]
        if row["id"] in ids
    )


async def joined(rig: Rig, agents: list[Agent]) -> Liar:
    """The liar as a member that all believe alive, with the model in its memory as it says."""
    keeper = Keeper.open(rig.folder / "liar")
    token = agents[0].command("invite").stdout.strip()
    keeper.adopt((await redeem(keeper, token, "liar")).membership)
    liar = Liar(keeper, seed=1)
    await liar.start()
    digest = agents[0].json("model", "list")[0]["digest"]
    liar.digest = digest
    liar.words = [agents[0].id, *(it.id for it in agents[1:]), liar.id, digest, "f" * 64]
    liar.words += [identity.id_bytes(it) for it in liar.words[: len(agents)]]  # type: ignore[arg-type]
    liar.membership.advertise(
        advert.Content(
            addresses=(liar.address,),
            software="1",
            zone="",
            labels={},
            cpu=advert.Cpu("cpu", 64, 5.0),
            memory_total=1 << 40,
            gpus=(),
            providers=("CPUExecutionProvider",),
            slots=16,
            models=(Held(digest, True, QUICK_S),),
            power=advert.PowerState("mains", None),
        )
    )
    for agent in agents:
        await liar.pool.link(agent.id, (address_of(agent),))  # type: ignore[arg-type]
    for agent in agents:
        await until(lambda agent=agent: agent.states().get(liar.id) == "alive", "it is one of them")  # type: ignore[misc]
    return liar


async def test_whatever_a_member_says_the_others_work_on(mesh_rig: Rig) -> None:
    """Each field of each request, answer, advert, statement and datagram, in turn, while two clients go on working."""
    agents = await asyncio.to_thread(mesh_rig.mesh, 2)
    agents[0].command("model", "add", str(MODELS / "echo" / "model.onnx"), "--name", "echo")
    async with meshnode.AsyncClient(agents[1].home) as client:  # the model is in memory on both
        await client.infer("echo", {"x": np.ones((1, 4), np.float32)}, timeout=60.0)
    liar = await joined(mesh_rig, agents)
    processes = [psutil.Process(agent.process.pid) for agent in agents]
    before = [(it.memory_info().rss, it.num_fds()) for it in processes]
    believed = [records(agent, agents) for agent in agents]
    over = asyncio.Event()
    working = [asyncio.ensure_future(honest_tasks(agent, over)) for agent in agents]
    pinned = asyncio.ensure_future(tasks_for(liar, agents[1], over))
    try:
        await _lie(liar, agents)
        assert not any(it.done() for it in (*working, pinned)), "a client has failed"
    finally:
        over.set()
        became, *done = await asyncio.gather(pinned, *working)
        await liar.stop(None)
        liar.keeper.close()

    print(f"{sum(liar.told.values())} requests: {dict(liar.told)}\n{dict(liar.lied)} lied to")
    print(f"{done} honest tasks, {dict(became)}")
    assert min(done) > 20
    assert liar.told["protocol_error"] > 300, "what is malformed is refused by the decoder"
    assert liar.lied["inferred"] > 30, "tasks went to it, and came back"
    assert became["protocol_error"] > 10
    assert liar.told.keys() >= {"Done", "permission_denied"}
    assert believed == [records(agent, agents) for agent in agents]
    for process, (memory, descriptors) in zip(processes, before, strict=True):
        assert memory + MEMORY_BYTES_MAX > process.memory_info().rss
        assert descriptors + DESCRIPTORS_MAX > process.num_fds()
    for agent in agents:
        lines = agent.log().split("\n")
        assert [] == [line for line in lines if UNWELL.match(line) or CONTROL.search(line)]


async def _lie(liar: Liar, agents: list[Agent]) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    ports = {agent.id: address_of(agent) for agent in agents}

    async def ask(agent: Agent, message: dict[str, object], body: bytes) -> None:
        async with room:
            try:
                link = await liar.pool.link(agent.id, (ports[agent.id],))  # type: ignore[arg-type]
            except MeshError as error:
                liar.told[f"no link: {error.code}"] += 1
                return
            await liar.ask(link, message, body)

    datagrams = liar.datagrams()
    asked = list(liar.requests())
    liar.rng.shuffle(asked)
    for begin in range(0, len(asked), 50):
        for plain in (it for _, it in zip(range(20), datagrams, strict=False)):
            liar.throw(ports, plain)  # type: ignore[arg-type]
        await asyncio.gather(*(ask(liar.rng.choice(agents), *it) for it in asked[begin : begin + 50]))
    for plain in datagrams:
        liar.throw(ports, plain)  # type: ignore[arg-type]


def test_no_message_is_left_out() -> None:
    """The lies are made of the unions: all requests and all answers between agents, each with all of its fields."""
    tags = {
        str(it.__struct_config__.tag) for it in (*structs_of(messages.PeerRequest), *structs_of(messages.PeerReply))
    }
    assert {"infer", "inferred", "relay_data", "renew_ask", "admin_key", "fleet_rows", "view_news"} <= tags
    assert len(tags) > 40

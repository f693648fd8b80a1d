"""What is wrong with this machine and its network, each with the fix. A check says yes, no, or cannot tell."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any

from meshnode.edge.node import Node
from meshnode.errors import MeshError, WorkerCrashed
from meshnode.links.link import Link
from meshnode.wire.messages import StreamPing, Vitals, VitalsAsk

CLOCK_S = 24 * 3600
CLOCKS_MAX, CLOCK_ANSWER_S = 64, 2.0
APART_S = 60.0
"""Clocks that differ by less are as good as people need them."""
WORKER_S = 10.0


def _row(check: str, ok: bool | None, detail: str, fix: str = "") -> dict[str, Any]:
    return {"check": check, "ok": ok, "detail": detail, "fix": fix if ok is not True else ""}


async def examine(node: Node) -> list[dict[str, Any]]:
    """All checks, in the order in which they matter."""
    rows = [await _worker(node), _gpu(node), _disk(node), await _clock(node), _listener(node), _mdns(node)]
    rows += [_owner(node), *_alone(node), *_out(node)]
    rows += await asyncio.gather(*(_peer(node, m.id) for m in node.membership.view() if m.id != node.keeper.id))
    return rows


def _out(node: Node) -> list[dict[str, Any]]:
    out = node.keeper.out
    return [] if out is None else [_row("membership", False, str(out), out.hint)]


async def _worker(node: Node) -> dict[str, Any]:
    try:
        async with asyncio.timeout(WORKER_S):
            await node.execution.ready()
    except (WorkerCrashed, TimeoutError) as error:
        return _row("worker", False, str(error) or "not ready yet", "the agent's log says why: `meshnode logs`")
    return _row("worker", True, f"runs models on {', '.join(node.execution.providers)}")


def _gpu(node: Node) -> dict[str, Any]:
    gpus = node.devices.gpus
    if not gpus:
        return _row("gpu", None, "no NVIDIA GPU is seen by its driver", "")
    if "CUDAExecutionProvider" in node.execution.providers:
        return _row("gpu", True, f"{gpus[0].name}: a run on CUDA worked")
    return _row(
        "gpu",
        False,
        f"{gpus[0].name} is there, and no run on CUDA worked; only the CPU is advertised",
        "install CUDA's libraries: pip install 'meshnode[cuda]'",
    )


def _alone(node: Node) -> list[dict[str, Any]]:
    """What membership says about this node itself, when it is not well."""
    rows = []
    if node.membership.copied:
        rows.append(_row("identity", False, node.membership.copied, "here: `meshnode leave`, then `meshnode up TOKEN`"))
    if node.membership.isolated:
        fix = "look at cable, Wi-Fi and firewall: UDP and TCP of the agent's port must pass both ways"
        rows.append(_row("network", False, "nobody in the mesh is heard any more", fix))
    return rows


def _disk(node: Node) -> dict[str, Any]:
    free = shutil.disk_usage(node.home).free
    reserve = node.settings.catalog.disk_reserve_bytes
    ok = free > 4 * reserve
    return _row(
        "disk", ok, f"{free / 1e9:.1f} GB free at {node.home}", f"make room: {reserve / 1e6:.0f} MB stay in reserve"
    )


async def _clock(node: Node) -> dict[str, Any]:
    links = [link for link in node.pool.links() if not link.silent][:CLOCKS_MAX]
    clocks = await asyncio.gather(*(_clock_of(link) for link in links))
    newest = max((grant.granted_at for grant in node.keeper.statements.members()), default=0)
    return judge_clock(time.time(), [clock for clock in clocks if clock], newest)


async def _clock_of(link: Link) -> float:
    """What another node's clock says; 0 for unknown."""
    try:
        received = await link.call(VitalsAsk(), timeout_s=CLOCK_ANSWER_S)
    except MeshError:
        return 0.0
    return received.message.clock if isinstance(received.message, Vitals) else 0.0


def judge_clock(now: float, others: Sequence[float], newest: float) -> dict[str, Any]:
    """This machine's clock beside those of other nodes and the newest statement of the mesh, UTC seconds."""
    detail, fix = f"{_utc(now)} UTC", "set the clock of the machine that is wrong, best by NTP"
    if others and abs(apart_s := now - statistics.median(others)) > APART_S:
        way = "ahead of" if apart_s > 0 else "behind"
        theirs = f"those of {len(others)} other nodes" if len(others) > 1 else "that of the other node"
        return _row("clock", False, f"{detail} is {abs(apart_s):.0f} s {way} {theirs}, {_utc(now - apart_s)}", fix)
    return _row("clock", newest - now < CLOCK_S, detail, "set the clock: it is behind the mesh's")


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _listener(node: Node) -> dict[str, Any]:
    host, port = node.address
    addresses = dict.fromkeys((*node.discovery.network.announced, *node.discovery.addresses))
    loopback = all(a.startswith("127.") or a == "::1" for a in addresses)
    if loopback:
        return _row(
            "address",
            None,
            f"listens on {host}:{port}: only this machine can reach it",
            "start with --listen 0.0.0.0:7433 to take part in a network",
        )
    return _row("address", True, f"others reach this node at {', '.join(addresses)}, TCP and UDP port {port}")


def _mdns(node: Node) -> dict[str, Any]:
    if not node.settings.discovery.mdns:
        return _row("multicast", None, "multicast discovery is switched off", "")
    seed = "name a node with --seed HOST:PORT; tokens and seeds need no multicast"
    it = node.discovery
    if it.multicast_error:
        return _row("multicast", False, it.multicast_error, seed)
    skipped = ", ".join(f"{name} ({reason})" for name, reason in it.interfaces_skipped)
    if not it.interfaces_used:
        return _row("multicast", None, f"no interface to use; left out: {skipped or 'none'}", seed)
    found = sum(m.found_by == "mdns" for m in node.membership.view())
    detail = (
        f"on {', '.join(it.interfaces_used)}; heard {it.packets_heard} responses of others and {it.own_packets_heard} "
        f"own; {found} nodes were found by it" + (f"; left out: {skipped}" if skipped else "")
    )
    if not it.own_packets_heard:
        return _row("multicast", None, detail, f"let UDP port 5353 in and out in this machine's firewall, or {seed}")
    return _row("multicast", True if found else None, detail, "" if it.packets_heard else seed)


def _owner(node: Node) -> dict[str, Any]:
    owner = node.owner
    unknown = ", ".join(owner.unknown())
    aside = f"; this machine does not tell: {unknown}" if unknown else ""
    if not owner.reason:
        where = "with" if owner.reading.display else "without"
        return _row("owner", True, f"takes foreign work ({owner.manners}, {where} a display session){aside}")
    fix = (
        "`meshnode resume` ends it" if owner.by_hand else 'set manners = "free" in config.toml to lend it nevertheless'
    )
    return _row("owner", None, f"takes no foreign work: {owner.reason}{aside}", fix)


async def _peer(node: Node, peer: Any) -> dict[str, Any]:
    member = node.membership.member(peer)
    assert member is not None, "the view was read a moment ago"
    name = f"peer {member.name}"
    if member.state == "left":
        return _row(name, None, member.reason)
    try:
        began = time.monotonic()
        link = await node.pool.link(member.id, member.addresses)
        await link.call(StreamPing(), timeout_s=2.0)
    except MeshError as error:
        where = ", ".join(f"{h}:{p}" for h, p in member.addresses) or "no known address"
        return _row(
            name, False, str(error), f"is its agent running, and does its firewall let TCP and UDP in at {where}?"
        )
    return _row(
        name, True, f"answers over its link in {(time.monotonic() - began) * 1000:.1f} ms; found by {member.found_by}"
    )

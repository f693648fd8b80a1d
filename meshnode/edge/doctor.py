"""What is wrong with this machine and its network, each with the fix. A check says yes, no, or cannot tell.

`looking` finds out, `judging` and `peerjudging` judge; here is what is asked of whom, all at once.
"""

from __future__ import annotations

import asyncio

from meshnode.edge import judging, looking, peerjudging, renewal
from meshnode.edge.judging import Row, row
from meshnode.edge.node import Node
from meshnode.errors import WorkerCrashed
from meshnode.execution import accelerators
from meshnode.execution.rules import CPU
from meshnode.membership.view import Member

WORKER_S = 8.0
PEERS_MAX = 16
"""Of larger meshes only so many peers are tried, those first with which something seems wrong."""
BACK_MAX = 3
"""So many peers are asked to dial this node, and those that are reached through a member."""


async def examine(node: Node) -> list[Row]:
    """All checks, in the order in which they matter. Takes ten seconds at most."""
    here = looking.here(node)
    others = [m for m in node.membership.view() if m.id != node.keeper.id]
    others.sort(key=lambda m: (m.state == "left", m.usable and m.path == "direct"))
    tried = others[:PEERS_MAX]
    (worker, disk), peers = await asyncio.gather(
        asyncio.gather(_worker(node), looking.disk(node.home, node.settings.catalog.disk_reserve_bytes)),
        asyncio.gather(*(looking.look_at(node, here, m, back=back) for m, back in _asked(tried))),
    )
    here = looking.here(node)  # by now the links that are dead are known
    reach = [*dict.fromkeys((*node.discovery.network.announced, *node.discovery.addresses))]
    rows = [
        worker,
        *_sandbox(node),
        *_accelerators(node),
        judging.disk(disk),
        judging.clock(looking.clock(node), peers),
    ]
    rows += [judging.address(here, node.address[0], reach), *judging.inbound(here, peers)]
    rows += [
        judging.multicast(looking.hearing(node), here, peers),
        _owner(node),
        *_alone(node),
        *_out(node),
        *_quarantine(node),
        *renewal.findings(node),
    ]
    rows += judging.network(node.membership.isolated, here, peers)
    rows += [*judging.isolation(here, peers), *(peerjudging.summary(here, peer) for peer in peers)]
    if len(others) > len(tried):
        rest = f"{len(others) - len(tried)} more were not tried; `meshnode doctor --peer NAME` looks at one"
        rows.append(row("peers", None, rest))
    return rows


async def examine_peer(node: Node, member: Member) -> list[Row]:
    """All about the way to one peer and back. Takes ten seconds at most."""
    if member.id == node.keeper.id:
        return [row("found", None, f"{member.name} is this node; `meshnode doctor` looks at it")]
    here = looking.here(node)
    peer = await looking.look_at(node, here, member, back=True)
    return peerjudging.judge(looking.here(node), peer)


def _asked(members: list[Member]) -> list[tuple[Member, bool]]:
    """Each with whether it is asked to dial this node."""
    able = [m.id for m in members if m.usable][-BACK_MAX:]
    return [(m, m.id in able or m.path.startswith("relay")) for m in members]


def _out(node: Node) -> list[Row]:
    out = node.keeper.out
    return [] if out is None else [row("membership", False, str(out), out.hint)]


def _quarantine(node: Node) -> list[Row]:
    """Who waits for an admin, this node among them."""
    rows, statements = [], node.keeper.statements
    for grant in statements.members():
        if grant.quarantine and statements.revoked(grant.node) is None:
            who = "this node" if grant.node == node.keeper.id else f"{grant.name} ({grant.node[:8]})"
            fix = f"where the admin key is: `meshnode accept {grant.node[:8]}`, or `meshnode revoke {grant.node[:8]}`"
            rows.append(row("quarantine", False, f"{who} may neither run nor submit tasks: {grant.quarantine}", fix))
    return rows


async def _worker(node: Node) -> Row:
    try:
        async with asyncio.timeout(WORKER_S):
            await node.execution.ready()
    except (WorkerCrashed, TimeoutError) as error:
        return row("worker", False, str(error) or "not ready yet", "the agent's log says why: `meshnode logs`")
    return row("worker", True, f"runs models on {', '.join(node.execution.providers)}")


def _sandbox(node: Node) -> list[Row]:
    """One row for each worker; nothing before one is there."""
    rows = []
    for provider, confined in node.execution.confinement.items():
        which = "" if provider == CPU else f" on {provider}"
        text = f"workers{which} are confined with grade {confined.grade}: {', '.join(confined.holds)}"
        text += "".join(f"; {lack.why}" for lack in confined.lacks)
        fix = "; ".join(lack.fix for lack in confined.lacks if lack.fix)
        rows.append(row("sandbox", True if confined.grade == "A" else None, text, fix))
    return rows


def _accelerators(node: Node) -> list[Row]:
    """What became of each that was tried; whatever it was, the CPU is there."""
    gpus = node.devices.gpus
    if not node.settings.execution.gpu:
        return [row("gpu", None, "accelerators are switched off: gpu = false", "")]
    rows, whose = [], f"{gpus[0].name}: " if gpus else ""
    for provider, works, why_not in node.execution.tried():
        it, name = accelerators.known(provider), provider.removesuffix("ExecutionProvider")
        owner = whose if it.nvidia else ""
        if works:
            rows.append(row("gpu", True, f"{owner}a run on {name} worked"))
        elif why_not:
            rows.append(row("gpu", False, f"{owner}no run on {name} worked, it is not advertised: {why_not}", it.fix))
        else:
            rows.append(row("gpu", None, f"{owner}{name} is being tried", ""))
    if not gpus:
        return rows or [row("gpu", None, "no NVIDIA GPU is seen by its driver, and no other accelerator installed", "")]
    if any(accelerators.known(provider).nvidia for provider, _, _ in node.execution.tried()):
        return rows
    lacking = "is there, and this ONNX Runtime has no CUDA, or the settings do not name it; it is not advertised"
    return [*rows, row("gpu", False, f"{whose}{lacking}", "install onnxruntime-gpu instead of onnxruntime")]


def _alone(node: Node) -> list[Row]:
    """What membership says about this node itself, when it is not well."""
    rows = []
    if node.membership.copied:
        rows.append(row("identity", False, node.membership.copied, "here: `meshnode leave`, then `meshnode up TOKEN`"))
    return rows


def _owner(node: Node) -> Row:
    owner = node.owner
    unknown = ", ".join(owner.unknown())
    aside = f"; this machine does not tell: {unknown}" if unknown else ""
    if not owner.reason:
        where = "with" if owner.reading.display else "without"
        return row("owner", True, f"takes foreign work ({owner.manners}, {where} a display session){aside}")
    fix = (
        "`meshnode resume` ends it" if owner.by_hand else 'set manners = "free" in config.toml to lend it nevertheless'
    )
    return row("owner", None, f"takes no foreign work: {owner.reason}{aside}", fix)

"""From facts about this machine to findings, each with its fix. Pure; one peer's are judged in `peerjudging`."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from meshnode.edge.facts import Clock, Disk, Hearing, Here, PeerFacts

Row = dict[str, Any]

BEHIND_S = 24 * 3600
"""Statements from further ahead mean that this clock is wrong, also when nobody can be asked."""
CLOCK_OFF_S = 60.0
"""Clocks that keep themselves right differ by less than a second; nothing in the mesh needs better than minutes."""
SET_CLOCK = "`sudo timedatectl set-ntp true`, or set it by hand"
SEED = "name a node with --seed HOST:PORT; tokens and seeds need no multicast"


def row(check: str, ok: bool | None, detail: str, fix: str = "") -> Row:
    """One finding: well, not well, or cannot be told."""
    return {"check": check, "ok": ok, "detail": detail, "fix": fix if ok is not True else ""}


def open_port(port: int) -> str:
    """How a port is let in, in words that can be typed."""
    return (
        f"let TCP and UDP port {port} in: `sudo ufw allow {port}`, or "
        f"`sudo firewall-cmd --add-port={port}/tcp --add-port={port}/udp`"
    )


def names(peers: Sequence[PeerFacts]) -> str:
    """A few of them."""
    shown = ", ".join(peer.name for peer in peers[:4])
    return shown + (f" and {len(peers) - 4} more" if len(peers) > 4 else "")


def disk(it: Disk) -> Row:
    """Room, and whether a file can be written at all."""
    room = f"{it.free / 1e9:.1f} GB free at {it.home}"
    if it.errno:
        fixes = {
            errno.ENOSPC: f"make room at {it.home} (`df -h` and `df -i` show what is full), then restart the agent",
            errno.EDQUOT: f"make room at {it.home}, or raise this user's quota",
            errno.EROFS: f"mount the file system of {it.home} for writing; after errors look at `dmesg` and run fsck",
            errno.EACCES: f"give {it.home} to the agent's user: chown -R",
            errno.EIO: "replace the disk: `dmesg` shows its errors",
        }
        fix = fixes.get(it.errno, f"see that the agent's user can write in {it.home}")
        return row("disk", False, f"nothing can be written: {it.error}; {room}", fix)
    ok = it.free > 4 * it.reserve
    return row("disk", ok, room, f"make room: {it.reserve / 1e6:.0f} MB stay in reserve")


def say_time(wall: float) -> str:
    """A clock's reading, UTC."""
    try:
        return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{wall:.0f} s since 1970"


def clock(it: Clock, peers: Sequence[PeerFacts]) -> Row:
    """Against the newest grant, and against the clocks of those that could be asked: the majority is right."""
    here = say_time(it.now)
    asked = [(peer, peer.offset_s) for peer in peers if peer.offset_s is not None]
    off = [(peer, offset) for peer, offset in asked if abs(offset) > CLOCK_OFF_S]
    if it.newest_grant - it.now >= BEHIND_S:
        detail = f"{here}, and the mesh has statements of {say_time(it.newest_grant)}"
        return row("clock", False, detail, f"set the clock of this machine, it is behind the mesh's: {SET_CLOCK}")
    if not off:
        return row("clock", True, here + (f"; within {CLOCK_OFF_S:.0f} s of {len(asked)} peers" if asked else ""))
    others = "; ".join(f"{say_time(peer.wall or 0.0)} at {peer.name}" for peer, _ in off[:4])
    if len(asked) == 1:
        detail = f"{here} here, {others}: one of the two is wrong"
        return row("clock", False, detail, f"set the clock of the one that is wrong: {SET_CLOCK}")
    wrong = abs(median(offset for _, offset in asked)) > CLOCK_OFF_S
    detail = f"{here} here, {others} ({len(off)} of {len(asked)} peers differ)"
    whose = "the clock of this machine" if wrong else f"the clock of {names([peer for peer, _ in off])}"
    return row("clock", False, detail, f"set {whose}: {SET_CLOCK}")


def address(here: Here, host: str, reach: Sequence[str]) -> Row:
    """Where others reach this node, if they do."""
    if here.wildcard and here.families and not here.families & here.listens:
        listens, has = ("IPv4", "IPv6") if 4 in here.listens else ("IPv6", "IPv4")
        return row(
            "address",
            False,
            f"{has} only: this machine has no {listens} address for others, and its agent listens on {listens} alone "
            f"({host}:{here.port})",
            f"start it with --listen '[::]:{here.port}', which takes both",
        )
    if all(a.startswith("127.") or a == "::1" for a in reach):
        return row(
            "address",
            None,
            f"listens on {host}:{here.port}: only this machine can reach it",
            "start with --listen 0.0.0.0:7433 to take part in a network",
        )
    return row("address", True, f"others reach this node at {', '.join(reach)}, TCP and UDP port {here.port}")


def inbound(here: Here, peers: Sequence[PeerFacts]) -> list[Row]:
    """Whether those that were asked to could dial this node. Nobody asked: nothing to say."""
    asked = [peer for peer in peers if peer.back]
    if not asked:
        return []
    failed = [peer for peer in asked if not peer.dials_us]
    if len(failed) < len(asked):
        return [row("inbound", True, f"{names([p for p in asked if p not in failed])} could dial this node")]
    outcomes = ", ".join(dict.fromkeys(f"{it.host}: {it.outcome}" for peer in failed for it in peer.back or ()))
    return [
        row(
            "inbound",
            False,
            f"nobody can dial this node: {names(failed)} tried ({outcomes})",
            f"in this machine's firewall, {open_port(here.port)}",
        )
    ]


def network(isolated: bool, here: Here, peers: Sequence[PeerFacts]) -> list[Row]:
    """Whether this machine is the one that is cut off: membership says so, or nothing comes back from several peers."""
    lost = [peer for peer in peers if peer.state != "left" and peer.vanishes]
    alone = not here.company and len(lost) > 1 and len(lost) == sum(peer.state != "left" for peer in peers)
    if not isolated and not alone:
        return []
    detail = "nobody in the mesh is heard any more" if isolated else f"nothing comes back from any of {len(lost)} peers"
    fix = f"look at this machine's cable or Wi-Fi (`ip addr`, `ip route`), then at its firewall: {open_port(here.port)}"
    return [row("network", False, detail, fix)]


def isolation(here: Here, peers: Sequence[PeerFacts]) -> list[Row]:
    """Neighbours that live, and to which nothing passes from here: that is what an access point does on purpose."""
    apart = [
        peer
        for peer in peers
        if (here.company or peer.path.startswith("relay"))
        and peer.vanishes
        and peer.present
        and here.device(peer.addresses)
        and not peer.dials_us
    ]
    if not apart:
        return []
    device, helpers = here.device(apart[0].addresses), sorted({p.path for p in apart if p.path.startswith("relay")})
    guess = "client isolation" if len(apart) > 1 else "client isolation, or a firewall at both ends"
    way = f" (for now: {', '.join(helpers)})" if helpers else ""
    return [
        row(
            "isolation",
            False,
            f"{names(apart)}: on the same network ({device}) and alive for others, but nothing passes between "
            f"{'them' if len(apart) > 1 else 'it'} and this machine: {guess}{way}",
            "switch off client isolation in the access point (also called AP, wireless or station isolation, or guest "
            f"network), or use a cable; if there is no access point, on both machines {open_port(here.port)}",
        )
    ]


def multicast(it: Hearing, here: Here, peers: Sequence[PeerFacts]) -> Row:
    """Both directions, by what neighbours heard of us just now, and we of them."""
    if not it.on:
        return row("multicast", None, "multicast discovery is switched off", "")
    if it.error:
        return row("multicast", False, it.error, SEED)
    skipped = ", ".join(f"{name} ({reason})" for name, reason in it.skipped)
    if not it.used:
        return row("multicast", None, f"no interface to use; left out: {skipped or 'none'}", SEED)
    detail = (
        f"on {', '.join(it.used)}; heard {it.heard} responses of others and {it.own_heard} own; {it.found} nodes were "
        "found by it" + (f"; left out: {skipped}" if skipped else "")
    )
    near = [peer for peer in peers if here.device(peer.addresses)]
    lost_out = [peer for peer in near if peer.hears_us is False]
    lost_in = [peer for peer in near if peer.heard_here is False]
    out_ok, in_ok = any(p.hears_us for p in near), any(p.heard_here for p in near)
    wifi = "on Wi-Fi, switch off multicast filtering (IGMP snooping) and client isolation in the access point"
    if lost_out and lost_in and not out_ok and not in_ok:
        fix = f"let UDP port 5353 in and out in the firewalls; {wifi}; or {SEED}"
        return row(
            "multicast", False, f"it passes neither way between this machine and {names(lost_out)}; {detail}", fix
        )
    if lost_out and not out_ok:
        fix = f"let UDP port 5353 out here and in at {names(lost_out)}; {wifi}; or {SEED}"
        what = f"blocked one way: what this machine sends does not arrive at {names(lost_out)}"
        return row("multicast", False, f"{what}{', whose own arrives here' if in_ok else ''}; {detail}", fix)
    if lost_in and not in_ok:
        fix = f"let UDP port 5353 in here and out at {names(lost_in)}; {wifi}; or {SEED}"
        what = f"blocked one way: nothing that {names(lost_in)} sends arrives here"
        return row("multicast", False, f"{what}{', though ours arrives there' if out_ok else ''}; {detail}", fix)
    if lost_out or lost_in:
        some = [peer for peer in near if peer in lost_out or peer in lost_in]
        ways = f"to {names(lost_out)}" if lost_out else ""
        ways += (" and " if lost_out and lost_in else "") + (f"from {names(lost_in)}" if lost_in else "")
        fix = f"let UDP port 5353 in and out at {names(some)}; {wifi}"
        return row("multicast", False, f"it passes, but not {ways}; {detail}", fix)
    if out_ok and in_ok:
        return row("multicast", True, f"passes both ways between this machine and its neighbours; {detail}")
    if not it.own_heard:
        return row("multicast", None, detail, f"let UDP port 5353 in and out in this machine's firewall, or {SEED}")
    return row("multicast", True if it.found else None, detail, "" if it.heard else SEED)

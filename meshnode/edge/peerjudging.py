"""From facts about one peer to findings, each with its fix. Pure."""

from __future__ import annotations

from meshnode.edge import judging
from meshnode.edge.facts import Here, PeerFacts
from meshnode.edge.judging import CLOCK_OFF_S, SET_CLOCK, Row, open_port, row, say_time
from meshnode.wire.looks import Try

HEADERS = {4: 40, 6: 60}
"""IP and TCP: what a segment of the largest size adds to be a packet."""
SHARED = ("clock", "multicast", "isolation", "back")
"""Said once for the machine, when all peers are looked at."""


def judge(here: Here, peer: PeerFacts) -> list[Row]:
    """All that can be said, in the order in which one thing needs another."""
    return [
        _found(here, peer),
        *(_address(here, peer, it) for it in peer.tries),
        _link(peer),
        *judging.isolation(here, [peer]),
        _datagrams(here, peer),
        *_size(peer),
        *_back(here, peer),
        *_clock(peer),
        *_multicast(here, peer),
    ]


def summary(here: Here, peer: PeerFacts) -> Row:
    """One finding for one of many peers."""
    name = f"peer {peer.name}"
    if peer.state == "left":
        return row(name, None, peer.reason)
    if judging.isolation(here, [peer]):
        relayed = peer.path.startswith("relay")
        way = f"answers over its link ({peer.path})" if relayed else "is not reached"
        return row(name, None if relayed else False, f"{way}; nothing passes directly", "what `isolation` says")
    faults = [it for it in judge(here, peer) if it["ok"] is False and it["check"] not in SHARED]
    faults = [it for it in faults if it["check"] != "link"] or faults
    if faults:
        details = [str(it["detail"]) for it in faults]
        fixes = dict.fromkeys(str(it["fix"]) for it in faults)
        return row(name, False, "; ".join(details), "; ".join(fixes))
    if peer.path == "none":
        return row(
            name, False, peer.link_error or "it has no link", peer.link_hint or f"restart its agent: {_up(peer)}"
        )
    took = f" in {peer.rtt_s * 1000:.1f} ms" if peer.rtt_s is not None else ""
    way = "its link" if peer.path == "direct" else f"its link ({peer.path})"
    return row(name, True, f"answers over {way}{took}; found by {peer.found_by}")


def _up(peer: PeerFacts) -> str:
    return f"`meshnode up` on {peer.name}"


def _kinds(families: frozenset[int]) -> str:
    return " and ".join(f"IPv{family}" for family in sorted(families))


def _found(here: Here, peer: PeerFacts) -> Row:
    """Who it is, how it came to be known, and whether this machine has a way to speak to its addresses."""
    how = f"{peer.state}{f' ({peer.reason})' if peer.reason else ''}; found by {peer.found_by}"
    if peer.state == "left":
        return row("found", None, how)
    where = ", ".join(f"{host} port {port}" for host, port in peer.addresses)
    if not peer.addresses:
        fix = f"start its agent with --listen 0.0.0.0:{peer.port}: one that listens on 127.0.0.1 tells no address"
        return row("found", False, f"{how}; none of its addresses is known here", fix)
    if not peer.families & here.families and not peer.connects:
        theirs, ours = _kinds(peer.families), _kinds(here.families) or "none"
        return row(
            "found",
            False,
            f"{how}; it has {theirs} only ({where}), and this machine has {ours} only",
            f"give this machine an {theirs} address, or {peer.name} an IPv4 one; an agent that is started with "
            f"--listen '[::]:{peer.port}' takes both",
        )
    return row("found", True, f"{how}; {_kinds(peer.families)}: {where}")


def _address(here: Here, peer: PeerFacts, it: Try) -> Row:
    """What came of one address; that one fails is no fault while another works."""
    check, where = f"tcp {it.host}", f"{it.host} port {it.port}"
    port, near = it.port, bool(here.device([(it.host, it.port)]))
    if it.outcome == "answered":
        return row(check, True, f"{where} connects and answers in {it.seconds * 1000:.1f} ms")
    if it.outcome == "stalled":
        return row(check, None, f"{where} connects, and answers in small packets only; see mtu")
    isolated = "; if it is open, the access point isolates its clients" if near else ""
    details = {
        "refused": (
            f"{where} is closed: {peer.name} is there and refuses",
            f"start its agent: {_up(peer)}. If it runs, `meshnode status` there shows its port, and a firewall that "
            f"rejects looks the same: on {peer.name}, {open_port(port)}",
        ),
        "timeout": (
            f"{where} does not answer: a firewall drops it" + (", or the machine is off" if not peer.present else ""),
            f"is its agent running ({_up(peer)})? In the firewall of {peer.name}, {open_port(port)}{isolated}",
        ),
        "rejected": (
            f"{where} is rejected by a firewall on the way or at {peer.name}",
            f"on {peer.name}, {open_port(port)}",
        ),
        "unreachable": (
            f"nobody answers for {it.host} on its network: "
            + ("the access point isolates its clients" if near and peer.present else "the machine is off or elsewhere"),
            f"is {peer.name} switched on and on this network? Is its firewall open: {open_port(port)}{isolated}",
        ),
        "no_route": (
            f"this machine has no way to {it.host}",
            f"give this machine an IPv{6 if ':' in it.host else 4} address and a route there (`ip route`), or join "
            "both to one network",
        ),
        "mute": (
            f"{where} connects, and no TLS comes: another program has the port, or the agent hangs",
            f"`meshnode status` on {peer.name} shows its port; if it is {port}, restart its agent",
        ),
    }
    detail, fix = details.get(it.outcome, (f"{where} cannot be tried: {it.outcome}", "`meshnode logs` says more"))
    return row(check, None if peer.connects or it.outcome == "no_route" else False, detail, fix)


def _link(peer: PeerFacts) -> Row:
    """Which way tasks go, and why not the straight one."""
    took = f", {peer.rtt_s * 1000:.1f} ms" if peer.rtt_s is not None else ""
    if peer.path == "direct" and not peer.link_error:
        return row("link", True, f"direct{took}")
    if peer.path.startswith("relay") and not peer.link_error:
        why = (
            "a direct way works by now and is tried every few minutes"
            if peer.connects
            else "none of its addresses can be reached from here, and none of ours from there"
        )
        return row("link", None, f"{peer.path}{took}: {why}")
    if peer.state == "left":
        return row("link", None, peer.reason or "it left")
    hint = peer.link_hint or "mend what is found about its addresses; links come up by themselves then"
    return row("link", False, f"no link: {peer.link_error or 'none yet'}", hint)


def _datagrams(here: Here, peer: PeerFacts) -> Row:
    """A datagram of our own, and its answer."""
    if peer.datagram_s is not None:
        return row("udp", True, f"a datagram is answered in {peer.datagram_s * 1000:.1f} ms")
    if not peer.keyed:
        return row("udp", None, "its key for datagrams is not known yet")
    if not peer.connects and (peer.path != "direct" or peer.link_error):
        return row("udp", None, "no datagram is answered either")
    what = "TCP passes, UDP does not"
    if peer.datagram_there is True:
        detail = f"{what}: ours arrive at {peer.name}, its answers do not come back"
        return row(
            "udp", False, detail, f"allow UDP port {here.port} in here, and out at {peer.name}: {_udp(here.port)}"
        )
    if peer.datagram_there is False:
        detail = f"{what}: ours do not arrive at {peer.name}"
        return row("udp", False, detail, f"allow UDP port {peer.port} in at {peer.name}: {_udp(peer.port)}")
    fix = f"allow UDP port {peer.port} in at {peer.name}, and {here.port} here: {_udp(peer.port)}"
    return row("udp", False, f"{what}", fix)


def _udp(port: int) -> str:
    return f"`sudo ufw allow {port}/udp`, or `sudo firewall-cmd --add-port={port}/udp`"


def _size(peer: PeerFacts) -> list[Row]:
    """Full-size packets, from here and from there. Who connects and gets no large answer is told by `stalled`."""
    device = peer.next_hop or "IFACE"
    ours = [it for it in peer.tries if it.large is False] + [it for it in peer.back or () if it.outcome == "stalled"]
    theirs = [it for it in peer.tries if it.outcome == "stalled"] + [it for it in peer.back or () if it.large is False]
    found = [
        *(_black_hole(it, "this machine", peer.name, device) for it in ours[:1]),
        *(_black_hole(it, peer.name, "this machine", "IFACE") for it in theirs[:1]),
    ]
    if found or not any(it.large for it in peer.tries):
        return found
    both = " both ways" if any(it.large for it in peer.back or ()) else ""
    return [row("mtu", True, f"packets of full size pass{both}")]


def _black_hole(it: Try, sender: str, receiver: str, device: str) -> Row:
    mtu = it.mss + HEADERS[6 if ":" in it.host else 4] if it.mss else 0
    most = f"packets of {mtu} bytes pass" if mtu else "none of the usual sizes passes"
    return row(
        "mtu",
        False,
        f"MTU black hole: small packets from {sender} to {receiver} pass, full-size ones vanish; {most}",
        f"on {sender}: `sudo ip link set dev {device} mtu {mtu or 1280}`, or "
        "`sudo sysctl -w net.ipv4.tcp_mtu_probing=1`; or on the router between: "
        "`iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`",
    )


def _back(here: Here, peer: PeerFacts) -> list[Row]:
    """The other direction: it dialled us when it was asked to."""
    if peer.back is None:
        return [row("back", None, f"{peer.name} could not be asked to dial this node: {peer.back_error}")] * bool(
            peer.back_error
        )
    tried = ", ".join(f"{it.host} {it.outcome}" for it in peer.back) or "it knows none of this node's addresses"
    if peer.dials_us:
        return [row("back", True, f"{peer.name} can dial this node: {tried}")]
    fix = f"in this machine's firewall, {open_port(here.port)}"
    if not peer.back:
        fix = f"start the agent here with --listen 0.0.0.0:{here.port}"
    return [row("back", False, f"{peer.name} cannot dial this node: {tried}", fix)]


def _clock(peer: PeerFacts) -> list[Row]:
    """Both clocks."""
    if peer.offset_s is None or peer.wall is None:
        return []
    there, here = say_time(peer.wall), say_time(peer.wall - peer.offset_s)
    off = f"its clock is {abs(peer.offset_s):.1f} s {'ahead of' if peer.offset_s > 0 else 'behind'} this one's"
    detail = f"{here} here, {there} there: {off if abs(peer.offset_s) >= 1 else 'they agree'}"
    fix = f"set the clock of the one that is wrong: {SET_CLOCK}"
    return [row("clock", abs(peer.offset_s) <= CLOCK_OFF_S, detail, fix)]


def _multicast(here: Here, peer: PeerFacts) -> list[Row]:
    """Between neighbours only: elsewhere it is not meant to pass."""
    if not here.device(peer.addresses):
        return [row("multicast", None, "it is on another network, where multicast does not reach")]
    if peer.hears_us is None and peer.heard_here is None:
        return []
    words = {True: "arrives", False: "does not arrive", None: "was not tried"}
    detail = f"ours {words[peer.hears_us]} at {peer.name}, its own {words[peer.heard_here]} here"
    if peer.hears_us is False or peer.heard_here is False:
        once = "blocked one way: " if peer.hears_us or peer.heard_here else "blocked: "
        where = f"in at {peer.name} and out here" if peer.hears_us is False else f"in here and out at {peer.name}"
        wifi = "on Wi-Fi, switch off multicast filtering in the access point"
        fix = f"let UDP port 5353 {where}; {wifi}; or {judging.SEED}"
        return [row("multicast", False, once + detail, fix)]
    return [row("multicast", True, detail)]

"""Every knob in one place: its unit, its range, its default and what a larger value costs.

Settings come from defaults, then a profile, then `config.toml` in the home, then the command line. An unknown key or a
value out of range is a `ConfigError` that names all such places at once, and nothing starts.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import platformdirs

from meshnode import toml
from meshnode.doors import Frigate, Grpc, Http, Mqtt
from meshnode.errors import ConfigError
from meshnode.lasting import Trust
from meshnode.ranges import Labels, Printable, Within, apply, contradictions
from meshnode.telling import Audit, Log, Traces

KIB, MIB, GIB = 1024, 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class Links:
    """How agents talk. The figures come from measurements of a loopback and a LAN (see protocols/link.md)."""

    handshake_s: Annotated[float, Within(0.1, 600)] = 5.0
    """A TLS handshake that takes longer is dropped: slow strangers must not hold sockets."""
    frame_bytes: Annotated[int, Within(1 * KIB, 64 * KIB)] = 64 * KIB
    """The largest body of a frame. Larger frames make small requests wait longer behind bulk."""
    stream_credit_bytes: Annotated[int, Within(256 * KIB, 1 * GIB)] = 256 * KIB
    """What a sender may have in flight on one stream, and more where a round trip takes above 2 ms and that makes it
    faster (up to 16 MiB). Small-request latency beside bulk grows linearly with it."""
    connection_credit_bytes: Annotated[int, Within(1 * MIB, 1 * GIB)] = 1 * MIB
    """The same for all streams of a connection together."""
    high_water_bytes: Annotated[int, Within(64 * KIB, 1 * GIB)] = 256 * KIB
    """The writer pump stops above this many bytes in the transport's buffer."""
    active_bodies: Annotated[int, Within(1, 1024)] = 4
    """Large bodies sent at once per direction; the rest wait. More costs latency and throughput alike."""
    small_body_bytes: Annotated[int, Within(1 * KIB, 64 * KIB)] = 16 * KIB
    """Bodies up to this size go with the control frames, ahead of bulk, without credit. Both sides must agree on it."""
    header_bytes_max: Annotated[int, Within(4 * KIB, 64 * KIB - 1)] = 64 * KIB - 1
    hello_bytes_max: Annotated[int, Within(1 * KIB, 64 * KIB - 1)] = 16 * KIB
    body_bytes_max: Annotated[int, Within(1 * MIB, 2**31)] = 1 * GIB
    """The largest body of one message; refused before anything is allocated."""
    buffered_bytes_max: Annotated[int, Within(1 * MIB, 2**40)] = 2 * GIB
    """Bodies being received on one connection, together."""
    streams_max: Annotated[int, Within(16, 2**20)] = 1024
    """Requests a peer may have open on one connection."""
    heartbeat_s: Annotated[float, Within(0.01, 60)] = 0.25
    """Heartbeat interval while requests are open. Smaller notices a silent peer sooner and costs frames."""
    heartbeat_misses: Annotated[int, Within(1, 1000)] = 3
    """So many heartbeats unanswered make a peer silent: 0.75 s at the default interval, and a round trip more."""
    idle_ping_s: Annotated[float, Within(0.1, 3600)] = 25.0
    """Heartbeat interval while nothing is open: below the shortest NAT time-outs for TCP, and rare, because 31 idle
    links at 5 s cost more than all gossip. A silent idle peer is the failure detector's to find, not this ping's."""
    handshakes_max: Annotated[int, Within(1, 65536)] = 256
    """TLS handshakes in progress at once; beyond that the oldest goes, of the address that has most."""
    relay: bool = True
    """Carry (sealed) bytes between two members that cannot reach each other. Off = refuse those that ask."""
    relay_circuits_max: Annotated[int, Within(0, 65536)] = 64
    """Pairs that this node carries for at once…"""
    relay_circuits_peer: Annotated[int, Within(0, 65536)] = 16
    """…and of those with any one node at an end. The same bound holds for links to this node through one relay."""
    relay_bytes_s: Annotated[float, Within(0, 1e12)] = 4.0 * MIB
    """Bytes a second through one circuit, both ways together; a second's worth may come at once. 0 = no bound."""
    relay_total_bytes_s: Annotated[float, Within(0, 1e12)] = 16.0 * MIB
    """The same for all circuits of this node together."""
    relay_circuit_bytes: Annotated[int, Within(1 * MIB, 2**60)] = 16 * GIB
    """A circuit ends after so many bytes; its link is made anew, perhaps through another member or directly."""
    relay_after_s: Annotated[float, Within(0, 600)] = 1.0
    """A dial that takes longer is helped by a member; at once, when the last link to the peer was relayed."""
    relay_retry_s: Annotated[float, Within(0.01, 86400)] = 30.0
    """While a relayed link is in use, the direct way is tried again after so long; doubles, with jitter…"""
    relay_retry_max_s: Annotated[float, Within(0.01, 86400)] = 600.0
    """…up to this."""


@dataclass(frozen=True, slots=True)
class Membership:
    """SWIM with Lifeguard's timing; the LAN defaults are memberlist's."""

    probe_interval_s: Annotated[float, Within(0.05, 3600)] = 1.0
    """One random peer is probed each interval. Smaller detects sooner and costs datagrams."""
    probe_timeout_s: Annotated[float, Within(0.01, 3600)] = 0.5
    indirect_probes: Annotated[int, Within(0, 64)] = 3
    """Helpers asked (ping-req) before a silent peer is suspected."""
    suspicion_mult: Annotated[float, Within(1, 1000)] = 4.0
    """Shortest suspicion = mult x max(1, log10 N) x probe interval. Larger gives more time to refute."""
    suspicion_max_mult: Annotated[float, Within(1, 1000)] = 6.0
    """Longest suspicion, before any confirmation, as a multiple of the shortest (Lifeguard)."""
    gossip_interval_s: Annotated[float, Within(0.01, 3600)] = 0.2
    gossip_fanout: Annotated[int, Within(1, 64)] = 3
    """Peers told per gossip interval."""
    retransmit_mult: Annotated[float, Within(1, 1000)] = 4.0
    """Each update is sent mult x log10(N + 1) times."""
    datagram_bytes: Annotated[int, Within(576, 1400)] = 1200
    """Datagrams never exceed this (the IPv6 and VPN safe size)."""
    sync_interval_s: Annotated[float, Within(1, 86400)] = 30.0
    """Anti-entropy with one random peer over the link, jittered."""
    reconnect_interval_s: Annotated[float, Within(1, 86400)] = 30.0
    """Each dead node is tried again by about one member each interval: a verdict never forbids a dial for ever."""
    tombstone_s: Annotated[float, Within(60, 365 * 86400)] = 24 * 3600.0
    """Dead and departed nodes are remembered so long, to win over stale news."""
    seed_retry_s: Annotated[float, Within(0.1, 3600)] = 1.0
    """First pause before seeds and remembered peers are tried again; doubles up to a minute, with full jitter."""
    remembered_max: Annotated[int, Within(0, 65536)] = 256
    """Rows of the remembered-peers file."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Who should run a task. Meanings and measurements: notes in meshnode/routing/policy.py."""

    candidates: Annotated[int, Within(1, 64)] = 3
    """Peers asked for a quote per task (d). 3 is the knee: more costs messages, fewer costs tail latency."""
    rounds_max: Annotated[int, Within(1, 16)] = 2
    """As many peers again are asked while the task would wait…"""
    round_worth_rtts: Annotated[float, Within(0, 1e6)] = 8.0
    """…so many round trips at the best so far."""
    quote_timeout_s: Annotated[float, Within(0.001, 60)] = 0.1
    unasked_bytes_max: Annotated[int, Within(0, 2**40)] = 64 * KIB
    """From this size on a task's tensors are sent only after a quote: a refused one costs the time of the transfer."""
    hold_s: Annotated[float, Within(0, 60)] = 0.05
    """How long a quoting node keeps the place; at most 2 RTT is used."""
    hysteresis: Annotated[float, Within(0, 10)] = 0.10
    """Stay local unless a peer wins by this share…"""
    hysteresis_s: Annotated[float, Within(0, 60)] = 0.002
    """…and by this many seconds."""
    tie_band: Annotated[float, Within(0, 1)] = 0.02
    """Estimates this close are equal; ties break at random."""
    copies_use_max: Annotated[float, Within(0.01, 1000)] = 0.6
    """More nodes load a model when more of what those that have it in memory can do is asked for."""
    attempts_max: Annotated[int, Within(1, 64)] = 3
    memory_factor: Annotated[float, Within(0, 100)] = 1.25
    """A model loads only where free memory is this multiple of its estimate."""
    suspect_s: Annotated[float, Within(0, 3600)] = 1.0
    """A peer that failed to quote is not drawn for so long, unless nobody else is left."""
    battery_percent_min: Annotated[float, Within(0, 100)] = 40.0
    """Below this charge on battery, a node takes no foreign work."""
    default_deadline_s: Annotated[float, Within(0.001, 1e9)] = 30.0
    """For tasks that name none."""


class Sandbox(StrEnum):
    """How the processes that open models are confined; `meshnode doctor` says what holds and why not more."""

    AUTO = "auto"
    """As tightly as the system allows: no files but the models, no network, no other programs (Linux)."""
    REQUIRE = "require"
    """Grade A, the whole, or no worker. Accelerators do not reach it: their drivers open files of their own."""
    OFF = "off"
    """Limits only."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Running models in worker processes."""

    queue_tasks_max: Annotated[int, Within(1, 10**6)] = 64
    """Tasks waiting at this node; beyond it they are refused with a hint. More makes quotes less certain."""
    queue_backlog_max_s: Annotated[float, Within(0.001, 1e6)] = 2.0
    """…and no more than so much estimated work waits."""
    concurrency: Annotated[int, Within(0, 1024)] = 0
    """Runs at once on the CPU worker; 0 = one per core. concurrency x threads should not exceed the cores."""
    threads: Annotated[int, Within(1, 1024)] = 1
    """ONNX Runtime's intra-op threads per run."""
    arena_bytes: Annotated[int, Within(1 * MIB, 2**40)] = 256 * MIB
    """Shared memory for tensors, each way. It is sparse: only what is used is taken from the machine."""
    memory_bytes: Annotated[int, Within(0, 2**50)] = 0
    """Models in one worker's memory, together; 0 = half of the machine's. The least recently used one goes first."""
    load_timeout_s: Annotated[float, Within(0.1, 86400)] = 30.0
    """A model that takes longer to load, and a second for each 50 MB, is refused and its worker replaced."""
    probe_timeout_s: Annotated[float, Within(0.01, 3600)] = 10.0
    """When a model is added it runs on zeros, to be measured; one that takes longer is refused."""
    cancel_grace_s: Annotated[float, Within(0.01, 3600)] = 2.0
    """A run that ignores its deadline or a cancel for so long has its worker killed."""
    batch_max: Annotated[int, Within(1, 1024)] = 32
    """Waiting tasks of one model that run as one, where the model is proven to give each the same answer as alone; 1 =
    never. Nothing waits for others to come. More raises throughput, and the time that each of them runs."""
    service_prior_s: Annotated[float, Within(1e-6, 1e6)] = 0.05
    """What a run is believed to take before the first measurement."""
    lent_idle_s: Annotated[float, Within(0.1, 86400)] = 30.0
    """A worker process for the work of others, beside the owner's, is ended when it had nothing to do for so long."""
    sandbox: Sandbox = Sandbox.AUTO
    """auto, require or off: what a model may do that finds a way out of ONNX Runtime."""
    gpu: bool = True
    """Use GPUs and other accelerators whose provider is proven by a run."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime's names of the accelerators to try; empty for CUDA, CoreML, DirectML and OpenVINO where they are
    installed. TensorrtExecutionProvider must be named: it builds an engine for each shape of input, for minutes."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models on disk and on the wire."""

    piece_bytes: Annotated[int, Within(1 * KIB, 16 * MIB)] = 1 * MIB
    """Unit of transfer and verification."""
    pieces_in_flight: Annotated[int, Within(1, 1024)] = 4
    """Pieces asked from one holder at once."""
    holders_max: Annotated[int, Within(1, 1024)] = 4
    """Holders fetched from at once."""
    piece_timeout_s: Annotated[float, Within(0.1, 86400)] = 20.0
    model_bytes_max: Annotated[int, Within(1 * KIB, 2**46)] = 64 * GIB
    upload_bytes_s: Annotated[float, Within(0, 1e12)] = 0.0
    """Bytes of models a second that this node gives to others, all together; 0 = no bound."""
    download_bytes_s: Annotated[float, Within(0, 1e12)] = 0.0
    """The same for models on their way here."""
    quota_bytes: Annotated[int, Within(0, 2**50)] = 0
    """Models on this node's disk, together; the least recently used one goes first, and none that is in use, that a
    blueprint wants here, or that nobody else has. 0 = as many as the disk holds."""
    disk_reserve_bytes: Annotated[int, Within(0, 2**50)] = 256 * MIB
    """A fetch or add is refused when it would leave less free space than this."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks this agent answers for."""

    open_max: Annotated[int, Within(1, 10**7)] = 10_000
    """Tasks of local clients at once; beyond it they are refused with a hint."""
    backoff_s: Annotated[float, Within(0.001, 60)] = 0.025
    """First wait when every candidate refused; doubles with full jitter up to a second."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """First peers."""

    mdns: bool = True
    seeds: tuple[str, ...] = ()
    """host:port of nodes that are usually up; one per subnet is enough. Names are resolved at each try, all their
    addresses are tried; without a port it is 7433; [address]:port for IPv6, fe80::1%eth0 for a link-local one."""
    interfaces: tuple[str, ...] = ()
    """Names or patterns ("eth0", "wg*") of the interfaces that multicast uses and whose addresses others are told.
    None: all but the loopback, networks of containers and virtual machines, and, for multicast, tunnels."""
    poll_s: Annotated[float, Within(0.05, 3600)] = 5.0
    """How often the machine's addresses are read (0.15 ms); a change counts when a second reading confirms it."""


class Manners(StrEnum):
    """How a machine treats work of other nodes. Its own tasks always run."""

    POLITE = "polite"
    """On mains, off metered links and, where somebody sits at a display, only while the owner is away."""
    FREE = "free"
    """Whatever the owner does; not when critically hot, nor on battery below `routing.battery_percent_min`."""
    OFF = "off"
    """Never."""


@dataclass(frozen=True, slots=True)
class Owner:
    """When a polite machine is its owner's alone."""

    away_s: Annotated[float, Within(0, 86400)] = 180.0
    """So long without input, and the owner of a machine with a display is away."""
    settle_s: Annotated[float, Within(0, 86400)] = 10.0
    """The shortest automatic pause. Larger is calmer, and idle for longer after a passing cause."""
    busy_share: Annotated[float, Within(0, 1)] = 0.25
    """Other programs using this share of the processors, for `busy_after_s`, pause a machine with a display…"""
    calm_share: Annotated[float, Within(0, 1)] = 0.15
    """…until they use less than this, for `calm_after_s`."""
    busy_after_s: Annotated[float, Within(0, 86400)] = 10.0
    calm_after_s: Annotated[float, Within(0, 86400)] = 30.0
    hot_below_c: Annotated[float, Within(0, 200)] = 5.0
    """So few degrees below the machine's own critical mark, for `hot_after_s`, are too hot…"""
    cool_above_c: Annotated[float, Within(0, 200)] = 12.0
    """…until so many degrees are left, for `cool_after_s`."""
    critical_below_c: Annotated[float, Within(0, 200)] = 2.0
    """This close to the mark even manners = "free" takes nothing, at once."""
    hot_after_s: Annotated[float, Within(0, 86400)] = 15.0
    cool_after_s: Annotated[float, Within(0, 86400)] = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    name: Annotated[str, Printable(64)] = ""
    """Shown with the node id; empty = the host name."""
    listen: str = "0.0.0.0:7433"
    """TCP and UDP, host:port; [::]:7433 listens on IPv4 and IPv6."""
    zone: Annotated[str, Printable(64)] = ""
    """Of an admin's node; for others the grant's counts, and this is only shown where it names none."""
    labels: Annotated[dict[str, str], Labels(64, 128, 4 * KIB)] = field(default_factory=dict)
    links: Links = Links()
    membership: Membership = Membership()
    routing: Routing = Routing()
    execution: Execution = Execution()
    catalog: Catalog = Catalog()
    tasks: Tasks = Tasks()
    discovery: Discovery = Discovery()
    manners: Manners = Manners.POLITE
    """polite, free or off: when this machine takes work of other nodes."""
    owner: Owner = Owner()
    audit: Audit = field(default_factory=Audit)
    log: Log = field(default_factory=Log)
    traces: Traces = field(default_factory=Traces)
    trust: Trust = field(default_factory=Trust)
    http: Http = field(default_factory=Http)
    grpc: Grpc = field(default_factory=Grpc)
    mqtt: Mqtt = field(default_factory=Mqtt)
    frigate: Frigate = field(default_factory=Frigate)


LAN = Settings()
WAN = replace(
    LAN,
    membership=replace(
        LAN.membership, probe_interval_s=5.0, probe_timeout_s=3.0, suspicion_mult=6.0, gossip_interval_s=0.5
    ),
    routing=replace(LAN.routing, quote_timeout_s=1.0),
)
LOOPBACK = replace(
    LAN,
    listen="127.0.0.1:0",
    membership=replace(
        LAN.membership, probe_interval_s=0.5, probe_timeout_s=0.25, suspicion_mult=2.0, gossip_interval_s=0.1
    ),
    discovery=Discovery(mdns=False),
)
PROFILES = {"lan": LAN, "wan": WAN, "loopback": LOOPBACK}


def default_homes() -> tuple[Path, ...]:
    """`MESHNODE_HOME`, or the platform's folder for user data.

    The variable may name several homes, as PATH does; a client goes to the next when the agent of one went away.
    """
    chosen = [text for text in os.environ.get("MESHNODE_HOME", "").split(os.pathsep) if text]
    homes = tuple(Path(text).expanduser().absolute() for text in chosen)
    return homes or (Path(platformdirs.user_data_dir("meshnode")),)


def default_home() -> Path:
    """The first of them: that of an agent or a command, which has one."""
    return default_homes()[0]


def load(home: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a home: the profile, then `config.toml`, then `overrides` (nested maps, as the file has them).

    Raises ConfigError, naming every mistake at once.
    """
    path = home / "config.toml"
    try:
        document: dict[str, Any] = toml.read(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", hint="correct the file, or move it away to use the defaults") from error
    profile = document.pop("profile", "lan")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ConfigError(f"{path}: profile {profile!r} is not one of {', '.join(PROFILES)}")
    mistakes: list[str] = []
    settings: Settings = apply(PROFILES[profile], document, str(path), mistakes)
    settings = apply(settings, dict(overrides or {}), "the command line", mistakes)
    mistakes = mistakes or contradictions(settings)
    if mistakes:
        raise ConfigError("; ".join(mistakes), hint="every setting is explained in docs/configuration.md")
    return settings


def host_port(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Split `host:port`, `[v6]:port` or, with a default port, `host` or a bare IPv6 address. Raises ConfigError."""
    host, port_text = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port_text = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    elif ":" in text and not _is_ipv6(text):
        host = ""
    if host and not port_text and default_port is not None:
        return host, default_port
    if not host or not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5 or int(port_text) > 65535:
        raise ConfigError(f"{text!r} is not an address", hint="write host:port, or [address]:port for IPv6")
    return host, int(port_text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True

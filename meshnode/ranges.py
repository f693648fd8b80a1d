"""What a setting may be where its type alone says too little: outside of these nothing would work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

RANGES: Mapping[str, tuple[float, float]] = {
    "frame_bytes": (1 * KIB, 64 * KIB),
    "stream_credit_bytes": (64 * KIB, 1 * GIB),
    "connection_credit_bytes": (64 * KIB, 1 * GIB),
    "high_water_bytes": (64 * KIB, 1 * GIB),
    "active_bodies": (1, 1024),
    "small_body_bytes": (1 * KIB, 64 * KIB),
    "header_bytes_max": (4 * KIB, 64 * KIB - 1),
    "hello_bytes_max": (1 * KIB, 64 * KIB - 1),
    "body_bytes_max": (1 * MIB, 2**31),
    "buffered_bytes_max": (1 * MIB, 2**40),
    "streams_max": (16, 2**20),
    "heartbeat_s": (0.01, 60),
    "heartbeat_misses": (1, 1000),
    "idle_ping_s": (0.1, 3600),
    "handshake_s": (0.1, 600),
    "handshakes_max": (1, 65536),
    "probe_interval_s": (0.05, 3600),
    "probe_timeout_s": (0.01, 3600),
    "suspicion_mult": (1, 1000),
    "suspicion_max_mult": (1, 1000),
    "gossip_interval_s": (0.01, 3600),
    "gossip_fanout": (1, 64),
    "retransmit_mult": (1, 1000),
    "datagram_bytes": (576, 1400),
    "sync_interval_s": (1, 86400),
    "reconnect_interval_s": (1, 86400),
    "tombstone_s": (60, 365 * 86400),
    "seed_retry_s": (0.1, 3600),
    "candidates": (1, 64),
    "attempts_max": (1, 64),
    "default_deadline_s": (0.001, 1e9),
    "queue_tasks_max": (1, 10**6),
    "queue_backlog_max_s": (0.001, 1e6),
    "concurrency": (0, 1024),
    "threads": (1, 1024),
    "arena_bytes": (1 * MIB, 2**40),
    "load_timeout_s": (0.1, 86400),
    "service_prior_s": (1e-6, 1e6),
    "piece_bytes": (1 * KIB, 16 * MIB),
    "pieces_in_flight": (1, 1024),
    "holders_max": (1, 1024),
    "piece_timeout_s": (0.1, 86400),
    "open_max": (1, 10**7),
    "backoff_s": (0.001, 60),
}
"""By the name of the setting, both ends included; other numbers are 0 or more."""
TEXTS: Mapping[str, int] = {"name": 64, "zone": 64}
"""How long a text may be that others are shown."""
LABELS_MAX, LABEL_CHARACTERS_MAX = 64, 128


def check(name: str, value: Any) -> None:
    """Raises ValueError for a value of the right type that cannot work."""
    if name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
        low, high = RANGES[name]
        raise ValueError(f"expected {low:g} to {high:g}, not {value!r}")
    if name in TEXTS and not (len(value) <= TEXTS[name] and value.isprintable()):
        raise ValueError(f"expected at most {TEXTS[name]} printable characters, not {_short(value)}")
    if name == "labels":
        texts = [text for pair in value.items() for text in pair]
        if len(value) > LABELS_MAX or any(len(t) > LABEL_CHARACTERS_MAX or not t.isprintable() for t in texts):
            raise ValueError(f"expected at most {LABELS_MAX} labels of {LABEL_CHARACTERS_MAX} printable characters")


def _short(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")

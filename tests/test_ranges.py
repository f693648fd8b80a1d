"""Settings that cannot work are refused by name, with what they may be."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from meshnode import config, ranges
from meshnode.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[links]\nheartbeat_s = nan", "heartbeat_s"),
        ("[links]\nframe_bytes = 0", "expected 1024 to 65536"),
        ("[links]\nstreams_max = 0", "streams_max"),
        ("[links]\nbody_bytes_max = 10", "body_bytes_max"),
        ("[execution]\narena_bytes = 99999999999999999", "arena_bytes"),
        ("[execution]\nqueue_tasks_max = inf", "queue_tasks_max"),
        ("[execution]\nconcurrency = 1000000", "concurrency"),
        ("[membership]\nprobe_interval_s = 0", "probe_interval_s"),
        ("[routing]\ncandidates = 0", "expected 1 to 64"),
        ('profile = ["lan"]', "profile"),
        (f'zone = "{"z" * 65}"', "at most 64 printable characters"),
        ('name = "a\\u001b[31m"', "printable"),
        ("[labels]\n" + "\n".join(f"k{i} = 'v'" for i in range(65)), "at most 64 labels"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """Nothing starts that would only fail later, or be of no use to its peers."""
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        config.load(tmp_path)


def _numbers(part: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            found |= _numbers(value)
        else:
            found[field.name] = value
    return found


@pytest.mark.parametrize("profile", sorted(config.PROFILES))
def test_every_profile_is_within_the_ranges_and_every_range_is_of_a_setting(profile: str) -> None:
    """No range is left over from a setting that is gone."""
    numbers = _numbers(config.PROFILES[profile])
    assert set() == set(ranges.RANGES) - set(numbers)
    for name, value in numbers.items():
        ranges.check(name, value)


@pytest.mark.parametrize("text", ["x:y:z:w", "::g", "1:2:3"])
def test_a_seed_that_is_no_address_is_refused(text: str) -> None:
    """Also where a port is not needed."""
    with pytest.raises(ConfigError):
        config.host_port(text, default_port=7433)


def test_a_bare_ipv6_address_is_an_address() -> None:
    """With the default port."""
    assert ("fe80::1", 7433) == config.host_port("fe80::1", default_port=7433)

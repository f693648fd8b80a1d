"""Settings that cannot work are refused by name, with what they may be."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from meshnode import config, ranges
from meshnode.errors import ConfigError
from meshnode.membership import advert


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[membership]\nprobe_timeout_s = 2", "probe_timeout_s = 2.0 is more than membership.probe_interval_s = 1.0"),
        ("[links]\nbody_bytes_max = 2147483648\nbuffered_bytes_max = 1073741824", "buffered_bytes_max"),
        ("[owner]\ncalm_share = 0.5", "calm_share = 0.5 is more than owner.busy_share"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """Each value would do; together they would not."""
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        config.load(tmp_path)


def _settings(part: Any) -> list[tuple[Any, str, Any]]:
    found = []
    for field in fields(part):
        value = getattr(part, field.name)
        found += _settings(value) if is_dataclass(value) else [(part, field.name, value)]
    return found


@pytest.mark.parametrize("profile", sorted(config.PROFILES))
def test_every_number_has_a_range_that_every_profile_is_in(profile: str) -> None:
    """It stands beside the setting."""
    settings = config.PROFILES[profile]
    assert [] == ranges.contradictions(settings)
    for part, name, value in _settings(settings):
        rules = ranges.rules(type(part), name)
        for rule in rules:
            rule.check(value)
        if type(value) in (int, float):
            assert [ranges.Within] == [type(rule) for rule in rules], name


@pytest.mark.parametrize(
    "given",
    [
        {"name": "a\udcff"},
        {"name": "n" * 65},
        {"zone": "\ud800"},
        {"labels": {"k": "\udcff"}},
        {"labels": {f"k{i}": "v" * 128 for i in range(64)}},
    ],
)
def test_texts_that_no_peer_could_read_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    """Half characters, and more than an advert holds, with an error that can itself be printed."""
    with pytest.raises(ConfigError, match=next(iter(given))) as caught:
        config.load(tmp_path, given)
    assert str(caught.value).encode()


def test_the_largest_labels_fit_into_an_advert() -> None:
    """Beside everything else that an advert may hold."""
    labels = {f"{i:063}": "v" for i in range(64)}
    ranges.rules(config.Settings, "labels")[0].check(labels)
    content = advert.Content(
        addresses=(("fd00:1111:2222:3333:4444:5555:6666:7777", 65535),) * 16,
        software="s" * 64,
        zone="z" * 64,
        labels=labels,
        cpu=advert.Cpu("c" * 128, 65536, 1e9),
        memory_total=2**60,
        gpus=(advert.Gpu("g" * 40, 2**40),) * 8,
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        slots=65536,
        models=(advert.Held("0" * 64, True, 1.5),) * 128,
        power=advert.PowerState("battery", 50.0),
        paused="p" * 128,
    )
    known = {name: getattr(content, name) for name in advert.Content.__struct_fields__}
    whole = advert.Advert(
        **known, id="a" * 52, name="n" * 64, key=bytes(32), boot=1, version=1, epoch=1, epoch_key=bytes(32)
    )
    assert len(advert.seal(whole, lambda _: bytes(64))) <= advert.ADVERT_BYTES_MAX


@pytest.mark.parametrize("text", ["x:y:z:w", "::g", "1:2:3"])
def test_a_seed_that_is_no_address_is_refused(text: str) -> None:
    """Also where a port is not needed."""
    with pytest.raises(ConfigError):
        config.host_port(text, default_port=7433)


def test_a_bare_ipv6_address_is_an_address() -> None:
    """With the default port."""
    assert ("fe80::1", 7433) == config.host_port("fe80::1", default_port=7433)

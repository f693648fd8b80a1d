"""Settings that the installation of a service writes into a file which a person may have written."""

from __future__ import annotations

import tomllib

import pytest

from meshnode.errors import ConfigError
from meshnode.service.settings import with_settings

WRITTEN = """# the machine in the hall
name = "hall"   # its door says so
listen = "0.0.0.0:7433"

[ discovery ]   # no multicast there
mdns = false

[http]
listen = "127.0.0.1:1"
"""


def test_an_empty_file_gets_what_is_set() -> None:
    """Keys of tables in their tables."""
    made = with_settings("", {"name": 'a "b"', "http.listen": "127.0.0.1:8080", "discovery.seeds": ["x:1", "y:2"]})
    assert {
        "name": 'a "b"',
        "http": {"listen": "127.0.0.1:8080"},
        "discovery": {"seeds": ["x:1", "y:2"]},
    } == tomllib.loads(made)


def test_what_a_person_wrote_stays() -> None:
    """Comments, order and the other settings; what is set again is replaced where it stood."""
    made = with_settings(WRITTEN, {"zone": "eu", "http.listen": "127.0.0.1:2", "discovery.seeds": ["x:1"]})
    assert tomllib.loads(WRITTEN) | {
        "zone": "eu",
        "http": {"listen": "127.0.0.1:2"},
        "discovery": {"mdns": False, "seeds": ["x:1"]},
    } == tomllib.loads(made)
    assert set(WRITTEN.splitlines()) - set(made.splitlines()) == {'listen = "127.0.0.1:1"'}
    assert made == with_settings(made, {"zone": "eu"})


@pytest.mark.parametrize(
    "text",
    ["discovery = { mdns = true }\n", "discovery.mdns = true\n", '[discovery]\nseeds = [\n "a",\n]\n', "nonsense"],
)
def test_a_way_of_writing_that_is_not_understood_is_left_alone(text: str) -> None:
    """It is an error that says so, never a file that says something else."""
    with pytest.raises(ConfigError):
        with_settings(text, {"discovery.seeds": ["x:1"]})

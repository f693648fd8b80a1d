"""Blueprints: what a person writes, what is signed, and which revision holds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import InvalidInput, MeshError, ModelNotFound, ProtocolError
from meshnode.fleet.blueprint import Blueprint, Canary, Want, from_map, holding, read, span
from meshnode.ranges import amount
from meshnode.wire.messages import Digest

WHOLE = """
name = "stores"

[[models]]
model = "digits"
replicas = 3
zone = "eu/berlin"
labels = { kind = "till" }
provider = "cpu"
memory = "2GB"
keep = "disk"
canary = { share = 0.25, for = "2m", errors = 0.05, slower = 2 }

[[models]]
model = "echo:1"
replicas = "all"
"""


@dataclass(frozen=True)
class Model:
    """A manifest, as far as blueprints want to know."""

    name: str
    version: int
    digest: Digest


@dataclass(frozen=True)
class Statement:
    """A signed blueprint."""

    id: bytes
    body: dict[str, Any]


def resolve(wanted: str) -> Model:
    models = {"digits": Model("digits", 3, Digest("a" * 64)), "echo:1": Model("echo", 1, Digest("b" * 64))}
    if wanted not in models:
        raise ModelNotFound(f"no model {wanted!r}")
    return models[wanted]


def test_a_blueprint_says_everything_by_name_and_is_signed_by_digest() -> None:
    """Each word of it, and through the statement and back."""
    name, (digits, echo) = read(WHOLE, resolve)
    assert "stores" == name
    expected = Want(
        model="digits",
        version=3,
        digest="a" * 64,
        replicas=3,
        zone="eu/berlin",
        labels={"kind": "till"},
        provider="cpu",
        memory_bytes=2 * 10**9,
        loaded=False,
        canary=Canary(250, 120, 50, 200),
    )
    assert expected == digits
    assert Want(model="echo", version=1, digest="b" * 64, replicas=0) == echo
    whole = Blueprint(name, 7, (digits, echo))
    assert whole == from_map(whole.to_map())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "no TOML"),
        ("name = 'x'", "models"),
        ("name = 'x'\nmodels = []", "models"),
        ("name = 'Bad Name'\n[[models]]\nmodel = 'digits'", "name"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\nreplica = 2", "replica"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\nreplicas = 0", "replicas"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\nreplicas = 'some'", "replicas"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\nmemory = 'lots'", "'lots' is no amount of memory"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\ncanary = {for = 'soon'}", "'soon' is no time"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\ncanary = {share = 0.9}", "share_permille"),
        ("name = 'x'\n[[models]]\nmodel = 'digits'\n[[models]]\nmodel = 'digits'", "digits twice"),
        ("x" * 100_000, "bytes"),
    ],
)
def test_what_is_wrong_is_told_where_it_is(text: str, says: str) -> None:
    """One clear error, and nothing else."""
    with pytest.raises(InvalidInput) as caught:
        read(text, resolve)
    assert says in str(caught.value)


@given(st.text(max_size=300))
def test_whatever_is_written_is_a_blueprint_or_one_error(text: str) -> None:
    """No other exception."""
    with suppress(MeshError):
        read(text, resolve)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=12,
    )
)
def test_a_statement_that_is_no_blueprint_is_refused(value: Any) -> None:
    """Whatever its body is."""
    with pytest.raises(ProtocolError):
        from_map({"name": value, "revision": 1, "wants": value})


def test_an_unknown_model_is_told_by_its_name() -> None:
    """As anywhere else."""
    with pytest.raises(ModelNotFound):
        read("name = 'x'\n[[models]]\nmodel = 'nothing'", resolve)


def test_the_highest_revision_holds_and_the_others_are_its_history() -> None:
    """Of two with one revision the one with the larger id; malformed ones are left out."""
    wants = (Want(model="digits", version=1, digest="a" * 64),)

    def signed(id: int, revision: int, *, empty: bool = False) -> Statement:
        return Statement(bytes([id]), Blueprint("stores", revision, () if empty else wants).to_map())

    other = Statement(b"z", Blueprint("labs", 1, wants).to_map())
    held = holding([signed(5, 2), signed(9, 1), signed(4, 2, empty=True), other, Statement(b"!", {"name": 3})])
    assert ["labs", "stores"] == list(held)
    assert (bytes([5]), 2) == (held["stores"].statement, held["stores"].now.revision)
    assert [(2, 0), (1, 1)] == [(it.revision, len(it.wants)) for it in held["stores"].before]


def test_amounts_and_spans() -> None:
    """As people write them."""
    assert (4 * 10**9, 512 * 2**20, 7, 1_500_000) == (amount("4GB"), amount("512 MiB"), amount(7), amount("1.5mb"))
    assert (90, 300, 7200, 86400) == (span("90s"), span("5m"), span("2h"), span("1d"))

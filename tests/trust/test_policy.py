"""The policy: what each line refuses, that two together are never looser than one, and what a bad file hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import InvalidInput
from meshnode.trust.form import ROLES
from meshnode.trust.policy import Model, Models, Node, Policy, Quota, Who, holding, read, stricter
from meshnode.wire.messages import Digest, NodeId

NAMES, PLACES, DIGESTS = ("ann", "bob", "cat"), ("", "eu", "eu/berlin", "us"), tuple(c * 64 for c in "ab")
whos = st.builds(
    Who,
    st.lists(st.sampled_from(sorted(ROLES)), max_size=2).map(tuple),
    st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    st.lists(st.sampled_from(PLACES[1:]), max_size=2).map(tuple),
)
models = st.builds(
    Models,
    st.lists(st.sampled_from(DIGESTS), max_size=2).map(tuple),
    st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    max_bytes=st.sampled_from([0, 10, 100]),
)
numbers = st.sampled_from([0, 1, 5, 100])
quotas = st.builds(Quota, numbers, numbers, numbers, numbers)
policies = st.builds(Policy, st.integers(0, 9), whos, whos, models, quotas, st.sampled_from(PLACES))
nodes = st.builds(
    Node,
    st.sampled_from(NAMES).map(NodeId),
    st.sampled_from(NAMES),
    st.frozensets(st.sampled_from(sorted(ROLES))),
    st.sampled_from(PLACES),
)
files = st.builds(
    Model, st.sampled_from(DIGESTS).map(Digest), st.integers(0, 200), st.sampled_from(NAMES), st.sampled_from(NAMES)
)
ALL = Policy()


@given(policies, policies, nodes, files)
def test_together_is_never_looser_than_either(mesh: Policy, local: Policy, node: Node, model: Model) -> None:
    """Whoever passes both passes each alone, and nobody is refused whom each lets pass: exactly both conditions."""
    both = stricter(mesh, local)
    alone = (stricter(mesh, ALL), stricter(ALL, local))
    assert bool(both.refuses_submitter(node)) == any(it.refuses_submitter(node) for it in alone)
    assert bool(both.refuses_publisher(node)) == any(it.refuses_publisher(node) for it in alone)
    assert bool(both.refuses_model(model)) == any(it.refuses_model(model) for it in alone)


@given(policies, policies)
def test_quotas_are_the_smaller_ones_and_zones_the_inner_ones(mesh: Policy, local: Policy) -> None:
    """No limit counts as the largest; a zone of one's own counts only inside the mesh's."""
    both = stricter(mesh, local)
    for name in Quota.__struct_fields__:
        limits = [getattr(it.quota, name) or 1e9 for it in (mesh, local)]
        assert min(limits) == (getattr(both.quota, name) or 1e9)
    assert mesh.default_zone == both.mesh_zone
    assert f"{both.default_zone}/".startswith(f"{mesh.default_zone}/") or not mesh.default_zone


def test_without_any_all_is_allowed() -> None:
    """A mesh that says nothing refuses nothing."""
    rules = stricter(ALL, ALL)
    node = Node(NodeId("ann"), "ann", frozenset(), "")
    model = Model(Digest(DIGESTS[0]), 10**12, "ann", "ann")
    answers = [rules.refuses_submitter(node), rules.refuses_publisher(node), rules.refuses_model(model)]
    assert ["", "", ""] == answers


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[submit]\nroles = ['admin']", "submit.roles of the mesh's policy, version 3"),
        ("[submit]\nnodes = ['bob']", "submit.nodes of the mesh's policy, version 3"),
        ("[submit]\nzones = ['eu/berlin']", "submit.zones of the mesh's policy, version 3"),
        ("[submit]\nzones = ['eu']\nroles = ['worker']\nnodes = ['ann']", ""),
    ],
)
def test_a_refusal_names_its_line(text: str, rule: str) -> None:
    """The list that does not name the node, and the document that it stands in."""
    node = Node(NodeId("a" * 52), "ann", frozenset({"worker", "submitter"}), "eu/paris")
    assert rule == stricter(read(text, 3), ALL).refuses_submitter(node)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (f"[models]\ndigests = ['{DIGESTS[1]}']", "models.digests of policy.toml of this node"),
        ("[models]\npublishers = ['cat']", "models.publishers of policy.toml of this node"),
        ("[models]\nmax_bytes = '1KB'", "models.max_bytes = 1000 of policy.toml of this node"),
        (f"[models]\npublishers = ['ann']\nmax_bytes = '2KB'\ndigests = ['{DIGESTS[0]}']", ""),
    ],
)
def test_a_model_that_may_not_run_hears_why(text: str, rule: str) -> None:
    """Each condition of the file, by its name."""
    model = Model(Digest(DIGESTS[0]), 1500, "a" * 52, "ann")
    assert rule == stricter(ALL, read(text)).refuses_model(model)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[submit", "no TOML"),
        ("[submits]\nroles = ['worker']", "submits"),
        ("[submit]\nroles = ['boss']", "submit.roles names boss"),
        ("[submit]\nroles = 'worker'", "Expected `array`"),
        ("default_zone = 'eu//x'", "cannot be a zone"),
        ("[models]\nmax_bytes = 'lots'", "'lots' is no amount"),
        ("[models]\ndigests = ['digits']", "'digits' is no digest"),
        ("[quota]\nconcurrent = -1", "quota.concurrent"),
        ("x = '" + "y" * 70_000 + "'", "65536 are allowed"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(text: str, says: str) -> None:
    """With the place and what may stand there."""
    with pytest.raises(InvalidInput, match=says):
        read(text)


@dataclass(frozen=True)
class Said:
    """A statement, as far as it matters."""

    id: bytes
    body: Any


@given(st.lists(policies, min_size=1, max_size=5), st.randoms())
def test_the_highest_version_holds_whatever_came_first(documents: list[Policy], rng: Any) -> None:
    """Of two with one version the larger id, and what cannot be read is passed over."""
    said = [Said(bytes([n]), it.to_map()) for n, it in enumerate(documents)]
    best = max(said, key=lambda it: (it.body["version"], it.id))
    rng.shuffle(said)
    assert msgspec.convert(best.body, Policy) == holding([Said(b"\xff", {"version": "x"}), *said])


@given(policies)
def test_what_is_signed_is_what_was_written(policy: Policy) -> None:
    """The map of a statement gives the same policy, and lines of a newer version are passed over."""
    assert policy == holding([Said(b"", {**policy.to_map(), "newer": 1})])

"""Zones and policy along a pipeline: they hold at each stage, and on the way back of what each brings."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from meshnode.errors import NoNodeInZone, PermissionDenied
from meshnode.links.side import Peer
from meshnode.tasks.permits import Permits
from meshnode.wire.messages import NodeId
from tests.tasks.around import ANN, BOB, CAT, NAMES, Around
from tests.tasks.test_stages import BY_DIGEST, MODELS, Town, peers, stages


@pytest.fixture
def town(around: Around) -> Town:
    """An agent that has no worker of its own."""
    return Town(around)


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model is bound to `eu`; the others are not."""
    two = structs.replace(MODELS["two"], zone="eu", bound=("eu",))
    monkeypatch.setitem(MODELS, "two", two)
    monkeypatch.setitem(BY_DIGEST, two.digest, two)


def through(around: Around, node: NodeId, relay: NodeId) -> None:
    """The link to a node goes through another one."""
    seen = Peer(relay, NAMES[relay], 1, b"", 1, None, False, frozenset(), "")
    around.links[node].via = seen


def ran(*far: Any) -> list[list[str]]:
    return [[BY_DIGEST[it.model].name for it in one.ran] for one in far]


async def test_a_policys_zone_is_that_of_all_stages(around: Around, town: Town) -> None:
    """The client names none: the node that runs the first stage is told which, and so is the one after it."""
    ann, bob = await peers(around, ANN, BOB)
    around.zones[BOB] = "eu/berlin"
    town.dispatcher.permits = Permits(default_zone=lambda: "eu")
    await town.submit(*stages("two", "three"))
    assert [[], ["one", "two", "three"]] == ran(ann, bob)
    assert {"eu"} == {it.zone for it in bob.ran}


async def test_whoever_goes_on_keeps_to_the_meshs_zone(around: Around, town: Town) -> None:
    """The submitter has not heard of the policy; this node, which ran the first stage, sends the rest nowhere else."""
    ann, bob = await peers(around, ANN, BOB)
    around.zones[BOB] = "eu"
    town.stages.permits = Permits(mesh_zone=lambda: "eu")
    await town.onward(CAT, "two", "three")
    assert [[], ["two", "three"]] == ran(ann, bob)
    assert {"eu"} == {it.zone for it in bob.ran}


async def test_a_model_that_may_not_run_ends_it_before_it_begins(around: Around, town: Town) -> None:
    """It is the last of three: nothing is run in vain."""

    def own(manifest: Any) -> None:
        if manifest.name == "three":
            raise PermissionDenied("model three:1 may not run")

    (ann,) = await peers(around, ANN)
    town.dispatcher.permits = Permits(own=own)
    with pytest.raises(PermissionDenied, match="three:1 may not run"):
        await town.submit(*stages("two", "three"))
    assert [] == ann.ran


@pytest.mark.usefixtures("bound")
async def test_a_stage_of_a_bound_model_goes_inside(around: Around, town: Town) -> None:
    """Ann is nearer and lies outside: the first and the last stage are hers, the one between is not."""
    ann, bob = await peers(around, ANN, BOB)
    around.zones[BOB] = "eu/berlin"
    await town.submit(*stages("two", "three"))
    assert [["one", "three"], ["two"]] == ran(ann, bob)


@pytest.mark.usefixtures("bound")
async def test_a_stage_that_nobody_inside_can_run_is_an_error_of_that_stage(around: Around, town: Town) -> None:
    """It is never a fall-back, and told with its number."""
    (ann,) = await peers(around, ANN)
    with pytest.raises(NoNodeInZone, match=r"stage 2 of 3, 'two'.*'eu', to which it is bound") as told:
        await town.submit(*stages("two", "three"))
    assert (1, [["one"]]) == (told.value.stage, ran(ann))


@pytest.mark.usefixtures("bound")
@pytest.mark.parametrize(("relay", "runs"), [("us", [[], ["one", "two"]]), ("eu/paris", [["one", "two"], []])])
async def test_what_a_bound_model_brings_takes_no_way_outside(
    around: Around, town: Town, relay: str, runs: list[list[str]]
) -> None:
    """Ann, inside, is reached through cat: what she would run after her stage would come back that way."""
    ann, bob = await peers(around, ANN, BOB)
    around.zones |= {ANN: "eu", BOB: "eu", CAT: relay}
    through(around, ANN, CAT)
    await town.submit(*stages("two"))
    assert runs == ran(ann, bob)

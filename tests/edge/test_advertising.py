"""What a node says about itself, and when that is news."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.advertising import (
    ADDRESSES_MAX,
    CHARGE_STEP,
    DRIFT,
    DRIFT_EACH_S,
    DRIFT_S,
    Advertiser,
    content,
    drifted,
    is_news,
)
from meshnode.edge.node import Node
from meshnode.execution.devices import Gpu
from meshnode.membership import advert
from meshnode.membership.advert import Content, Cpu, Held, PowerState
from meshnode.owner.manners import Reading
from tests.edge.living import ask
from tests.edge.test_local import ECHO
from tests.waiting import until

D1, D2 = "1" * 64, "2" * 64
SAID = Content(
    addresses=(("10.0.0.7", 7433),),
    software="0",
    zone="eu",
    labels={"room": "a"},
    cpu=Cpu("cpu", 2, 1.0),
    memory_total=100,
    gpus=(),
    providers=("CPUExecutionProvider",),
    slots=2,
    models=(Held(D1, True, 0.1),),
    power=PowerState("mains", None),
)


def said(**fields: Any) -> Content:
    return msgspec.structs.replace(SAID, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"addresses": (("10.0.0.8", 7433),)},
        {"software": "1"},
        {"zone": "us"},
        {"labels": {}},
        {"cpu": Cpu("cpu", 4, 1.0)},
        {"memory_total": 200},
        {"gpus": (advert.Gpu("one", 1),)},
        {"providers": ()},
        {"slots": 1},
        {"models": ()},
        {"models": (Held(D1, False, 0.1),)},
        {"models": (Held(D2, True, 0.1),)},
        {"models": (Held(D1, True, 0.1), Held(D2, False, None))},
        {"models": (Held(D1, True, None),)},
        {"power": PowerState("battery", 80)},
        {"draining": True},
        {"paused": "its owner is there"},
        {"sandbox": "B"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_change_that_matters_is_news(fields: dict[str, Any]) -> None:
    """In both directions."""
    assert is_news(SAID, said(**fields))
    assert is_news(said(**fields), SAID)


@given(st.floats(1e-5, 10.0), st.floats(1e-5, 10.0))
def test_a_run_time_has_drifted_when_it_changed_much(before_s: float, after_s: float) -> None:
    """Noise between two runs makes no gossip, and no change of it is news at once."""
    times = before_s, after_s
    changed = max(times) / min(times) > DRIFT and max(times) - min(times) > DRIFT_S
    before, after = (said(models=(Held(D1, True, s), Held(D2, False, None))) for s in times)
    assert changed == drifted(before, after)
    assert not is_news(before, after)


def test_a_drift_is_told_the_rarer_the_more_nodes_there_are() -> None:
    """The other news at once, and the run time with them."""
    now, here, nodes, heard = 0.0, SAID, 8, list[Content]()
    it = Advertiser(lambda: here, heard.append, nodes=lambda: nodes, clock=lambda: now)
    it.now()
    here = said(models=(Held(D1, True, 0.2),))
    it.now()
    now = 0.99 * nodes * DRIFT_EACH_S
    it.now()
    assert [SAID] == heard
    now = nodes * DRIFT_EACH_S
    it.now()
    assert [SAID, here] == heard
    here = said(models=(Held(D1, True, 0.1),), draining=True)
    it.now()
    assert here == heard[-1]
    nodes, here = 1, SAID
    it.now()
    assert SAID == heard[-1], "it drains no more"
    here = said(models=(Held(D1, True, 0.2),))
    now += DRIFT_EACH_S
    it.now()
    assert 5 == len(heard)


def test_what_is_the_same_is_no_news() -> None:
    """Equal facts are told once."""
    assert not is_news(SAID, said(labels={"room": "a"}, models=(Held(D1, True, 0.1),)))


def told(node: Node, **fields: Any) -> Content:
    given: dict[str, Any] = {"zone": "eu", "addresses": (("127.0.0.1", 7433),), "draining": False}
    return content(node, **(given | fields))


async def test_the_facts_are_those_of_the_parts(node: Node) -> None:
    """Hardware, labels, zone and what runs here; a model is told with its state and its learnt run time."""
    node.settings = replace(node.settings, labels={"room": "a"})
    node.devices.gpus.append(Gpu("one", 10))
    await until(lambda: node.execution.providers, "the worker is up")
    fact = told(node, draining=True)
    assert ("eu", {"room": "a"}, 1, True) == (fact.zone, fact.labels, fact.slots, fact.draining)
    assert (advert.Gpu("one", 10),) == fact.gpus
    assert ("CPUExecutionProvider",) == fact.providers
    assert () == fact.models

    added = await ask(node.home, "model.add", {"path": ECHO, "name": "echo"})
    assert (Held(added["digest"], False, None),) == told(node).models
    await ask(node.home, "model.remove", {"model": "echo"})
    assert () == told(node).models, "its files are still here, and nobody may ask for them"


async def test_a_battery_that_drains_is_told_in_steps(node: Node) -> None:
    """Not each percent is gossip."""
    charges = []
    for percent in (None, 100.0, 99.0, 71.3, 2.0, 0.0):
        node.owner.reading = Reading(on_battery=True, charge_percent=percent)
        charges.append(told(node).power.percent)
    assert [None, 100, 100, 70, 0, 0] == charges
    assert all(charge is None or charge % CHARGE_STEP == 0 for charge in charges)


@pytest.mark.parametrize(("on_battery", "source"), [(True, "battery"), (False, "mains"), (None, "unknown")])
async def test_the_owners_sensor_says_where_power_comes_from(node: Node, on_battery: bool | None, source: str) -> None:
    """In the advert and in the vitals alike: there is one sensor."""
    node.owner.reading = Reading(on_battery=on_battery, charge_percent=66.66)
    assert (source, 65) == (told(node).power.source, told(node).power.percent)
    assert (source, 66.7) == (node.vitals().power_source, node.vitals().power_percent)


async def test_more_addresses_than_fit_are_cut(node: Node) -> None:
    """The first ones are the best ones."""
    addresses = tuple(("10.0.0.7", port) for port in range(1, 40))
    assert addresses[:ADDRESSES_MAX] == told(node, addresses=addresses).addresses

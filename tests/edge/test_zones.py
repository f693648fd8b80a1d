"""Zones between whole agents: what an admin granted counts, and nothing that a node says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from meshnode.client import AsyncClient
from meshnode.errors import NoNodeInZone
from tests.edge.living import ask, founder, joiner, workers
from tests.edge.test_local import ECHO
from tests.waiting import until


async def test_a_node_that_lies_about_its_zone_gets_nothing_of_it(tmp_path: Path) -> None:
    """Its grant names `us`; it says `eu` in its advert and would run what is bound to `eu`: no byte goes there."""
    x = {"x": np.ones((1, 4), np.float32)}
    async with founder(tmp_path / "ann") as ann, joiner(tmp_path / "bob", ann.node, zone="us") as bob:
        await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo"})
        await until(lambda: bob.node.catalog.manifests(), "bob knows the model")
        liar = bob.node.keeper.id
        async with AsyncClient(ann.node.home) as client:
            assert liar == (await client.infer("echo", x, zone="us")).node
            bob._zone = lambda: "eu"  # type: ignore[method-assign]
            bob.node.serving.zone = "eu"
            bob._advertiser.soon()

            def said() -> bool:
                member = ann.node.membership.member(liar)
                return member is not None and member.advert is not None and member.advert.zone == "eu"

            await until(said, "it was heard")
            runs = bob.node.execution.vitals()[2]
            with pytest.raises(NoNodeInZone):
                await client.infer("echo", x, zone="eu")
            with pytest.raises(NoNodeInZone):
                await client.infer("echo", x, zone="eu", node=liar)
            assert runs == bob.node.execution.vitals()[2]
    assert [] == workers()

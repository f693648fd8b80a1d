"""Zones between whole agents: what an admin granted counts, and nothing that a node says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshnode.client import AsyncClient
from meshnode.edge import carrying, fleet, zoning
from meshnode.edge.node import Node
from meshnode.edge.zoning import claim, granted
from meshnode.errors import InvalidInput, NoNodeInZone, PermissionDenied
from meshnode.wire.messages import HaveAsk, Infer, PieceAsk, PieceListAsk, QuoteAsk, Stage
from tests.edge.living import ask, founder, joiner, sees, workers
from tests.edge.test_local import ECHO
from tests.waiting import until

DIGITS = str(Path(ECHO).parent.parent / "digits" / "model.onnx")
X = {"x": np.ones((1, 4), np.float32)}


async def test_a_node_that_lies_about_its_zone_gets_nothing_of_it(tmp_path: Path) -> None:
    """Its grant names `us`; it says `eu` in its advert and would run what is bound to `eu`: no byte goes there."""
    async with founder(tmp_path / "ann") as ann, joiner(tmp_path / "bob", ann.node, zone="us") as bob:
        await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo"})
        await until(lambda: bob.node.catalog.manifests(), "bob knows the model")
        liar = bob.node.keeper.id
        async with AsyncClient(ann.node.home) as client:
            assert liar == (await client.infer("echo", X, zone="us")).node
            bob._zone = lambda: "eu"  # type: ignore[method-assign]
            bob.node.serving.zone = lambda: "eu"
            bob._advertiser.soon()

            def said() -> bool:
                member = ann.node.membership.member(liar)
                return member is not None and member.advert is not None and member.advert.zone == "eu"

            await until(said, "it was heard")
            runs = bob.node.execution.vitals()[2]
            with pytest.raises(NoNodeInZone):
                await client.infer("echo", X, zone="eu")
            with pytest.raises(NoNodeInZone):
                await client.infer("echo", X, zone="eu", node=liar)
            assert runs == bob.node.execution.vitals()[2]
    assert [] == workers()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """Ann in eu/berlin with a model bound to eu, and bob in us, who knows of it."""
    async with (
        founder(tmp_path / "ann", zone="eu/berlin") as ann,
        joiner(tmp_path / "bob", ann.node, zone="us") as bob,
    ):
        added = await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo", "zone": "eu"})
        assert "eu" == added["zone"]
        await until(lambda: bob.node.catalog.manifests(), "bob knows the model")
        yield ann.node, bob.node
    assert [] == workers()


async def test_a_model_of_a_zone_runs_only_there(two: tuple[Node, Node]) -> None:
    """From outside it can be used, on a node inside; a node outside is refused by name, and nothing is fetched."""
    ann, bob = two
    for home in (ann.home, bob.home):
        async with AsyncClient(home) as client:
            assert ann.keeper.id == (await client.infer("echo", X)).node
            for refused in ({"node": bob.keeper.id}, {"zone": "us"}):
                with pytest.raises(NoNodeInZone, match=r"to which it is bound|zone 'us' and 'eu'"):
                    await client.infer("echo", X, **refused)
    assert [] == bob.store.digests()


async def test_a_node_outside_neither_fetches_runs_nor_gets_a_piece(two: tuple[Node, Node]) -> None:
    """Each check holds alone: its own fetch, its own door, and the holder's when it asks all the same."""
    ann, bob = two
    manifest = bob.catalog.resolve("echo")
    with pytest.raises(NoNodeInZone, match="bound to zone 'eu'"):
        await bob.fetcher.ensure(manifest)
    with pytest.raises(NoNodeInZone, match="model is for zone 'eu'"):
        bob.serving.quote(QuoteAsk(task="0" * 32, model=manifest.digest, deadline_s=1.0), ann.keeper.id)
    with pytest.raises(NoNodeInZone, match="model is for zone 'eu'"):
        await bob.serving.warm(manifest.digest, ann.keeper.id)
    with pytest.raises(NoNodeInZone, match="bound to zone 'eu'"):
        await ask(ann.home, "model.pull", {"model": "echo", "node": "bob"})
    link = await bob.pool.link(ann.keeper.id, bob.membership.addresses(ann.keeper.id))
    digest = manifest.digest
    for request in (PieceListAsk(model=digest, file=0), PieceAsk(model=digest, file=0, piece=0), HaveAsk(model=digest)):
        with pytest.raises(NoNodeInZone, match=f"node {bob.keeper.id[:8]} is in zone 'us'"):
            await link.call(request)


async def test_a_pipeline_comes_through_no_member_outside_of_any_of_its_zones(two: tuple[Node, Node]) -> None:
    """Its results would go back that way, those of its second stage too, whose model is bound."""
    ann, bob = two
    await ask(bob.home, "model.add", {"path": DIGITS, "name": "free"})
    await until(lambda: len(ann.catalog.manifests()) == 2, "ann knows both")
    free, bound = (ann.catalog.resolve(name).digest for name in ("free", "echo"))
    link = await bob.pool.link(ann.keeper.id, bob.membership.addresses(ann.keeper.id))
    given: dict[str, Any] = {"task": "0" * 32, "attempt": 1, "model": free, "deadline_s": 1.0, "inputs": ()}
    back = await ann.pool.link(bob.keeper.id, bob.membership.addresses(bob.keeper.id))
    zoning.check_way(ann, back.peer, Infer(**given))
    for more in ({"zone": "eu"}, {"model": bound}, {"then": (Stage(bound),)}):
        with pytest.raises(NoNodeInZone, match="bound to zone 'eu', and bob, through which it came, is in zone 'us'"):
            zoning.check_way(ann, back.peer, Infer(**(given | more)))
        zoning.check_way(ann, None, Infer(**(given | more)))
        zoning.check_way(ann, link.peer, Infer(**(given | more)))


async def test_who_fetches_outside_is_no_fellow(two: tuple[Node, Node], tmp_path: Path) -> None:
    """Ann still tells who asked her for it; for a model that is bound elsewhere now nobody asks those."""
    ann, bob = two
    await ask(ann.home, "model.add", {"path": DIGITS, "name": "free"})
    async with joiner(tmp_path / "cat", ann, "cat", zone="eu") as cat:
        await until(lambda: len(cat.node.catalog.manifests()) == 2 and sees(cat.node, bob), "cat knows all")
        for name, fellows in (("echo", ()), ("free", (bob.keeper.id,))):
            manifest = ann.catalog.resolve(name)
            ann.giver.have(manifest, bob.keeper.id)
            assert fellows == (await carrying.ask_have(cat.node, ann.keeper.id, manifest.digest))[1]


async def test_a_blueprint_places_it_inside_only(two: tuple[Node, Node]) -> None:
    """Every node that matches means every node in the zone; the other is told apart, with the reason."""
    ann, bob = two
    text = 'name = "b"\n[[models]]\nmodel = "echo"\nreplicas = 2\n'
    await until(lambda: all(site.works for site in fleet.sites(ann)), "both have a worker, and say so")
    (row,) = (await ask(ann.home, "blueprint.apply", {"text": text, "dry_run": True}))["models"]
    assert [ann.keeper.id] == [seat["node"] for seat in row["seats"]]
    (out,) = row["left_out"]
    assert bob.keeper.id == out["node"]
    assert "bound to another" in out["reason"]


async def test_what_is_bound_later_is_let_go_of_outside(two: tuple[Node, Node]) -> None:
    """Bob adds a model, ann binds the same files to eu: they are gone from bob, who may not add them again."""
    ann, bob = two
    await ask(bob.home, "model.add", {"path": DIGITS, "name": "free"})
    (digest,) = bob.store.digests()
    begun = bob.store.folder / f"partial-{digest}"  # as a fetch leaves it that was cut off
    begun.mkdir()
    await ask(ann.home, "model.add", {"path": DIGITS, "name": "bound", "zone": "eu"})
    await until(lambda: not bob.store.digests(), "bob let go of it")
    assert not begun.exists()
    with pytest.raises(NoNodeInZone, match="bound to zone 'eu'"):
        await ask(bob.home, "model.add", {"path": DIGITS, "name": "again"})
    assert ("eu",) == bob.catalog.bound(digest)
    assert [] == bob.store.digests()
    with pytest.raises(InvalidInput, match="is known, in zone none"):
        await ask(ann.home, "model.add", {"path": DIGITS, "name": "free", "version": 1, "zone": "eu"})


async def test_an_admin_gives_and_takes_a_zone(two: tuple[Node, Node]) -> None:
    """`meshnode zone` makes a node one of the zone, and no node gives itself one."""
    ann, bob = two
    with pytest.raises(PermissionDenied, match="only an admin"):
        await ask(bob.home, "zone", {"node": "bob", "zone": "eu/paris"})
    await ask(ann.home, "zone", {"node": "bob", "zone": "eu/paris"})
    async with AsyncClient(ann.home) as client:
        await until(lambda: granted(bob, bob.keeper.id) == "eu/paris", "bob was told")
        assert bob.keeper.id == (await client.infer("echo", X, node=bob.keeper.id)).node
        await ask(ann.home, "zone", {"node": "bob", "zone": ""})
        await until(lambda: not bob.store.digests(), "bob let go of it")
        with pytest.raises(NoNodeInZone):
            await client.infer("echo", X, node=bob.keeper.id)
    with pytest.raises(InvalidInput, match="cannot be a zone"):
        await ask(ann.home, "zone", {"node": "bob", "zone": "eu//paris"})


async def test_what_a_node_says_of_itself_does_not_count(tmp_path: Path) -> None:
    """A grant without a zone, and settings with one: it is shown, logged, and nothing of that zone comes here."""
    async with founder(tmp_path / "ann") as ann, joiner(tmp_path / "bob", ann.node) as bob:
        object.__setattr__(bob.node.settings, "zone", "eu")
        await claim(bob.node)
        bob._advertiser.soon()
        await ask(ann.node.home, "model.add", {"path": ECHO, "name": "echo"})
        async with AsyncClient(ann.node.home) as client:
            with pytest.raises(NoNodeInZone):
                await client.infer("echo", X, zone="eu")
        object.__setattr__(ann.node.settings, "zone", "us")
        await claim(ann.node)  # an admin's agent grants itself what its owner set
        assert "us" == granted(ann.node, ann.node.keeper.id)
    assert [] == workers()

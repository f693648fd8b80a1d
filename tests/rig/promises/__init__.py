"""The promises of the mesh, each as one experiment with real agents on virtual hosts.

A promise has a short form, which the ordinary tests run, and a full form, which `scripts/promises --full` runs: the
same experiment for longer or more often. It returns figures; whoever runs it says whether they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.rig.promises import (
    brokers,
    clocks,
    copies,
    cuts,
    deaths,
    disks,
    floods,
    freezes,
    joins,
    kills,
    leaving,
    models,
    sealed,
    seeds,
    soak,
    splits,
    starts,
    strangers,
    transfers,
    upgrades,
    wires,
    zones,
)
from tests.rig.promises.figures import Figure
from tests.rig.promises.town import Stage


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise; `keep` runs its experiment, with True for the full form."""

    name: str
    says: str
    keep: Callable[[Stage, bool], list[Figure]]
    lacks: Callable[[], str] = str
    """Why it cannot be tried here; empty when it can."""


PROMISES = {
    promise.name: promise
    for promise in (
        Promise("START", "twelve agents that start cold find each other", starts.keep),
        Promise("P1", "no task is lost or wrong, whoever dies", kills.keep),
        Promise("P2", "a killed agent is noticed, and its work is done elsewhere", deaths.keep),
        Promise("P3", "loss, delay, disorder and a busy machine kill nobody", wires.loss),
        Promise("P4", "a wire that loses one way only makes nobody flap", wires.one_way),
        Promise("P5", "a split mesh works on in both halves and heals", splits.keep),
        Promise("P6", "a link that comes and goes costs no task and no storm", wires.flapping),
        Promise("P7", "a mesh over satellites joins, serves and accuses nobody", wires.latency),
        Promise("P8", "a frozen agent's work is done elsewhere, and it returns by itself", freezes.keep),
        Promise("P9", "a wall clock that jumps costs no task and no membership", clocks.keep),
        Promise(
            "NARROW", "a narrow wire with jitter and disorder carries large tensors, and kills nobody", wires.narrow
        ),
        Promise("P15", "a model that wants all memory fails, and nothing beside it", models.memory),
        Promise("P16", "a worker that crashes costs no task, an input that kills is found out", models.crashes),
        Promise("P17", "what never ends is ended, and the core is free", models.hangs),
        Promise("P22", "who is revoked is gone for all at once, or at the first contact", leaving.keep),
        Promise("P23", "nothing is on the wire in the clear, and no other port is open", sealed.keep),
        Promise("P29", "an agent that is told to end loses nothing and says goodbye", kills.drained),
        Promise("P24", "what is bound to a zone never leaves it", zones.keep),
        Promise("P21", "a home that was copied is found out", copies.keep),
        Promise("P10", "a full disk stops no task and harms no file", disks.full_disk),
        Promise("P11", "a damaged file is found out, told once, and no key is lost over it", disks.damaged),
        Promise("P12", "who is killed while it writes leaves the old or the new, and so does a power cut", cuts.keep),
        Promise("P13", "a model that is cut, changed, wrong or slow on its way is never loaded", transfers.keep),
        Promise("P14", "a model on its way survives kills of both ends and fetches nothing twice", transfers.killed),
        Promise("P18", "malformed frames and datagrams cost an agent nothing", strangers.keep),
        Promise("P19", "connections that say nothing are dropped, and make nobody wait", strangers.slow),
        Promise("P20", "a flood takes nothing from another client", floods.keep),
        Promise("P25", "a mesh is updated node by node under load, and back", upgrades.keep, upgrades.lacks),
        Promise(
            "P26", "hours of mixed faults cost no task, and leave nothing behind in who lives through them", soak.keep
        ),
        Promise(
            "P27",
            "a broker that dies, replays or lies costs nothing but what goes over it",
            brokers.keep,
            brokers.lacks,
        ),
        Promise("P28", "many join at once, and who has a bad token is told why", joins.keep),
        Promise("P30", "a thousand seeds of the simulator break nothing, and a seed is one run", seeds.keep),
    )
}

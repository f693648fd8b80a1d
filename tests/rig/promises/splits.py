"""P5: two halves that cannot reach each other both go on, and are one mesh again soon after they can."""

from __future__ import annotations

import time

from tests.mesh.rig import MODELS, wait_for
from tests.rig.promises.figures import Figure, at_least, at_most, tasks, told, true
from tests.rig.promises.town import HOSTS, SETTLE_S, SUBMITTERS, Stage, Town, wait

HEALED_S = 5.0
MODEL = "digits"


def _trust(town: Town, host: int) -> object:
    """What of the signed statements can be seen from outside: who is in, and which models hold."""
    client = town.client(host)
    members = sorted((row["id"], row["granted_at"], row["revoked"]) for row in client.ask("members"))
    return members, sorted((model["name"], model["digest"]) for model in client.ask("models"))


def keep(stage: Stage, full: bool) -> list[Figure]:
    """Cut four from four, in full until each half holds the other for dead; work and a new model in each; heal."""
    town, seconds = stage.town(), 60 if full else 3
    halves = list(range(HOSTS // 2)), list(range(HOSTS // 2, HOSTS))
    with town.load() as loads:
        town.net.cut(*halves)
        began = time.monotonic()

        def apart() -> bool:
            return all(
                {town.states(host)[other] for other in far} == {"dead"}
                for near, far in (halves, halves[::-1])
                for host in near
            )

        if full:
            wait_for(apart, within_s=seconds, why="each half holds the other for dead")
        apart_s = time.monotonic() - began
        done = [load.answered for load in loads]
        for number, half in enumerate(halves):
            town.client(half[0]).add_model(MODELS / MODEL / "model.onnx", name=f"{MODEL}{time.time_ns()}-{number}")
        wait(seconds - apart_s)
        done = [load.answered - before for load, before in zip(loads, done, strict=True)]
        did = f"{HOSTS // 2} and {HOSTS // 2} of {HOSTS} cut apart for {time.monotonic() - began:.0f} s"
        town.mark()
        healed = time.time()
        town.net.heal()
        town.until_alive(why="one view again")
        one_view_s = max((e.at for e in town.seen() if e.event in ("alive", "back")), default=healed) - healed
        wait_for(
            lambda: len({repr(_trust(town, host)) for host in town.agents}) == 1,
            within_s=SETTLE_S,
            why="the trust sets are equal",
        )
        trust_s = time.time() - healed
    return [
        told(did, "each half held the other for dead after", f"{apart_s:.1f} s" if full else "not waited for"),
        *(
            at_least(did, f"tasks done in the half of h{host} meanwhile", count, 1)
            for host, count in zip(SUBMITTERS, done, strict=True)
        ),
        at_most(did, "one view after the wire healed", one_view_s, HEALED_S),
        at_most(did, "equal trust sets and models after", trust_s, HEALED_S),
        true(did, "alive for everyone at the end", town.all_alive()),
        *tasks(did, loads),
    ]

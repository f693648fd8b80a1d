"""Which rules the failure detector plays by: the product's own, and those it is compared with.

Every rule beyond SWIM is a switch, so that the simulator can say what each one buys (`scripts/simulate --compare`);
the figures are in protocols/membership.md. An agent always runs `OURS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """What is played beyond the paper's SWIM (indirect probes, suspicion, refutation)."""

    health: bool = True
    """Lifeguard: the local health multiplier stretches the probe interval and timeout; helpers say nack."""
    confirmations: bool = True
    """Lifeguard: a suspicion starts long and shrinks as independent accusers confirm it."""
    buddy: bool = True
    """Lifeguard: a suspect is told of its suspicion first."""
    stream_ping: bool = True
    """A silent member is also asked over its link, beside the helpers (memberlist's TCP fallback)."""
    small_faster: bool = True
    """Up to 32 members probe a third more often: there are few to notice a crash, and the bytes allow it."""
    repeat_ping: bool = True
    """A ping without an answer is sent again at half the timeout, and once more beside the helpers'."""
    tell_suspect: bool = True
    """Whoever accuses a member, or learns over a link that it is accused, tells it at once."""
    feedback: bool = True
    """Hearing one's own news back counts as two tellings."""
    own_verdict: bool = True
    """A death that others declare is evidence, and no verdict, until this node's own suspicion has lasted."""
    paced: bool = True
    """Accusations are answered four times a second at most, and one accuser makes this node doubt itself once."""
    deaf: bool = True
    """Nothing heard from anybody since the probe: it is me. Nobody is accused, suspicions wait."""
    lag: bool = True
    """Time in which this process did not run does not count against others."""
    first_hand: bool = True
    """Whoever was heard from lately is not suspected on the word of others; it is told, and refutes."""
    streams_probe: bool = True
    """A member that was heard on its link within the probe interval need not be probed."""


OURS = Rules()
LIFEGUARD = Rules(
    small_faster=False,
    repeat_ping=False,
    tell_suspect=False,
    feedback=False,
    own_verdict=False,
    paced=False,
    deaf=False,
    lag=False,
    first_hand=False,
    streams_probe=False,
)
"""memberlist with its LAN defaults."""
SWIM = replace(LIFEGUARD, health=False, confirmations=False, buddy=False, stream_ping=False)
"""The paper's, with suspicion and round-robin probing."""

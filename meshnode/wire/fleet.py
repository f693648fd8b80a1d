"""What a node does for the blueprints, asked by whoever watches a roll-out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.wire.terms import Count, Hex64, Message, Seconds

MODELS_MAX = 256


class FleetAsk(Message, frozen=True, tag="fleet_ask"):
    """How do you do with these models? Answered by `FleetRows`."""

    models: Annotated[tuple[Hex64, ...], Meta(max_length=MODELS_MAX)]


class FleetRow(msgspec.Struct, frozen=True, array_like=True):
    """One model on the answering node since it was started.

    `state` is `none`, `waiting`, `working`, `held` or `failed`, and `reason` why it failed last. `runs` gave a result
    and took `run_s` seconds together, `failed` did not.
    """

    model: Hex64
    state: Annotated[str, Meta(max_length=16)]
    reason: Annotated[str, Meta(max_length=512)] = ""
    runs: Count = 0
    failed: Count = 0
    run_s: Seconds = 0.0


class FleetRows(Message, frozen=True, tag="fleet_rows"):
    """A row for each model that was asked about, in that order."""

    rows: Annotated[tuple[FleetRow, ...], Meta(max_length=MODELS_MAX)] = ()

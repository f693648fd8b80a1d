"""The agents that a client may speak to, each by its home on this machine, and the link to one of them.

The first that answers is taken and kept until it goes away; then the next one is tried. A program has no identity of
its own in the mesh, so that only agents of the same user on the same machine open their door to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meshnode import config
from meshnode.client.pacing import cancelled
from meshnode.errors import AgentUnavailable
from meshnode.links.link import Link
from meshnode.links.local import connect

PATIENT = replace(config.Links(), heartbeat_misses=40)
"""With nobody else to go to, an agent that says nothing for a second is a busy machine's; a dead one shows at once."""


class Doors:
    """See the module's docstring."""

    def __init__(self, homes: Sequence[Path]) -> None:
        self.homes = tuple(homes)
        self.reached = False
        """Whether an agent has ever answered."""
        self._at = 0
        self._link: Link | None = None
        self._left: list[Link] = []
        self._connecting: asyncio.Task[Link] | None = None

    @property
    def home(self) -> Path:
        """Of the agent that is spoken to, or tried first."""
        return self.homes[self._at]

    async def link(self) -> Link:
        """The link to an agent; callers that come together share one attempt. Raises AgentUnavailable."""
        if self._link is not None and self._link.usable:
            return self._link
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        connecting = self._connecting
        try:
            self._link = await asyncio.shield(connecting)
        finally:
            if connecting.done() and self._connecting is connecting:
                self._connecting = None
        self.reached = True
        return self._link

    def leave(self, link: Link) -> None:
        """Ask the next agent from now on, when there is one; what is open stays where it is."""
        if len(self.homes) > 1 and self._link is link:
            self._left = [*(left for left in self._left if left.usable), link]
            self._link = None
            self._at = (self._at + 1) % len(self.homes)

    async def close(self) -> None:
        """Let go of the agents; what is still open is cancelled there."""
        if self._connecting is not None:
            await cancelled([self._connecting])
            self._connecting = None
        links, self._left = [*self._left, *([self._link] if self._link is not None else [])], []
        self._link = None
        for link in links:
            link.abort("the client is done")
            await link.closed.wait()

    async def _connect(self) -> Link:
        failures: list[AgentUnavailable] = []
        settings = config.Links() if len(self.homes) > 1 else PATIENT
        for _ in self.homes:
            try:
                return await connect(self.home, settings)
            except AgentUnavailable as error:
                failures.append(error)
                self._at = (self._at + 1) % len(self.homes)
        if len(failures) == 1:
            raise failures[0]
        raise AgentUnavailable(
            f"none of {len(failures)} agents answers: {'; '.join(map(str, failures))}", hint=failures[0].hint
        )

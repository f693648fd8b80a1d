"""One model of the mesh as something to call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshnode.client import options
from meshnode.client.result import Result

if TYPE_CHECKING:
    from meshnode.client.task import AsyncClient


class AsyncModel:
    """One model of the mesh: call it with its inputs."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = name
        self._document: dict[str, Any] | None = None

    async def describe(self) -> dict[str, Any]:
        """The model's document, asked once."""
        if self._document is None:
            self._document = await self._client.ask("model.show", model=self.name)
        return self._document

    @property
    async def inputs(self) -> list[dict[str, Any]]:
        """Its inputs: name, dtype, shape. `await digits.inputs`."""
        found: list[dict[str, Any]] = (await self.describe())["inputs"]
        return found

    @property
    async def outputs(self) -> list[dict[str, Any]]:
        """Its outputs: name, dtype, shape. `await digits.outputs`."""
        found: list[dict[str, Any]] = (await self.describe())["outputs"]
        return found

    async def __call__(self, value: Any = None, /, **inputs: Any) -> Result:
        """A single unnamed input, or inputs by name."""
        if value is not None:
            inputs = dict(options.named(await self.describe(), value, inputs))
        return await self._client.infer(self.name, inputs)

"""While a model moves: a bar on a terminal, a line now and then elsewhere, both on stderr."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from meshnode.cli import context, render
from meshnode.client import AsyncClient
from meshnode.errors import MeshError

T = TypeVar("T")
SLOW_S = 1.0
"""What takes longer says how far it is."""
LOOK_S = 0.3
SAY_S = 10.0


async def moving(client: AsyncClient, work: Awaitable[T], text: str, **which: str | None) -> T:
    """What the work gives; meanwhile `model.moved` is asked of `which`."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=SLOW_S)
    console = context.console(stderr=True)
    if not task.done():
        await (_bar if console.is_terminal else _lines)(client, task, text, console, which)
    return await task


async def _how_far(client: AsyncClient, which: dict[str, str | None]) -> tuple[int, int]:
    try:
        document = await client.ask("model.moved", **which)
    except MeshError:  # the work will say what is wrong
        return 0, 0
    return document["done"], document["total"]


async def _bar(
    client: AsyncClient, task: asyncio.Future[T], text: str, console: Console, which: dict[str, str | None]
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(text, total=None)
        while not task.done():
            done, total = await _how_far(client, which)
            if total:
                progress.update(bar, completed=done, total=total)
            await asyncio.wait([task], timeout=LOOK_S)


async def _lines(
    client: AsyncClient, task: asyncio.Future[T], text: str, console: Console, which: dict[str, str | None]
) -> None:
    began = time.monotonic() - SLOW_S
    while not task.done():
        done, total = await _how_far(client, which)
        far = f", {render.size(done)} of {render.size(total)}" if total else ""
        console.print(f"{text}{far}, {time.monotonic() - began:.0f} s", soft_wrap=True)
        await asyncio.wait([task], timeout=SAY_S)

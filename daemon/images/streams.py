"""Work that reports lines, as an async generator whose closing cancels the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from daemon.images import progress
from daemon.images.model import Json
from daemon.images.registry.errors import RegistryError
from storage.errors import Internal, PydError

Say = Callable[[Json], None]
BACKLOG = 256
"""Lines a slow client may be behind before counting lines are dropped."""


async def reported(work: Callable[[Say], Awaitable[None]]) -> AsyncIterator[Json]:
    """Runs `work(say)` and yields what it says.

    An error before the first line is raised, a later one becomes the last line, as dockerd does it: the
    HTTP status is sent with the first byte.
    """
    lines: asyncio.Queue[Json | None] = asyncio.Queue()

    def say(line: Json) -> None:
        if "progress" not in line or lines.qsize() < BACKLOG:
            lines.put_nowait(line)

    task = asyncio.ensure_future(work(say))
    task.add_done_callback(lambda _: lines.put_nowait(None))
    begun = False
    try:
        while (line := await lines.get()) is not None:
            begun = True
            yield line
        try:
            task.result()
        except RegistryError as error:
            if not begun:
                raise Internal(str(error)) from error
            yield progress.failure(str(error))
        except PydError as error:
            if not begun:
                raise
            yield progress.failure(str(error))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def together(*works: Awaitable[object]) -> None:
    """Runs all; the first failure cancels the others and is raised as it is (no ExceptionGroup)."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

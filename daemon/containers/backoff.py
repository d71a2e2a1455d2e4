"""When a container is started again: Docker's back-off, 100 ms doubled each time up to a minute.

A run of ten seconds resets it (moby restartmanager). Timers are this daemon's; one that starts anew begins
again with the shortest delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from daemon.clock import SECOND
from daemon.containers.context import Context
from daemon.containers.model import Container

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STABLE_AFTER = 10 * SECOND

_delays: dict[str, float] = {}
_timers: dict[str, asyncio.Task[Any]] = {}


def schedule(
    ctx: Context, container: Container, duration: int, again: Callable[[Context, Container], Awaitable[None]]
) -> None:
    """Call `again` after the delay that a run of `duration` nanoseconds earns."""
    delay = FIRST_DELAY if duration >= STABLE_AFTER else _delays.get(container.id, 0) * 2 or FIRST_DELAY
    _delays[container.id] = min(delay, LONGEST_DELAY)

    async def wait() -> None:
        await asyncio.sleep(_delays[container.id])
        _timers.pop(container.id, None)
        await again(ctx, container)

    _timers[container.id] = ctx.spawn(wait(), f"restart {container.short_id}")


def pending(container: Container) -> bool:
    return container.id in _timers


def cancel(container: Container) -> None:
    """Forget a pending restart and its back-off."""
    timer = _timers.pop(container.id, None)
    if timer:
        timer.cancel()
    _delays.pop(container.id, None)

"""`wait`: the exit code, now or once the condition comes true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from daemon.containers.context import Context
from storage.errors import InvalidArgument

CONDITIONS = ("not-running", "next-exit", "removed")


def waiter(ctx: Context, ref: str, condition: str) -> Awaitable[dict[str, Any]]:
    """Registered before it returns, so no exit is missed. Raises NotFound, InvalidArgument."""
    condition = condition or "not-running"
    if condition not in CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    container = ctx.registry.find(ref)
    future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    if condition == "not-running" and not container.state.running:
        future.set_result({"StatusCode": container.state.exit_code})
        return future
    waiters = container.removal_waiters if condition == "removed" else container.exit_waiters
    waiters.append(future)
    future.add_done_callback(lambda _: waiters.remove(future) if future in waiters else None)
    return future

"""`wait`: the exit code, now or once the condition comes true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from daemon.containers.context import Context
from daemon.containers.model import Container
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


def wake(waiters: list[asyncio.Future[dict[str, Any]]], container: Container, error: str = "") -> None:
    """Tell everyone who waits for this exit or removal."""
    answer: dict[str, Any] = {"StatusCode": container.state.exit_code}
    if error:
        answer["Error"] = {"Message": error}
    for future in waiters:
        if not future.done():
            future.set_result(answer)
    waiters.clear()

"""`restart`: stop, then start, as one verb."""

from __future__ import annotations

from daemon.containers import signals, start
from daemon.containers.context import Context
from daemon.containers.stop import halt, stop_signal


async def restart(ctx: Context, ref: str, *, timeout: int | None, signal: str | None) -> None:
    container = ctx.registry.find(ref)
    number = signals.parse(signal) if signal else stop_signal(container)
    if container.state.running:
        # AutoRemove must not take the container away between its two lives
        automatic, container.host["AutoRemove"] = container.host.get("AutoRemove", False), False
        try:
            await halt(ctx, container, timeout=timeout, number=number)
        finally:
            container.host["AutoRemove"] = automatic
        ctx.publish(container, "stop")
    await start.start(ctx, container.id)
    ctx.publish(container, "restart")

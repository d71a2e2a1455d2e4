"""What happens when a container's process ends: record, announce, clean up, restart or remove."""

from __future__ import annotations

import asyncio
import logging

from daemon.clock import SECOND, now_ns
from daemon.containers import backoff, health, hostmounts, mounts, remove, start
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.wait import wake
from daemon.runtime.client import ExitEvent

log = logging.getLogger("pyd.containers")


async def handle(ctx: Context, event: ExitEvent) -> None:
    """Idempotent: an exit told twice, or of an earlier process, changes nothing."""
    container = ctx.registry.by_id(event.id)
    if container is None:
        await ctx.runtime.delete(event.id)
        return
    async with container.lock:
        if not container.state.alive or container.state.pid != event.pid:
            return
        await handle_locked(ctx, container, event)


async def handle_locked(ctx: Context, container: Container, event: ExitEvent) -> None:
    """The same with the container's lock held and the event known to be of its process."""
    duration = max(0, event.finished_at_ns - container.state.started_at)
    restarting = _restarts(ctx, container, event.status)
    container.state.exited(
        event.status, event.finished_at_ns or now_ns(), oom_killed=event.oom_killed, restarting=restarting
    )
    container.network = {}
    if restarting:
        container.restart_count += 1
    health.end(container)
    auto_remove = bool(container.host.get("AutoRemove")) and not restarting
    if not auto_remove:  # its record goes in a moment; after a crash the exit is told again
        await ctx.registry.save(container)
    mounts.publish(ctx.events.publish, container, "unmount")
    ctx.publish(container, "die", execDuration=str(duration // SECOND), exitCode=str(event.status))
    wake(container.exit_waiters, container)
    if auto_remove:
        await remove.discard_locked(ctx, container, clean_up=clean_up)
        return
    await clean_up(ctx, container)
    if restarting:
        _schedule(ctx, container, duration)


async def clean_up(ctx: Context, container: Container) -> None:
    """Free what only a running container needs."""
    results = await asyncio.gather(
        ctx.networks.disconnect(container.id), ctx.runtime.delete(container.id), return_exceptions=True
    )
    for result in results:
        if isinstance(result, Exception):
            log.error("cleaning up after %s: %s", container.short_id, result)
    await hostmounts.leave(ctx, container)


def _restarts(ctx: Context, container: Container, status: int) -> bool:
    if container.restarts_off or container.removing or ctx.closing:
        return False
    return wanted_by_policy(container, status)


def wanted_by_policy(container: Container, status: int) -> bool:
    """Whether the policy lets it run again; at a daemon's start "always" forgets that a user stopped it."""
    policy = container.host.get("RestartPolicy") or {}
    match policy.get("Name"):
        case "always":
            return True
        case "unless-stopped":
            return not container.stopped_by_user
        case "on-failure":
            limit = policy.get("MaximumRetryCount") or 0
            return status != 0 and (not limit or container.restart_count < limit)
        case _:
            return False


def _schedule(ctx: Context, container: Container, duration: int) -> None:
    backoff.schedule(ctx, container, duration, _restart)


async def _restart(ctx: Context, container: Container) -> None:
    async with container.lock:
        if not container.state.restarting or container.removing:
            return
        try:
            await start.launch(ctx, container)
        except Exception as error:
            log.error("restarting %s: %s", container.short_id, error)
            wake(container.exit_waiters, container, str(error))


def resume_restart(ctx: Context, container: Container) -> None:
    """After a restart of the daemon: a container that was waiting for its restart gets it."""
    if not backoff.pending(container):
        _schedule(ctx, container, 0)

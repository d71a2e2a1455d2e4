"""Records against the kernel: finish or undo what was half-done. One path for crash, kill and reboot.

What the supervisor has is the truth about processes; what the records say is the truth about intent:

    supervisor: lives      record: running/paused  → nothing was missed
    supervisor: lives      record: else            → a start that was never acknowledged: undone
    supervisor: ended      record: running         → the exit is handled now, with its real code
    supervisor: nothing    record: running         → the machine went down: exit 255 now, as Docker after a reboot
    supervisor: anything   record: none            → killed and forgotten
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil

from daemon.clock import now_ns
from daemon.containers import exits, health, hostmounts, remove, start
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.runtime.client import ExitEvent, NotRunning, RuntimeState
from storage.errors import NotFound
from storage.snapshots.interface import Kind

log = logging.getLogger("pyd.reconcile")

UNKNOWN_EXIT = 255


async def reconcile(ctx: Context, states: dict[str, RuntimeState]) -> None:
    for container_id, state in states.items():
        if container_id not in ctx.registry:
            await _forget(ctx, container_id, state)
    for container in ctx.registry:
        async with container.lock:
            await _settle(ctx, container, states.get(container.id))
    if not ctx.resynced:  # later, what has no record may be a container that is just being made
        await asyncio.to_thread(_sweep, ctx)
        await ctx.volumes.drop_orphans(lambda maker: maker in ctx.registry)
    await _policies(ctx)


async def _forget(ctx: Context, container_id: str, state: RuntimeState) -> None:
    log.info("undoing %s, which no record owns", container_id[:12])
    if state.exit_status is None:
        try:
            await ctx.runtime.kill(container_id, 9, everything=True)
            await _gone(ctx, container_id)
        except NotRunning:
            pass
    await ctx.runtime.delete(container_id)
    await ctx.networks.disconnect(container_id)


async def _gone(ctx: Context, container_id: str) -> None:
    for _ in range(500):
        state = (await ctx.runtime.states()).get(container_id)
        if state is None or state.exit_status is not None:
            return
        await asyncio.sleep(0.01)


async def _settle(ctx: Context, container: Container, state: RuntimeState | None) -> None:
    recorded = container.state
    lives = state is not None and state.exit_status is None
    if recorded.status == "removing":
        await remove.discard_locked(ctx, container)
    elif recorded.alive:
        if state is None and ctx.resynced:  # it may have started since we were told
            state = (await ctx.runtime.states()).get(container.id)
            lives = state is not None and state.exit_status is None
        if state is None:
            await _missing(ctx, container)
        elif not lives:
            await _ended(ctx, container, state)
        else:
            recorded.status = "paused" if state.status == "paused" else "running"
            if container.health:
                health.begin(ctx, container)
    elif state is not None:
        log.info("undoing the unfinished start of %s", container.short_id)
        await _forget(ctx, container.id, state)
    else:
        await asyncio.to_thread(shutil.rmtree, ctx.config.bundle(container.id), True)


async def _ended(ctx: Context, container: Container, state: RuntimeState) -> None:
    await exits.handle_locked(
        ctx,
        container,
        ExitEvent(
            container.id,
            None,
            container.state.pid,
            UNKNOWN_EXIT if state.exit_status is None else state.exit_status,
            state.oom_killed,
            state.finished_at_ns or now_ns(),
        ),
    )


async def _missing(ctx: Context, container: Container) -> None:
    await exits.handle_locked(
        ctx, container, ExitEvent(container.id, None, container.state.pid, UNKNOWN_EXIT, False, now_ns())
    )


def _sweep(ctx: Context) -> None:
    """Files and snapshots of containers that were never recorded, or whose record is gone."""
    for snapshot in list(ctx.snapshots.walk()):
        key = snapshot.key
        if snapshot.kind is not Kind.COMMITTED and _is_id(key) and key not in ctx.registry:
            with contextlib.suppress(NotFound):
                ctx.snapshots.remove(key)
    for parent in (ctx.config.data_root / "containers", ctx.config.exec_root / "containers"):
        if parent.is_dir():
            for directory in parent.iterdir():
                if _is_id(directory.name) and directory.name not in ctx.registry:
                    shutil.rmtree(directory, ignore_errors=True)
    hostmounts.sweep(ctx)


def _is_id(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


async def _policies(ctx: Context) -> None:
    """After a start of the daemon: restart what should run, remove what should be gone."""
    for container in ctx.registry:
        if container.state.restarting:
            exits.resume_restart(ctx, container)
        elif not ctx.resynced and _should_run(container):
            ctx.spawn(_restart(ctx, container), f"restart {container.short_id}")
        if container.host.get("AutoRemove") and not container.state.running and container.had_start:
            await remove.discard(ctx, container)
    ctx.resynced = True


def _should_run(container: Container) -> bool:
    stopped = container.had_start and not container.state.running
    return stopped and exits.wanted_by_policy(container, container.state.exit_code)


async def _restart(ctx: Context, container: Container) -> None:
    async with container.lock:
        if container.state.running or container.removing:
            return
        container.stopped_by_user = False
        try:
            await start.launch(ctx, container)
        except Exception as error:
            log.error("restarting %s: %s", container.short_id, error)

"""`rm`, `--rm` and removal after a failed start: the record goes first, then what it owned."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable

from daemon.containers import backoff, links, stop
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.wait import wake
from storage.errors import Conflict, NotFound, PydError

log = logging.getLogger("pyd.containers")


async def remove(ctx: Context, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
    """Raises NotFound, Conflict (running without force, or being removed already)."""
    if link:
        await links.remove(ctx, ref)
        return
    container = ctx.registry.find(ref)
    if container.removing:
        raise Conflict(f"removal of container {ref} is already in progress")
    _check_state(container, ref, force)
    container.removing = True
    try:
        if container.state.running:
            backoff.cancel(container)
            await stop.halt(ctx, container, timeout=0, number=9)
        async with container.lock:
            if ctx.registry.by_id(container.id):  # AutoRemove may have been quicker
                await discard_locked(ctx, container, volumes=volumes)
    except BaseException:
        container.removing = False
        raise


def _check_state(container: Container, ref: str, force: bool) -> None:
    if force:
        return
    why = {
        "running": "container is running: stop the container before removing or force remove",
        "paused": "container is paused and must be unpaused first",
        "restarting": "container is restarting: stop the container before removing or force remove",
    }.get(container.state.status)

    if why:
        raise Conflict(f'cannot remove container "{ref}": {why}')


async def discard(ctx: Context, container: Container) -> None:
    """Remove a container that does not run; a second call is harmless."""
    async with container.lock:
        if ctx.registry.by_id(container.id):
            await discard_locked(ctx, container)


async def _nothing(ctx: Context, container: Container) -> None:
    """It has not run, or was cleaned up at its end."""


async def discard_locked(
    ctx: Context,
    container: Container,
    *,
    volumes: bool = True,
    clean_up: Callable[[Context, Container], Awaitable[None]] = _nothing,
) -> None:
    """`clean_up` frees what only a running container needs, while the record goes: who finds one without the other
    finishes what is left (reconcile.py)."""
    container.removing = True
    container.state.status = "removing"
    backoff.cancel(container)
    if not volumes:
        await ctx.volumes.keep(ctx.volumes.made_for(container.id))
    dropping = asyncio.ensure_future(ctx.registry.drop(container))
    try:
        await clean_up(ctx, container)
    finally:
        await dropping
    try:
        ctx.snapshots.remove(container.id)
    except NotFound:
        log.warning("container %s had no snapshot", container.short_id)
    ctx.purge_wanted.set()
    ctx.publish(container, "destroy")
    wake(container.removal_waiters, container)
    wake(container.exit_waiters, container)
    directory = ctx.config.container_dir(container.id)
    await asyncio.to_thread(shutil.rmtree, directory, True)
    if volumes:
        await _drop_anonymous(ctx, container)


async def _drop_anonymous(ctx: Context, container: Container) -> None:
    for point in container.mounts:
        if point.type == "volume" and point.anonymous:
            try:
                await ctx.volumes.remove(point.name, force=True)
            except PydError as error:  # another container uses it by --volumes-from
                log.info("keeping volume %s: %s", point.name, error)

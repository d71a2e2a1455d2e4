"""`commit`: a container's changes as a new image."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from daemon.containers.context import Context
from daemon.containers.merge import merged
from daemon.containers.model import Container
from daemon.containers.wire import Config
from daemon.runtime.client import NotRunning
from storage.errors import Conflict, PydError


async def commit(
    ctx: Context,
    ref: str,
    *,
    repo: str = "",
    tag: str = "",
    author: str = "",
    comment: str = "",
    pause: bool = True,
    changes: tuple[str, ...] = (),
    config: Config | None = None,
) -> dict[str, Any]:
    """Docker's `{"Id"}`. The container is frozen meanwhile unless `pause` is false."""
    container = ctx.registry.find(ref)
    if container.removing or container.state.dead:
        raise Conflict(f"You cannot commit container {ref} which is being removed")
    if container.state.restarting:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    try:
        parent = ctx.images.resolve(container.image_id)
    except PydError:
        parent = None
    settings = merged(config or Config(), dict(container.config))
    settings["Labels"] = settings.get("Labels") or None
    async with _frozen(ctx, container, pause):
        image_id = await ctx.images.commit(
            container.id,
            parent,
            dict(settings),
            container_id=container.id,
            container_config=dict(container.config),
            repo=repo,
            tag=tag,
            author=author,
            message=comment,
            changes=changes,
        )
    ctx.publish(
        container, "commit", comment=comment, imageID=image_id, imageRef=f"{repo}:{tag}" if tag else repo
    )
    return {"Id": image_id}


@contextlib.asynccontextmanager
async def _frozen(ctx: Context, container: Container, pause: bool) -> AsyncIterator[None]:
    if not pause or container.state.status != "running":
        yield
        return
    async with container.lock:
        freeze = container.state.status == "running"
        if freeze:
            try:
                await ctx.runtime.pause(container.id)
            except NotRunning:  # it has ended by itself: nothing moves any more
                freeze = False
        try:
            yield
        finally:
            if freeze:
                with contextlib.suppress(NotRunning):  # killed while frozen
                    await ctx.runtime.resume(container.id)

"""`container prune`: remove what does not run."""

from __future__ import annotations

from typing import Any

from daemon.containers import listing, remove, show
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.until import until
from storage.errors import PydError

_ACCEPTED = frozenset(("label", "label!", "until"))


async def prune(ctx: Context, filters: dict[str, list[str]]) -> dict[str, Any]:
    """Docker's `{"ContainersDeleted", "SpaceReclaimed"}`."""
    listing.check(filters, _ACCEPTED)
    limit = until(filters)
    deleted: list[str] = []
    reclaimed = 0
    for container in ctx.registry:
        if container.state.running or container.removing or not _kept(container, filters, limit):
            continue
        try:
            reclaimed += (await show.sizes(ctx, container))[0]
            await remove.remove(ctx, container.id, force=False, volumes=False, link=False)
        except PydError:  # started or removed meanwhile
            continue
        deleted.append(container.id)
    ctx.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}


def _kept(container: Container, filters: dict[str, list[str]], limit: int | None) -> bool:
    if limit is not None and container.created > limit:
        return False
    if not listing.has_labels(container.labels, filters.get("label", [])):
        return False
    return not any(listing.has_labels(container.labels, [value]) for value in filters.get("label!", []))

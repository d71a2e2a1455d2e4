"""`container prune`: remove what does not run."""

from __future__ import annotations

import time
from typing import Any

from daemon.clock import SECOND, parse_timestamp
from daemon.containers import listing, remove, show
from daemon.containers.context import Context
from daemon.containers.model import Container
from storage.errors import InvalidArgument, PydError

_ACCEPTED = frozenset(("label", "label!", "until"))
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


async def prune(ctx: Context, filters: dict[str, list[str]]) -> dict[str, Any]:
    """Docker's `{"ContainersDeleted", "SpaceReclaimed"}`."""
    listing.check(filters, _ACCEPTED)
    until = _until(filters.get("until"))
    deleted: list[str] = []
    reclaimed = 0
    for container in ctx.registry:
        if container.state.running or container.removing or not _kept(container, filters, until):
            continue
        try:
            reclaimed += (await show.sizes(ctx, container))[0]
            await remove.remove(ctx, container.id, force=False, volumes=False, link=False)
        except PydError:  # started or removed meanwhile
            continue
        deleted.append(container.id)
    ctx.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}


def _kept(container: Container, filters: dict[str, list[str]], until: int) -> bool:
    if until and container.created > until:
        return False
    if not listing.has_labels(container.labels, filters.get("label", [])):
        return False
    return not any(listing.has_labels(container.labels, [value]) for value in filters.get("label!", []))


def _until(values: list[str] | None) -> int:
    """A time stamp, or a Go duration (`10m`, `1h30m`) before now; nanoseconds."""
    if not values:
        return 0
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    seconds = go_duration(values[0])
    if seconds is not None:
        return int((time.time() - seconds) * SECOND)
    try:
        return parse_timestamp(values[0], what="until")
    except InvalidArgument:
        raise InvalidArgument(f'failed to parse value as time or duration: "{values[0]}"') from None


def go_duration(text: str) -> float | None:
    """`1h30m` to seconds; None where it is no duration."""
    total, number = 0.0, ""
    for character in text:
        if character.isdigit() or character == ".":
            number += character
        elif character in _UNITS and number:
            total += float(number) * _UNITS[character]
            number = ""
        else:
            return None
    return None if number or not text else total

"""The filter `until` of the prune commands: what was made before a moment. One reader for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daemon.images.times import timestamp
from storage.errors import InvalidArgument


def until(filters: Mapping[str, Sequence[str]]) -> int | None:
    """Nanoseconds since 1970; None without the filter. Raises InvalidArgument in moby's words."""
    values = filters.get("until") or ()
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    return timestamp(values[0]) if values else None

"""SOURCE_DATE_EPOCH: one time for all that a build makes (reproducible-builds.org)."""

from __future__ import annotations

from storage.errors import InvalidArgument

_SECOND = 10**9


def moment(text: str | None) -> int | None:
    """Nanoseconds; None for none. InvalidArgument for what is no time."""
    if not text:
        return None
    if not text.isdigit() or len(text) > 12:
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text) * _SECOND

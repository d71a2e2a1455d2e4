"""Time as Docker writes it: RFC 3339 with nanoseconds in UTC, and Go's zero time for "never"."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from storage.errors import InvalidArgument

NEVER = "0001-01-01T00:00:00Z"
SECOND = 1_000_000_000


def now_ns() -> int:
    return time.time_ns()


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as `2026-01-02T03:04:05.123456789Z`; trailing zeros go, as Go's RFC3339Nano."""
    if not ns:
        return NEVER
    seconds, fraction = divmod(ns, SECOND)
    base = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{base}.{digits}Z" if digits else f"{base}Z"


_SECONDS = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]*)?\Z")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)?$")


def parse_rfc3339(text: str) -> int:
    """Inverse of `rfc3339`, any offset; nanoseconds since the epoch, 0 for Go's zero time.

    Raises InvalidArgument where the text is no RFC 3339 time.
    """
    match = _RFC3339.match(text)
    if not match:
        raise InvalidArgument(f'parsing time "{text}" as "2006-01-02T15:04:05.999999999Z07:00": cannot parse')
    base, fraction, zone = match.groups()
    offset = "+00:00" if zone is None or zone in "Zz" else zone
    moment = datetime.fromisoformat(base.upper().replace(" ", "T") + offset).astimezone(UTC)
    if moment.year < 1970:
        return 0
    return int(moment.timestamp()) * SECOND + int((fraction or "0").ljust(9, "0"))


def parse_timestamp(value: str, *, what: str) -> int:
    """A query's `since` or `until`: unix seconds with an optional fraction, or RFC 3339; to nanoseconds.

    Empty means 0. Raises InvalidArgument naming the value.
    """
    if not value:
        return 0
    seconds, _, fraction = value.partition(".")
    if _SECONDS.match(value):
        return int(seconds) * SECOND + int((fraction + "0" * 9)[:9])
    try:
        return parse_rfc3339(value)
    except (InvalidArgument, ValueError):
        raise InvalidArgument(
            f'invalid value for "{what}": failed to parse "{value}" as a timestamp'
        ) from None

"""Times as Docker's API takes and gives them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from storage.errors import InvalidArgument

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?(Z|z|[+-]\d\d:\d\d)?)?"
)
_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9}))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def nanoseconds(text: str) -> int:
    """An RFC 3339 time as nanoseconds since 1970; 0 for an absent or odd one, and never below it."""
    match = _RFC3339.fullmatch(text)
    return max(_parse(match), 0) if match else 0


def _parse(match: re.Match[str]) -> int:
    date, clock, second, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    text = f"{date}T{clock or '00:00'}:{second or '00'}{zone}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return int(moment.timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))


def timestamp(text: str) -> int:
    """What `until` and `since` take: Unix seconds, a date or time, or a Go duration before now."""
    if match := _UNIX.fullmatch(text):
        return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
    if match := _RFC3339.fullmatch(text):
        return _parse(match)
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time_ns() - int(sum(float(number) * _UNITS[unit] for number, unit in parts))
    raise InvalidArgument(f'failed to parse value as time or duration: "{text}"')


def rfc3339(nanoseconds_: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds_ // 10**9, UTC)
    fraction = f".{nanoseconds_ % 10**9:09d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"

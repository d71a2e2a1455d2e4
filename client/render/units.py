"""Sizes, durations and times as docker words them (the rules of go-units)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def _scaled(size: float, base: float, names: tuple[str, ...]) -> tuple[float, str]:
    step = 0
    while size >= base and step < len(names) - 1:
        size /= base
        step += 1
    return size, names[step]


def human_size(size: float, precision: int = 4) -> str:
    """Powers of 1000, significant digits: `1.234MB`."""
    value, unit = _scaled(size, 1000.0, _DECIMAL)
    return f"{value:.{precision}g}{unit}"


def binary_size(size: float) -> str:
    """Powers of 1024: `23.54GiB`."""
    value, unit = _scaled(size, 1024.0, _BINARY)
    return f"{value:.4g}{unit}"


def human_duration(seconds: float) -> str:
    """`Less than a second`, `About a minute`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, divisor, word in ((48, 1, "hours"), (24 * 7 * 2, 24, "days"), (24 * 30 * 2, 24 * 7, "weeks"),
                                 (24 * 365 * 2, 24 * 30, "months")):  # fmt: skip
        if hours < limit:
            return f"{hours // divisor} {word}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def parse_time(text: str) -> datetime | None:
    """RFC 3339 with nanoseconds; None for Go's zero time and for nothing."""
    if not text or text.startswith("0001-01-01"):
        return None
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text)
    return datetime.fromisoformat(trimmed.replace("Z", "+00:00"))


def ago(moment: datetime | float) -> str:
    """`2 hours ago`, from a time or seconds since the epoch."""
    stamp = moment if isinstance(moment, int | float) else moment.timestamp()
    return f"{human_duration(max(0.0, datetime.now(UTC).timestamp() - stamp))} ago"


def go_time(stamp: float) -> str:
    """Go's default print of a local time: `2026-11-24 22:01:11 +0000 UTC`."""
    return datetime.fromtimestamp(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")


def go_timestamp(text: str) -> str:
    """An RFC 3339 time in Go's default print, fraction kept: `2026-11-24 21:39:09.127333473 +0000 UTC`."""
    match = re.fullmatch(r"(\S+)T(\d\d:\d\d:\d\d(?:\.\d+)?)(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        return text
    zone = match[3].replace(":", "")
    return f"{match[1]} {match[2]} {'+0000 UTC' if zone == 'Z' else f'{zone} {zone}'}"


def go_duration(nanoseconds: int) -> str:
    """Go's print of a duration: `1h0m0s`, `1.5s`, `300ms`."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    value = abs(nanoseconds)
    if value < 10**9:
        for unit, name in ((10**6, "ms"), (10**3, "µs"), (1, "ns")):
            if value >= unit:
                return f"{sign}{value / unit:.10g}{name}"
    seconds, rest = divmod(value, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    text = f"{seconds}{fraction}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return sign + (f"{hours}h{text}" if hours else text)


def short_id(identifier: str) -> str:
    """Twelve digits, without `sha256:`."""
    return identifier.partition(":")[2][:12] if ":" in identifier else identifier[:12]


def ellipsis(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

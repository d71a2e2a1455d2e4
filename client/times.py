"""Times as people give them to --since and --until, to what the API takes: seconds since the epoch, with fraction."""

from __future__ import annotations

import re
import time
from datetime import datetime

from client.errors import ClientError
from client.values import parse_duration

_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d(?::\d\d(?::\d\d(\.\d{1,9})?)?)?))?(Z|[+-]\d\d:\d\d)?")


def timestamp(text: str, flag: str = "") -> str:
    """A duration counts back from now; a date without zone is local; a number of seconds stays as it is."""
    if not text or re.fullmatch(r"\d+(\.\d{1,9})?", text):
        return text
    try:
        age = parse_duration(text)
    except ValueError:
        pass
    else:
        return _stamp(time.time_ns() - age)
    match = _DATE.fullmatch(text)
    if match is None:
        prefix = f'invalid value for "{flag}": ' if flag else ""
        raise ClientError(f'{prefix}failed to parse value as time or duration: "{text}"')
    date, clock, fraction, zone = match.groups()
    clock = (clock or "00").partition(".")[0]
    clock += ":00" * (2 - clock.count(":"))
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{(zone or '').replace('Z', '+00:00')}")
    except ValueError as error:
        raise ClientError(f'parsing time "{text}": {error}') from None
    return _stamp(int(moment.timestamp()) * 10**9 + int((fraction or ".0")[1:].ljust(9, "0")))


def _stamp(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"

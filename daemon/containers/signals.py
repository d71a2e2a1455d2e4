"""Signals by name or number, as `docker kill -s` and `STOPSIGNAL` take them (moby/sys/signal)."""

from __future__ import annotations

import signal

from storage.errors import InvalidArgument

_REALTIME = {
    **{f"RTMIN+{n}": signal.SIGRTMIN + n for n in range(1, 16)},
    **{f"RTMAX-{n}": signal.SIGRTMAX - n for n in range(1, 15)},
    "RTMIN": int(signal.SIGRTMIN),
    "RTMAX": int(signal.SIGRTMAX),
}
_BY_NAME = {s.name.removeprefix("SIG"): int(s) for s in signal.Signals} | _REALTIME


def parse(value: str) -> int:
    """`TERM`, `SIGTERM`, `sigterm` or `15`. Raises InvalidArgument(`invalid signal: X`)."""
    if value.isdigit():
        number = int(value)
        if 0 < number <= signal.SIGRTMAX:
            return number
        raise InvalidArgument(f"invalid signal: {value}")
    number = _BY_NAME.get(value.upper().removeprefix("SIG"), 0)
    if not number:
        raise InvalidArgument(f"invalid signal: {value}")
    return number

"""What log drivers that can be read back have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One logged piece: `line` with its newline, if it had one; `time` RFC 3339 in UTC."""

    stream: str
    time: str
    line: bytes
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: streams, nanoseconds since/until (0: no bound), the last `tail` (-1: all)."""

    streams: frozenset[str]
    since: int = 0
    until: int = 0
    tail: int = -1


NEVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Place:
    """A place between two entries: where the file `inode`, not compressed yet, has `offset` bytes.

    `at`: the time in nanoseconds when the file was the current one, if it may be compressed or gone until it is met.
    """

    inode: int
    offset: int
    at: int = NEVER


class Cursor(Protocol):
    """A position in a log. `batch` gives the next entries, [] when there are none yet."""

    finished: bool
    """True once an entry later than `until` was met, or the place of `stop_at`: nothing more will come."""

    def stop_at(self, place: Place) -> None:
        """Ends there, which is not behind what was read already."""
        ...

    def batch(self) -> list[Entry]: ...

    def close(self) -> None: ...


class LogSource(Protocol):
    def open(self, selection: Selection) -> Cursor: ...

    def end(self) -> Place | None:
        """Where the log ends now; None when that cannot be told."""
        ...

    def size(self) -> int:
        """Bytes on disk, about."""
        ...

    def directories(self) -> list[str]:
        """Where files change when the log grows."""
        ...

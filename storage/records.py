"""What the engine remembers (signatures; being filled)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Put:
    """Sets records[kind][key]; the value is serialised when write() is called."""

    kind: str
    key: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes records[kind][key]; nothing when it is not there."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Append:
    """Adds an entry to a journal (events): kept in order, found by time."""

    journal: str
    time_ns: int
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trim:
    """Drops all but the newest `keep` entries of a journal."""

    journal: str
    keep: int


Mutation = Put | Delete | Append | Trim


class Records:
    """Kinds of JSON records by key, and journals, in one SQLite file; writes are atomic per call and ordered."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        """Opens or creates. DataCorrupted naming the file when it is not sound."""
        raise NotImplementedError

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The committed value, shared: not to be changed."""
        raise NotImplementedError

    def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """All committed records of a kind by key."""
        raise NotImplementedError

    async def write(self, mutations: Sequence[Mutation]) -> None:
        """Applies all or none; returns when committed. Calls commit in the order they were made."""
        raise NotImplementedError

    def write_sync(self, mutations: Sequence[Mutation]) -> None:
        """The same for threads and start-up."""
        raise NotImplementedError

    def scan(
        self, journal: str, *, since_ns: int | None = None, until_ns: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """A journal's entries, oldest first, since <= time < until."""
        raise NotImplementedError

    def close(self) -> None:
        """Commits what was handed over, then closes."""
        raise NotImplementedError

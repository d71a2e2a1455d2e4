"""The build cache: which step, on which input, gave which layers.

    record `build_cache`   key → {diff_ids, size, created, used, uses, kind, text}

A key is a digest of the operation, of the parent's chain ID and of the contents that the step reads. An entry
holds a lease on its layer and blob, so that the collection of images leaves them alone; forgetting the entry
lets them go. Nothing here is loaded before it is needed but this module, since the leases must be there before
the image service's first collection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from storage.errors import InvalidArgument
from storage.gc import Blob, Layer, Lease
from storage.records import Delete, Mutation, Put, Records

KIND = "build_cache"
_SECOND = 1_000_000_000
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": _SECOND, "m": 60 * _SECOND, "h": 3600 * _SECOND}


@dataclass(frozen=True)
class Entry:
    key: str
    diff_ids: tuple[str, ...]
    chain: str
    blob: str
    size: int
    created: int
    used: int
    uses: int
    kind: str
    text: str
    parent: str = ""
    """The parent's chain ID."""

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"diff_ids": list(self.diff_ids)}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Entry:
        return cls(**{**fields, "diff_ids": tuple(fields["diff_ids"])})


@dataclass
class Cache:
    records: Records
    new_lease: Callable[[], Lease]
    entries: dict[str, Entry] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)

    def load(self) -> None:
        """Before the image service starts: its first collection must find the leases."""
        for key, fields in self.records.load(KIND).items():
            self._hold(Entry.of({**fields, "key": key}))

    def _hold(self, entry: Entry) -> None:
        lease = self.new_lease()
        if entry.chain:
            lease.add(Layer(entry.chain))
        if entry.blob:
            lease.add(Blob(entry.blob))
        old = self.leases.pop(entry.key, None)
        self.entries[entry.key], self.leases[entry.key] = entry, lease
        if old is not None:
            old.release()

    def find(self, key: str) -> Entry | None:
        """Counts as a use; save() writes that down."""
        entry = self.entries.get(key)
        if entry is not None:
            entry = self.entries[key] = replace(entry, used=time.time_ns(), uses=entry.uses + 1)
            self.dirty.add(key)
        return entry

    async def add(self, entry: Entry) -> None:
        self._hold(entry)
        await self.records.write([Put(KIND, entry.key, entry.record())])

    async def forget(self, keys: Iterable[str]) -> None:
        gone = [key for key in keys if key in self.entries]
        mutations: list[Mutation] = [Delete(KIND, key) for key in gone]
        if mutations:
            await self.records.write(mutations)
        for key in gone:
            self.entries.pop(key, None)
            self.dirty.discard(key)
            self.leases.pop(key).release()

    async def save(self) -> None:
        """Times of use that changed."""
        keys, self.dirty = self.dirty & self.entries.keys(), set()
        if keys:
            await self.records.write([Put(KIND, key, self.entries[key].record()) for key in keys])

    def size(self) -> int:
        """Bytes of all layers, each once."""
        return sum(entry.size for entry in {entry.chain: entry for entry in self.entries.values()}.values())


def duration(text: str) -> int:
    """Go's durations in nanoseconds, or a moment: what lies before it."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return int(sum(float(number) * _UNITS[unit] for number, unit in parts))
    from datetime import UTC, datetime

    try:
        moment = datetime.fromtimestamp(float(text), UTC) if text.isdigit() else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise InvalidArgument(f"invalid duration: {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(time.time_ns() - int(moment.timestamp() * _SECOND), 1)


def identifier(key: str) -> str:
    """What users see of a key: 25 letters and digits, as BuildKit's."""
    number = int(key.partition(":")[2] or key, 16)
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    out = []
    for _ in range(25):
        number, rest = divmod(number, 36)
        out.append(digits[rest])
    return "".join(out)

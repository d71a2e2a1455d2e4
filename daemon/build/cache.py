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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from daemon.clock import rfc3339
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

    # -- what is shown and pruned

    def rows(self, busy: Callable[[str], bool] = lambda key: False) -> list[dict[str, Any]]:
        """Docker's BuildCache records (GET /system/df)."""
        by_chain = {entry.chain: entry for entry in self.entries.values()}
        rows = []
        for entry in sorted(self.entries.values(), key=lambda each: each.created):
            parent = by_chain.get(entry.parent)
            rows.append(
                {
                    "ID": identifier(entry.key),
                    "Parents": [identifier(parent.key)] if parent else None,
                    "Type": "regular",
                    "Description": entry.text,
                    "InUse": busy(entry.key),
                    "Shared": False,
                    "Size": entry.size,
                    "CreatedAt": rfc3339(entry.created),
                    "LastUsedAt": rfc3339(entry.used),
                    "UsageCount": entry.uses,
                }
            )
        return rows

    def size(self) -> int:
        return sum(entry.size for entry in {entry.chain: entry for entry in self.entries.values()}.values())

    def choose(self, wanted: Selection, *, now: int, dangling: Callable[[Entry], bool]) -> list[Entry]:
        """What a prune would remove: oldest use first, until the space that may stay is kept."""
        candidates = sorted(self.entries.values(), key=lambda each: each.used)
        chosen = []
        left = self.size()
        for entry in candidates:
            if not wanted.takes(entry, now) or not (wanted.all or dangling(entry)):
                continue
            if wanted.keep and left <= wanted.keep:
                break
            chosen.append(entry)
            left -= entry.size
        return chosen


@dataclass(frozen=True)
class Selection:
    """POST /build/prune's parameters."""

    all: bool = False
    keep: int = 0
    """Bytes that may stay."""
    unused_for: int = 0
    """Nanoseconds."""
    ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()

    def takes(self, entry: Entry, now: int) -> bool:
        if self.unused_for and now - entry.used < self.unused_for:
            return False
        if self.ids and not any(identifier(entry.key).startswith(wanted) for wanted in self.ids):
            return False
        if self.types and "regular" not in self.types:
            return False
        return not self.descriptions or any(wanted in entry.text for wanted in self.descriptions)


_KNOWN = frozenset(
    (
        "until",
        "unused-for",
        "id",
        "parent",
        "type",
        "description",
        "inuse",
        "shared",
        "private",
        "mutable",
        "immutable",
    )
)


def selection(filters: Mapping[str, Sequence[str]], *, all: bool, keep: int) -> Selection:
    """InvalidArgument for a filter that there is not, or a time that is none."""
    for name in filters:
        if name not in _KNOWN:
            raise InvalidArgument(f"invalid filter '{name}'")
    ages = [*filters.get("until", ()), *filters.get("unused-for", ())]
    if len(ages) > 1:
        raise InvalidArgument("filters expect only one value: until, unused-for")
    return Selection(
        all=all or bool(filters.get("id")),
        keep=keep,
        unused_for=duration(ages[0]) if ages else 0,
        ids=tuple(filters.get("id", ())),
        types=tuple(filters.get("type", ())),
        descriptions=tuple(filters.get("description", ())),
    )


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

"""What builds keep, as `docker buildx du` and `prune` see it; and which of it goes. Pure.

    regular            a step's layer                            record of daemon.build.upkeep.cache
    exec.cachemount    a directory of RUN --mount=type=cache     daemon.build.upkeep.cachemounts
    source.local       a client's directory                      daemon.build.session.contexts

A layer that an image is made of is shared; one that a running build holds is in use. Only what nothing else stands
on goes, the least lately used first.

Source: BuildKit cache/manager.go (prune, calculateKeepBytes), client/diskusage.go; containerd pkg/filters;
moby daemon/internal/builder-next/worker/gc.go.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from daemon.config import BuilderConfig, CacheRule
from storage.errors import InvalidArgument

REGULAR, MOUNT, LOCAL = "regular", "exec.cachemount", "source.local"
INTERNAL = ("internal", "frontend")
_HOUR = 3600 * 10**9
_FRACTION = math.e * math.pi * (1 + math.sqrt(5)) / 2 / 100
"""How much of what may stay temporary things may be (moby's tempCachePercent)."""


@dataclass(frozen=True)
class Record:
    """Times in nanoseconds, sizes in bytes."""

    id: str
    type: str
    description: str
    size: int
    created: int
    used: int
    uses: int
    name: str
    """What its keeper knows it by: a chain ID, a directory, a key."""
    parents: tuple[str, ...] = ()
    """IDs of what it stands on."""
    in_use: bool = False
    shared: bool = False
    mutable: bool = False


def chosen(records: Sequence[Record], rule: CacheRule, now: int, free: int) -> list[Record]:
    """What a prune removes, in order. `free`: bytes free on the disk. InvalidArgument for a filter of no sense."""
    matches = matcher(rule.filters)
    unlimited = not (rule.reserved or rule.most or rule.free)
    total = sum(record.size for record in records if not record.shared)
    keep = 0 if unlimited else _keep(rule, total, free)
    by_id = {record.id: record for record in records}
    children = Counter(parent for record in records for parent in record.parents if parent in by_id)

    def may_go(record: Record) -> bool:
        if record.in_use or children[record.id] or now - record.used < rule.unused_for:
            return False
        return (rule.all or not (record.shared or record.type in INTERNAL)) and matches(record)

    heap = [(record.used, record.id) for record in records if may_go(record)]
    heapq.heapify(heap)
    found: list[Record] = []
    while heap and (unlimited or total >= keep):
        record = by_id[heapq.heappop(heap)[1]]
        found.append(record)
        total -= 0 if record.shared else record.size
        for parent in record.parents:
            if parent in by_id:
                children[parent] -= 1
                if may_go(by_id[parent]):
                    heapq.heappush(heap, (by_id[parent].used, parent))
    return found


def _keep(rule: CacheRule, total: int, free: int) -> int:
    """Bytes that may stay."""
    keep = rule.most
    excess = rule.free - free
    if excess > 0:
        keep = min(keep, total - excess) if keep else total - excess
    elif rule.free and not keep:
        keep = total + 1
    return max(keep, rule.reserved, 1)


def default_rules(disk: int, reserved: int = 0, most: int = 0, free: int = 0) -> tuple[CacheRule, ...]:
    """What garbage collection goes by. `disk`: bytes of the file system; parts of it are the limits if none is set."""
    if not (reserved or most or free):
        reserved, most, free = (_part(disk, percent) for percent in (10, 80, 20))
    temporary = max(round(reserved * _FRACTION), 512 * 10**6)
    kinds = (f"type=={LOCAL}", f"type=={MOUNT}", "type==source.git.checkout")
    return (
        CacheRule(filters=kinds, unused_for=48 * _HOUR, most=temporary),
        CacheRule(unused_for=60 * 24 * _HOUR, reserved=reserved, most=most, free=free),
        CacheRule(reserved=reserved, most=most, free=free),
        CacheRule(all=True, reserved=reserved, most=most, free=free),
    )


def _part(disk: int, percent: int) -> int:
    return (disk * percent // 100 // (1 << 30) + 1) * 10**9


# -- filters

_FLAGS: Mapping[str, Callable[[Record], bool]] = {
    "inuse": lambda record: record.in_use,
    "mutable": lambda record: record.mutable,
    "immutable": lambda record: not record.mutable,
    "shared": lambda record: record.shared,
    "private": lambda record: not record.shared,
}
_TEXTS: Mapping[str, Callable[[Record], str]] = {
    "id": lambda record: record.id,
    "type": lambda record: record.type,
    "description": lambda record: record.description,
    "parents": lambda record: ";".join(record.parents),
    "parent": lambda record: ";".join(record.parents),
}
_TERM = re.compile(r"\s*([A-Za-z]+)\s*(?:(==|!=|~=|=)\s*(.*?)\s*)?", re.DOTALL)
Match = Callable[[Record], bool]


def matcher(filters: Iterable[str]) -> Match:
    """containerd's filters: any of them, all of the terms of one. InvalidArgument for what is none."""
    alternatives = [[_term(text) for text in each.split(",")] for each in filters if each]
    return lambda record: (
        not alternatives or any(all(term(record) for term in terms) for terms in alternatives)
    )


def _term(text: str) -> Match:
    found = _TERM.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"failed to parse prune filters [{text}]: invalid filter")
    name = found[1].lower()
    operator, value = found[2], (found[3] or "").strip("\"'")
    if name in _FLAGS:
        flag, wanted = _FLAGS[name], (value.lower() not in ("false", "0")) != (operator == "!=")
        return lambda record: flag(record) == wanted
    shown = _TEXTS.get(name, _nothing)
    if operator is None:
        return lambda record: bool(shown(record))
    if operator == "~=":
        pattern = _pattern(value)
        return lambda record: shown is not _nothing and pattern.search(shown(record)) is not None
    if operator == "!=":
        return lambda record: shown(record) != value
    return lambda record: shown(record) == value


def _nothing(record: Record) -> str:
    """A field that no record has: a filter that names it finds none."""
    return ""


def _pattern(value: str) -> re.Pattern[str]:
    if len(value) > 500:
        raise InvalidArgument("a filter of more than 500 characters")
    try:
        return re.compile(value)
    except (re.error, RecursionError) as error:
        raise InvalidArgument(f"failed to parse prune filters: error parsing regexp: {error}") from None


_KNOWN = frozenset((*_FLAGS, "id", "parent", "type", "description"))


def from_api(filters: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The Engine API's filters (without times) as those of BuildKit. InvalidArgument for one that there is not."""
    terms = []
    for name, values in filters.items():
        if name not in _KNOWN:
            raise InvalidArgument(f"invalid filter '{name}'")
        if len(values) > 1:
            raise InvalidArgument("filters expect only one value")
        if not values:
            terms.append(name)
        else:
            terms.append(f"{name}~={re.escape(values[0])}" if name == "id" else f"{name}=={values[0]}")
    return (",".join(terms),) if terms else ()


def rules(config: BuilderConfig, disk: int) -> tuple[CacheRule, ...]:
    """What garbage collection goes by in this daemon; nothing when it is switched off."""
    if not config.collects:
        return ()
    return config.rules or default_rules(disk, config.reserved, config.most, config.free)

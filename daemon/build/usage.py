"""The cache as BuildKit's clients see it: `docker buildx du`, `docker buildx prune`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from daemon.build.cache import Cache, identifier

Row = dict[str, Any]


def usage(cache: Cache, busy: Callable[[str], bool], filters: Sequence[str]) -> list[Row]:
    """Usage records, oldest first. Times in nanoseconds."""
    by_chain = {entry.chain: entry for entry in cache.entries.values()}
    rows = []
    for entry in sorted(cache.entries.values(), key=lambda each: each.created):
        parent = by_chain.get(entry.parent)
        row = {
            "ID": identifier(entry.key),
            "Key": entry.key,
            "Mutable": False,
            "InUse": busy(entry.key),
            "Size": entry.size,
            "Parents": [identifier(parent.key)] if parent else [],
            "CreatedAt": entry.created,
            "LastUsedAt": entry.used,
            "UsageCount": entry.uses,
            "Description": entry.text,
            "Type": "source.local" if entry.kind == "local" else "regular",
            "Shared": False,
        }
        rows.append(row)
    return [row for row in rows if matches(row, filters)]


def matches(row: Row, filters: Sequence[str]) -> bool:
    """containerd's filters, as clients send them: any of them, all of its comma-separated terms."""
    return not filters or any(all(_term(row, term) for term in each.split(",")) for each in filters)


_FIELDS = {"id": "ID", "type": "Type", "description": "Description", "parents": "Parents"}
_FLAGS: dict[str, Callable[[Row], bool]] = {
    "inuse": lambda row: bool(row["InUse"]),
    "mutable": lambda row: bool(row["Mutable"]),
    "immutable": lambda row: not row["Mutable"],
    "shared": lambda row: bool(row["Shared"]),
    "private": lambda row: not row["Shared"],
}


def _term(row: Row, term: str) -> bool:
    for operator in ("==", "!=", "~=", "="):
        name, found, value = term.partition(operator)
        if found:
            break
    name = name.strip().lower()
    if name in _FLAGS:
        return _FLAGS[name](row) == (value.strip().lower() not in ("false", "0"))
    shown = row.get(_FIELDS.get(name, ""), "")
    values = shown if isinstance(shown, list) else [str(shown)]
    value = value.strip('"')
    if operator == "~=":
        return any(value in each for each in values)
    equal = any(each == value or (name == "id" and each.startswith(value)) for each in values)
    return equal != (operator == "!=")

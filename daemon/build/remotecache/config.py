"""What an exported cache says: which key gave which tree, and where the trees' layers are. Pure.

The document is BuildKit's cache configuration: `layers`, each with its parent's place, and `records`, each with a key
and the layer on top of its result. One record more, which BuildKit takes for a key that it never asks for, has the
member `pyd` with what this engine needs:

    trees   [[diff ID, place of the tree below or -1], ...]     a tree is a stack of layers; the one below comes first
    steps   [[key, place of its tree, nanoseconds], ...]        layers need not be in the cache (mode=min)
    reads   [[place of a tree or -1, [paths], wildcard, [excludes], content digest], ...]

`reads` lets a key be known that depends on the contents of a tree whose layers are nowhere: a copy out of a stage.

Source: BuildKit cache/remotecache/v1/types/spec.go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.images import times
from daemon.images.model import chain_ids
from daemon.images.reference import is_digest
from storage.errors import InvalidArgument

Memo = tuple[str, tuple[str, ...], bool, tuple[str, ...]]
"""(chain ID, paths, wildcard, excludes): what was read, as the solver remembers it."""
Json = dict[str, Any]

CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"
MARK = "sha256:" + hashlib.sha256(b"pyd build cache 1").hexdigest()
"""The key of the record that has our member."""
_MOST = 20_000
"""Members that one list may have; a cache is what somebody else wrote."""
_DEEPEST = 4096


@dataclass(frozen=True)
class Step:
    diff_ids: tuple[str, ...]
    chain: str
    created: int


@dataclass
class Table:
    """A cache's claims, by key and by what was read. Trees are shared and made when asked for."""

    trees: list[tuple[str, int, str]] = field(default_factory=list)
    """(diff ID, the tree below, chain ID)."""
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Key to (tree, nanoseconds)."""
    reads: dict[Memo, str] = field(default_factory=dict)

    def find(self, key: str) -> Step | None:
        found = self.steps.get(key)
        return None if found is None else Step(self.diff_ids(found[0]), self.trees[found[0]][2], found[1])

    def diff_ids(self, tree: int) -> tuple[str, ...]:
        found: list[str] = []
        while tree >= 0:
            diff_id, tree, _ = self.trees[tree]
            found.append(diff_id)
        return tuple(reversed(found))


class Writer:
    """Collects what a build did."""

    def __init__(self) -> None:
        self._trees: dict[tuple[str, int], int] = {}
        self._steps: dict[str, tuple[int, int]] = {}
        self._reads: dict[tuple[int, tuple[str, ...], bool, tuple[str, ...]], str] = {}

    def tree(self, diff_ids: Iterable[str]) -> int:
        place = -1
        for diff_id in diff_ids:
            place = self._trees.setdefault((diff_id, place), len(self._trees))
        return place

    def step(self, key: str, diff_ids: Iterable[str], created: int) -> None:
        self._steps[key] = (self.tree(diff_ids), created)

    def read(self, diff_ids: Iterable[str], memo: Memo, digest: str) -> None:
        self._reads[(self.tree(diff_ids), *memo[1:])] = digest

    def __bool__(self) -> bool:
        return bool(self._steps)

    def document(self, available: Callable[[str], str | None]) -> tuple[Json, list[str]]:
        """(the configuration, diff IDs of its layers in their order).

        `available`: the digest of a layer's blob by diff ID; None: it is not in this cache.
        """
        layers: list[Json] = []
        placed: dict[int, int] = {-1: -1}
        diff_ids: list[str] = []
        for (diff_id, below), tree in self._trees.items():
            blob = available(diff_id)
            if blob is not None and below in placed:
                placed[tree] = len(layers)
                layers.append({"blob": blob, "parent": placed[below]})
                diff_ids.append(diff_id)
        return {"layers": layers, "records": self._records(placed)}, diff_ids

    def inline(self, diff_ids: tuple[str, ...]) -> list[Json]:
        """The records for an image of these layers: their places are those of its manifest."""
        placed: dict[int, int] = {-1: -1}
        tree = -1
        for place, diff_id in enumerate(diff_ids):
            tree = self._trees.get((diff_id, tree), -2)
            if tree == -2:
                break
            placed[tree] = place
        return self._records(placed)

    def _records(self, placed: Mapping[int, int]) -> list[Json]:
        records = []
        for key, (tree, created) in self._steps.items():
            record: Json = {"digest": key}
            if placed.get(tree, -1) >= 0:
                record["layers"] = [{"layer": placed[tree], "createdAt": times.rfc3339(created)}]
            records.append(record)
        own = {
            "trees": [list(each) for each in self._trees],
            "steps": [[key, *value] for key, value in self._steps.items()],
            "reads": [
                [tree, list(paths), wildcard, list(excludes), digest]
                for (tree, paths, wildcard, excludes), digest in self._reads.items()
            ],
        }
        return [*records, {"digest": MARK, "pyd": own}]


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def decode(body: bytes) -> Table:
    """Of a configuration or of an inline cache's records; an empty table when it is another engine's.

    InvalidArgument for what contradicts itself: nobody has looked at it before.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidArgument("invalid cache configuration: not JSON") from None
    records = document.get("records") if isinstance(document, dict) else document
    if records is None:
        return Table()
    for record in _list(records):
        if isinstance(record, dict) and record.get("digest") == MARK:
            return _table(record.get("pyd"))
    return Table()


def _table(own: Any) -> Table:
    if not isinstance(own, dict):
        raise InvalidArgument("invalid cache configuration: no records of ours")
    table = Table()
    try:
        _trees(table, _list(own.get("trees")))
        for key, tree, created in _list(own.get("steps")):
            _place(tree, len(table.trees))
            if not _digests(key) or type(created) is not int or not 0 <= created < 1 << 63:
                raise InvalidArgument("invalid cache configuration: a step's key or time")
            table.steps[key] = (tree, created)
        for tree, paths, wildcard, excludes, digest in _list(own.get("reads")):
            _place(tree, len(table.trees), scratch=True)
            if not _texts(paths) or not _texts(excludes) or not _digests(digest):
                raise InvalidArgument("invalid cache configuration: contents that were read")
            chain = table.trees[tree][2] if tree >= 0 else ""
            table.reads[(chain, tuple(paths), wildcard is True, tuple(excludes))] = digest
    except (TypeError, ValueError):
        raise InvalidArgument("invalid cache configuration: a record of the wrong form") from None
    return table


def _trees(table: Table, trees: list[Any]) -> None:
    depths: list[int] = []
    for number, (diff_id, below) in enumerate(trees):
        _place(below, number, scratch=True)  # only what came before: no tree stands on itself
        depth = depths[below] + 1 if below >= 0 else 1
        if not _digests(diff_id) or depth > _DEEPEST:
            raise InvalidArgument("invalid cache configuration: a tree's layers")
        depths.append(depth)
        chain = chain_ids((table.trees[below][2], diff_id))[-1] if below >= 0 else diff_id
        table.trees.append((diff_id, below, chain))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise InvalidArgument("invalid cache configuration: a list is missing or too long")
    return value


def _place(value: Any, count: int, *, scratch: bool = False) -> None:
    if type(value) is not int or not (-1 if scratch else 0) <= value < count:
        raise InvalidArgument(f"invalid cache configuration: no place {value!r}")


def _digests(value: Any) -> bool:
    return isinstance(value, str) and is_digest(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST and all(isinstance(each, str) for each in value)

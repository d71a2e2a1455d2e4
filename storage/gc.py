"""Mark and sweep over blobs and layers: what neither a root nor a lease reaches is deleted.

    roots        what images, containers and build caches name           given by the daemon
    references   what a node needs: an index its manifests, a manifest its config and blobs, an image its
                 chain IDs                                                given by the daemon, who can read them
    leases       what is being worked with and named by nobody yet: a pull's blobs, a build's layers

A layer's parents, and the parents of containers' snapshots, are reached without anybody's help.

The race between a collection and somebody who finds a blob there and builds upon it is decided by leases:
take the lease first, look second. Deleting checks the leases under the same lock. What comes into being
while a collection runs is not its business: it only sweeps what was there when it began.

Leases live in memory. A crash ends the work they stood for as well, and the collection after the next
start removes what it left behind.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

from storage.content import ContentStore
from storage.errors import Conflict, NotFound
from storage.snapshots.interface import Kind, Snapshotter


class Blob(NamedTuple):
    digest: str


class Layer(NamedTuple):
    """A committed snapshot (its parents live with it)."""

    name: str


Node = Blob | Layer


class _Leased:
    """How many leases name each node; shared by a collector and its leases.

    `recent` are those leased since the collection at hand began, released or not: a lease may come and go
    while it runs, with its nodes handed over to a record that the mark was too early to see.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.nodes: Counter[Node] = Counter()
        self.recent: set[Node] = set()

    def begin(self) -> list[Node]:
        """What is leased now; from here on, what gets leased is remembered."""
        with self.lock:
            self.recent.clear()
            return list(self.nodes)

    def holds(self, node: Node) -> bool:
        return node in self.nodes or node in self.recent


class Lease:
    """Keeps what it names alive while it is held; dies with the process. From Collector.lease()."""

    def __init__(self, leased: _Leased) -> None:
        self._leased = leased
        self._mine: set[Node] = set()

    def add(self, *nodes: Node) -> None:
        """Take it BEFORE looking whether the blob is there, or before writing it."""
        with self._leased.lock:
            for node in nodes:
                if node not in self._mine:
                    self._mine.add(node)
                    self._leased.nodes[node] += 1
                    self._leased.recent.add(node)

    def release(self) -> None:
        """Idempotent."""
        with self._leased.lock:
            for node in self._mine:
                self._leased.nodes[node] -= 1
                if not self._leased.nodes[node]:
                    del self._leased.nodes[node]
            self._mine.clear()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Collected(NamedTuple):
    """What a collection deleted, and the bytes that it freed."""

    blobs: tuple[str, ...]
    layers: tuple[str, ...]
    size: int


class Collector:
    """Deletes blobs and committed snapshots that neither a root nor a lease reaches."""

    def __init__(
        self,
        content: ContentStore,
        snapshots: Snapshotter,
        *,
        roots: Callable[[], Iterable[Node]],
        references: Callable[[Node], Iterable[Node]],
    ) -> None:
        """`references` of a node that is not there (any more) are none, it may not raise for that."""
        self._content = content
        self._snapshots = snapshots
        self._roots = roots
        self._references = references
        self._leased = _Leased()
        self._collecting = threading.Lock()

    def lease(self) -> Lease:
        return Lease(self._leased)

    def leases(self, node: Node) -> int:
        """How many leases name it."""
        with self._leased.lock:
            return self._leased.nodes.get(node, 0)

    def collect(self) -> Collected:
        """One mark and sweep; concurrent calls queue up. In a thread."""
        with self._collecting:
            leased = self._leased.begin()
            blobs = dict(self._content.walk())
            snapshots = list(self._snapshots.walk())
            held = [Layer(s.parent) for s in snapshots if s.kind is not Kind.COMMITTED and s.parent]
            parents = {s.key: s.parent for s in snapshots}
            marked = self._mark([*self._roots(), *held, *leased], parents)
            layers = [s.key for s in snapshots if s.kind is Kind.COMMITTED and Layer(s.key) not in marked]
            return self._sweep({d: size for d, size in blobs.items() if Blob(d) not in marked}, layers)

    def _mark(self, nodes: list[Node], parents: dict[str, str | None]) -> set[Node]:
        marked: set[Node] = set()
        while nodes:
            node = nodes.pop()
            if node in marked:
                continue
            marked.add(node)
            nodes.extend(self._references(node))
            if isinstance(node, Layer) and (parent := parents.get(node.name)) is not None:
                nodes.append(Layer(parent))
        return marked

    def _sweep(self, blobs: dict[str, int], layers: list[str]) -> Collected:
        gone = []
        size = 0
        for digest, length in blobs.items():
            with self._leased.lock:
                if not self._leased.holds(Blob(digest)):
                    self._content.delete(digest)
                    gone.append(digest)
                    size += length
        removed, freed = self._sweep_layers(layers)
        return Collected(tuple(gone), tuple(removed), size + freed)

    def _sweep_layers(self, layers: list[str]) -> tuple[list[str], int]:
        """Children before parents; a layer that somebody took meanwhile stays, and its parents with it."""
        todo = sorted(layers, key=lambda name: -len(self._chain(name)))
        removed: list[str] = []
        size = 0
        for name in todo:
            try:
                length = self._snapshots.usage(name).size
                with self._leased.lock:
                    if self._leased.holds(Layer(name)):
                        continue
                    self._snapshots.remove(name)
            except (Conflict, NotFound):
                continue
            removed.append(name)
            size += length
        return removed, size

    def _chain(self, name: str) -> tuple[str, ...]:
        try:
            return self._snapshots.chain(name)
        except NotFound:
            return ()

"""Mark and sweep over blobs and snapshots (signatures; being filled)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

from storage.content import ContentStore
from storage.snapshots.interface import Snapshotter


class Blob(NamedTuple):
    digest: str


class Layer(NamedTuple):
    """A committed snapshot (its parents live with it)."""

    name: str


Node = Blob | Layer


class Lease:
    """Keeps what it names alive while it is held; dies with the process. From Collector.lease()."""

    def add(self, *nodes: Node) -> None:
        """Take it BEFORE looking whether the blob is there, or before writing it."""
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class Collected(NamedTuple):
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
        """`roots` names what images and containers hold; `references` a node's further ones (manifest to blobs)."""
        raise NotImplementedError

    def lease(self) -> Lease:
        raise NotImplementedError

    def collect(self) -> Collected:
        """One mark and sweep; concurrent calls queue up. In a thread."""
        raise NotImplementedError

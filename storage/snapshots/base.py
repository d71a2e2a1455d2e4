"""What the overlay and the copying snapshotter have in common: everything but how a tree is put together."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from storage import disk, failpoints, trees
from storage.errors import Conflict, InvalidArgument
from storage.snapshots.index import Index, Record, labels_of
from storage.snapshots.interface import Change, Kind, OverlayMount, Snapshot, Usage
from storage.snapshots.quota import ProjectQuota, accept_all
from storage.streams import Writable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectorySnapshotter(ABC):
    """Snapshots as numbered directories; see interface.py for what each method promises."""

    def __init__(self, root: Path, *, userxattr: bool = False) -> None:
        """`userxattr` when overlays are mounted in a user namespace (rootless)."""
        self.root = root
        self._userxattr = userxattr
        self._index = Index.open(root)
        self._purging = threading.Lock()
        """Two at once would delete under each other's feet."""
        self._quota = ProjectQuota.open(root, self._index.directories())
        if self._quota:
            accept_all(root / "trash")

    @property
    def limits(self) -> bool:
        return self._quota is not None

    def prepare(
        self, key: str, parent: str | None, *, labels: Mapping[str, str] | None = None, limit: int = 0
    ) -> Snapshot:
        snapshot = Snapshot(key, Kind.ACTIVE, parent, time.time_ns(), labels_of(labels))
        with self._index.adding(snapshot) as directory:
            if limit:
                self._limit(directory, limit)
            self._make_tree(directory, parent)
        return snapshot

    def _limit(self, directory: str, limit: int) -> None:
        if self._quota is None:
            raise InvalidArgument(f"{self.root}: the file system has no project quotas")
        self._quota.limit(directory, limit)
        failpoints.hit("snapshots.limit")

    def view(self, key: str, parent: str, *, labels: Mapping[str, str] | None = None) -> Snapshot:
        snapshot = Snapshot(key, Kind.VIEW, parent, time.time_ns(), labels_of(labels))
        with self._index.adding(snapshot) as directory:
            self._make_view(directory, parent)
        return snapshot

    def commit(
        self, name: str, key: str, *, parent: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Snapshot:
        record = self._index.get(key)
        if record.snapshot.kind is not Kind.ACTIVE:
            raise Conflict(f"snapshot {key} is {record.snapshot.kind} and cannot be committed")
        created, old_labels = record.snapshot.created, record.snapshot.labels
        parent = parent if parent is not None else record.snapshot.parent
        snapshot = Snapshot(name, Kind.COMMITTED, parent, created, labels_of(labels) or old_labels)
        with self._index.reserving(snapshot):
            self._before_commit(record, parent)
            with disk.no_space(self.root):
                failpoints.hit("snapshots.commit")
            self._index.replace(record, Record(record.number, snapshot, unsynced=self._index.boot))
            self._after_commit(record)
        failpoints.hit("snapshots.committed")
        return snapshot

    def remove(self, key: str) -> None:
        failpoints.hit("snapshots.remove")
        self._index.remove(key)

    def stat(self, key: str) -> Snapshot:
        return self._index.get(key).snapshot

    def exists(self, key: str) -> bool:
        return key in self._index.records

    def walk(self) -> Iterator[Snapshot]:
        with self._index.lock:
            snapshots = [record.snapshot for record in self._index.records.values()]
        return iter(snapshots)

    def chain(self, key: str) -> tuple[str, ...]:
        return tuple(record.snapshot.key for record in self._index.chain(key))

    def usage(self, key: str) -> Usage:
        record = self._index.get(key)
        if record.usage is not None:
            return record.usage
        if record.snapshot.kind is Kind.VIEW:
            return Usage(0, 0)
        fd = os.open(self._files(record), _DIRECTORY)
        try:
            usage = Usage(*trees.measure(fd))
        finally:
            os.close(fd)
        if record.snapshot.kind is Kind.COMMITTED:
            self._index.change(record, usage=usage)
        return usage

    def layer_dir(self, key: str) -> Path:
        record = self._index.get(key)
        if record.snapshot.kind is Kind.VIEW:
            raise InvalidArgument(f"snapshot {key} is a view and has no files of its own")
        return Path(self._files(record))

    def sync(self) -> None:
        unsynced = self._index.unsynced()
        if unsynced:
            disk.sync_filesystem(self.root)
            for record in unsynced:
                self._index.change(record, unsynced=None)
            disk.sync_filesystem(self.root)  # the marks; little is left to write

    def purge(self) -> int:
        with self._purging:
            trash = os.open(self.root / "trash", _DIRECTORY)
            try:
                names = os.listdir(trash)
                for name in names:
                    project = self._quota.limited(f"{self.root}/trash/{name}") if self._quota else 0
                    trees.remove(name, dir_fd=trash)
                    if self._quota:
                        failpoints.hit("snapshots.release")
                        self._quota.release(project)
            finally:
                os.close(trash)
        return len(names)

    @abstractmethod
    def overlay(self, key: str) -> OverlayMount: ...

    @abstractmethod
    def changes(self, key: str) -> list[Change]: ...

    @abstractmethod
    def diff(self, key: str, out: Writable) -> None: ...

    @abstractmethod
    def _make_tree(self, directory: str, parent: str | None) -> None:
        """Fills a new active snapshot's directory."""

    def _make_view(self, directory: str, parent: str) -> None:  # noqa: B027
        """Fills a new view's directory; nothing, where the parents can be seen as they are."""

    def _before_commit(self, record: Record, parent: str | None) -> None:  # noqa: B027
        """Makes `fs` hold the snapshot's own files in overlay's form, if it doesn't yet."""

    def _after_commit(self, record: Record) -> None:  # noqa: B027
        """Discards what only an active snapshot needs. A crash in front of it leaves it lying there, unused."""

    def _files(self, record: Record) -> str:
        return f"{self._index.directory(record)}/fs"

    def _layers(self, key: str | None) -> list[str]:
        """The directories of a committed snapshot and its ancestors, topmost first."""
        return [self._files(record) for record in self._index.chain(key)]

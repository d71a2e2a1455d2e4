"""Which snapshots there are: one directory each, and a record in it.

    ROOT/<number>/info.json     the record; a directory without one was never finished
    ROOT/<number>/fs            the snapshot's own files, in overlay's form
    ROOT/<number>/work          overlay's workspace (active ones)
    ROOT/trash/                 removed, still to be deleted

Numbers keep the paths short: a mount's options must fit a page on kernels before 6.5. The record is
replaced by a rename, which is the instant at which a call has happened. The whole index is in memory; it is
read from the directories once, when opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from storage import disk
from storage.errors import Conflict, NotFound
from storage.snapshots.interface import Kind, Snapshot, Usage

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Record:
    """A snapshot with what only its keeper knows."""

    number: int
    snapshot: Snapshot
    usage: Usage | None = None
    unsynced: str | None = None
    """The boot that committed it, until sync() has made sure that a power cut can't hurt it."""

    def to_json(self) -> bytes:
        snapshot = self.snapshot
        return json.dumps(
            {
                "key": snapshot.key,
                "kind": snapshot.kind,
                "parent": snapshot.parent,
                "created": snapshot.created,
                "labels": dict(snapshot.labels),
                "usage": self.usage,
                "unsynced": self.unsynced,
            }
        ).encode()

    @staticmethod
    def from_json(number: int, data: bytes) -> Record:
        """ValueError, KeyError or TypeError when it was never written whole."""
        value: dict[str, Any] = json.loads(data)
        snapshot = Snapshot(
            value["key"], Kind(value["kind"]), value["parent"], value["created"], value["labels"]
        )
        usage = value["usage"]
        return Record(number, snapshot, Usage(*usage) if usage else None, value["unsynced"])


@dataclass(slots=True)
class Index:
    """All records by key. Methods that change something hold the lock; callers hold it for several."""

    root: Path
    lock: threading.RLock = field(default_factory=threading.RLock)
    records: dict[str, Record] = field(default_factory=dict)
    children: Counter[str] = field(default_factory=Counter)
    coming: set[str] = field(default_factory=set)
    """Keys of snapshots being made: taken, but not there yet."""
    next_number: int = 1
    boot: str = ""

    @staticmethod
    def open(root: Path) -> Index:
        """Reads all records; directories of calls that never finished go to the trash."""
        index = Index(root, boot=_BOOT_ID.read_text().strip())
        with disk.no_space(root):
            (root / "trash").mkdir(parents=True, exist_ok=True, mode=0o700)
        index._load()
        return index

    def directory(self, record: Record) -> str:
        return f"{self.root}/{record.number}"

    def directories(self) -> list[str]:
        """Those of all snapshots, and of removed ones that still lie there."""
        with self.lock:
            found = [self.directory(record) for record in self.records.values()]
        return found + [entry.path for entry in os.scandir(self.root / "trash")]

    def get(self, key: str) -> Record:
        with self.lock:
            record = self.records.get(key)
        if record is None:
            raise NotFound(f"snapshot {key} does not exist")
        return record

    def committed(self, key: str) -> Record:
        """For a parent: NotFound, or Conflict when it isn't committed."""
        record = self.get(key)
        if record.snapshot.kind is not Kind.COMMITTED:
            raise Conflict(f"snapshot {key} is {record.snapshot.kind} and cannot be a parent")
        return record

    def chain(self, key: str | None) -> list[Record]:
        """The snapshot and its ancestors, topmost first."""
        found = []
        with self.lock:
            while key is not None:
                record = self.get(key)
                found.append(record)
                key = record.snapshot.parent
        return found

    @contextlib.contextmanager
    def reserving(self, snapshot: Snapshot) -> Iterator[None]:
        """Takes a key and holds its parent for a block that makes the snapshot.

        The lock itself is not held meanwhile: a copy may take minutes.
        """
        with self.lock:
            if snapshot.key in self.records or snapshot.key in self.coming:
                raise Conflict(f"snapshot {snapshot.key} exists already")
            if snapshot.parent is not None:
                self.committed(snapshot.parent)
                self.children[snapshot.parent] += 1
            self.coming.add(snapshot.key)
        try:
            yield
        finally:
            with self.lock:
                self.coming.discard(snapshot.key)
                if snapshot.parent is not None:
                    self.children[snapshot.parent] -= 1

    @contextlib.contextmanager
    def adding(self, snapshot: Snapshot) -> Iterator[str]:
        """Makes a directory for the caller to fill; leaving the block well makes the snapshot exist."""
        with self.reserving(snapshot), disk.no_space(self.root):
            with self.lock:
                record = Record(self.next_number, snapshot)
                self.next_number += 1
            directory = self.directory(record)
            os.mkdir(directory, 0o700)
            try:
                yield directory
                disk.write_aside(Path(directory, "info.json"), record.to_json())
            except BaseException:
                self.discard(directory)
                raise
            with self.lock:
                self._insert(record)

    def replace(self, old: Record, new: Record) -> None:
        """Puts a new record in the place of one, on disk first. NotFound when that is gone meanwhile."""
        with self.lock, disk.no_space(self.root):
            if self.get(old.snapshot.key) is not old:
                raise NotFound(f"snapshot {old.snapshot.key} does not exist any more")
            disk.write_aside(Path(self.directory(new), "info.json"), new.to_json())
            self._forget(old.snapshot.key)
            self._insert(new)

    def change(self, old: Record, **values: Any) -> None:
        """Changes what a record says besides the snapshot, unless it is gone or another's by now."""
        with self.lock:
            current = self.records.get(old.snapshot.key)
            if current is not None and current.number == old.number:
                self.replace(current, replace(current, **values))

    def remove(self, key: str) -> None:
        with self.lock:
            record = self.get(key)
            if self.children[key]:
                raise Conflict(f"snapshot {key} is the parent of {self.children[key]} others")
            self.discard(self.directory(record))
            self._forget(key)

    def discard(self, directory: str) -> None:
        """Moves a directory to the trash; its record with it, at once."""
        name = f"{os.path.basename(directory)}.{secrets.token_hex(8)}"
        os.rename(directory, f"{self.root}/trash/{name}")

    def unsynced(self) -> list[Record]:
        with self.lock:
            return [record for record in self.records.values() if record.unsynced is not None]

    def _insert(self, record: Record) -> None:
        self.records[record.snapshot.key] = record
        if record.snapshot.parent is not None:
            self.children[record.snapshot.parent] += 1

    def _forget(self, key: str) -> None:
        record = self.records.pop(key)
        if record.snapshot.parent is not None:
            self.children[record.snapshot.parent] -= 1

    def _load(self) -> None:
        lost: list[Record] = []
        for entry in os.scandir(self.root):
            if not entry.name.isdigit():
                continue
            number = int(entry.name)
            self.next_number = max(self.next_number, number + 1)
            try:
                record = Record.from_json(number, Path(entry.path, "info.json").read_bytes())
            except (OSError, ValueError, KeyError, TypeError):
                self.discard(entry.path)
                continue
            if record.unsynced not in (None, self.boot):
                lost.append(record)
            self._insert(record)
        self._drop_lost(lost)

    def _drop_lost(self, lost: list[Record]) -> None:
        """Committed before a power cut and never confirmed: files may be missing. Children go first."""
        todo = {record.snapshot.key for record in lost}
        while droppable := [key for key in todo if not self.children[key]]:
            for key in droppable:
                self.remove(key)
                todo.discard(key)
        # Those left are some container's parents. They stay, so that what the container wrote stays readable.


def labels_of(labels: Mapping[str, str] | None) -> dict[str, str]:
    return dict(labels) if labels else {}

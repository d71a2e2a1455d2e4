"""Log files read back: rotated files first (`.N`, `.N.gz`), then the growing one.

A file that is rotated away while it is read is finished through its open descriptor before the new one
is begun, so that no line is lost or told twice.
"""

from __future__ import annotations

import gzip
import os
import re
from typing import IO, Protocol, cast

from daemon.clock import parse_rfc3339
from daemon.containers.logs.entry import Entry, Selection

BATCH = 1 << 16
_ROTATED = re.compile(r"\.(\d+)(\.gz)?$")


class Format(Protocol):
    """How records lie in a file."""

    resyncs: bool
    """Whether reading may begin anywhere and find the next record by itself."""

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Whole records, and what is left of an unfinished one."""
        ...

    def parse(self, record: bytes) -> Entry | None:
        """None for a record torn by a power cut."""
        ...


class LogFiles:
    """A `LogSource`: the files of one container in one format."""

    def __init__(self, path: str, format: Format) -> None:
        self.path = path
        self._format = format

    def open(self, selection: Selection) -> FileCursor:
        return FileCursor(self.path, selection, self._format)


def rotated(path: str) -> list[str]:
    """Older files, oldest first."""
    directory, name = os.path.split(path)
    found: dict[int, str] = {}
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return []
    for entry in entries:
        match = _ROTATED.search(entry)
        if match and entry[: match.start()] == name:
            number = int(match[1])
            if number not in found or not match[2]:  # while it is compressed both exist
                found[number] = os.path.join(directory, entry)
    return [found[number] for number in sorted(found, reverse=True)]


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")


class FileCursor:
    """See `entry.Cursor`."""

    def __init__(self, path: str, selection: Selection, format: Format) -> None:
        self._format = format
        self.finished = False
        self._path = path
        self._selection = selection
        self._pending = b""
        self._file: IO[bytes] | None = None
        self._older = rotated(path) if selection.tail != 0 else []
        self._backlog: list[Entry] | None = None
        if selection.tail == 0:
            self._open_current()
            if self._file:
                self._file.seek(0, os.SEEK_END)
        elif selection.tail > 0:
            self._backlog = self._read_tail(selection.tail)

    def batch(self) -> list[Entry]:
        if self._backlog:
            ready, self._backlog = self._backlog, None
            return ready
        self._backlog = None
        while not self.finished:
            data = self._more()
            if not data:
                return []
            records, self._pending = self._format.split(self._pending + data)
            chosen = self._chosen(records)
            if chosen:
                return chosen
        return []

    def _more(self) -> bytes:
        while True:
            if self._file is None and not self._next_file():
                return b""
            assert self._file is not None
            data = self._file.read(BATCH)
            if data:
                return data
            if not self._exhausted():
                return b""
            self._pending = b""
            self._older = self._older or self._younger()
            self._file.close()
            self._file = None

    def _younger(self) -> list[str]:
        """Files rotated away after the open one, which was the current one when it was opened."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        files = rotated(self._path)
        for index, path in enumerate(files):
            try:
                other = os.stat(path)
            except FileNotFoundError:
                continue
            if (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino):
                return files[index + 1 :]
        return []

    def _next_file(self) -> bool:
        if self._older:
            try:
                self._file = _open(self._older.pop(0))
            except FileNotFoundError:  # it aged out meanwhile
                return self._next_file()
            return True
        return self._open_current()

    def _open_current(self) -> bool:
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 closed by close()
        except FileNotFoundError:
            return False
        return True

    def _exhausted(self) -> bool:
        """Is the open file an older one, or the current one rotated away and read to its end?"""
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return False
        if (mine.st_dev, mine.st_ino) == (current.st_dev, current.st_ino):
            return False
        name = getattr(self._file, "name", "")
        unread = name == self._path and self._file.tell() < mine.st_size  # written to before the rotation
        return not unread

    def _chosen(self, records: list[bytes]) -> list[Entry]:
        return [entry for record in records if (entry := self._entry(record)) is not None]

    def _entry(self, record: bytes) -> Entry | None:
        entry = self._format.parse(record)
        if entry is None or entry.stream not in self._selection.streams:
            return None
        bounded = self._selection.since or self._selection.until
        return entry if not bounded or self._in_time(entry.time) else None

    def _in_time(self, stamp: str) -> bool:
        at = parse_rfc3339(stamp)
        if self._selection.since and at < self._selection.since:
            return False
        if self._selection.until and at > self._selection.until:
            self.finished = True
            return False
        return True

    def _read_tail(self, count: int) -> list[Entry]:
        """The last `count` chosen entries; leaves the cursor at the end of the current file."""
        entries: list[Entry] = []
        if self._open_current():
            assert self._file is not None
            size = os.fstat(self._file.fileno()).st_size
            entries, self._pending = self._tail_of(self._file, size, count)
            self._file.seek(size)
        for path in reversed(self._older):
            if len(entries) >= count:
                break
            try:
                with _open(path) as file:
                    older = self._chosen(self._format.split(file.read())[0])
            except FileNotFoundError:
                continue
            entries = (
                older[len(entries) - count :] + entries
                if len(older) + len(entries) > count
                else older + entries
            )
        self._older = []
        return entries[-count:]

    def _tail_of(self, file: IO[bytes], size: int, count: int) -> tuple[list[Entry], bytes]:
        data, position = b"", size
        while True:
            step = min(BATCH, position) if self._format.resyncs else position
            position -= step
            file.seek(position)
            data = file.read(step) + data
            records, rest = self._format.split(data)
            usable = records if position == 0 else records[1:]
            if position == 0 or len(usable) >= count:
                entries = self._chosen(usable)
                if position == 0 or len(entries) >= count:
                    return entries[-count:], rest

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

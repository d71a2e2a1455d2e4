"""Log files read back: rotated files first (`.N`, `.N.gz`), then the growing one.

A file that is rotated away while it is read is finished through its open descriptor before the next one
is begun, so that no line is lost or told twice. Names shift with every rotation, so the next file is found by
the *identity* of the one that is open: inode and time of the last write, which a compressed file carries in its
header (daemon/runtime/compress.py).
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import time
from dataclasses import dataclass
from typing import IO, Protocol, cast

from daemon.clock import parse_rfc3339
from daemon.containers.logs.entry import NEVER, Entry, Place, Selection

BATCH = 1 << 16
HEADER = 64
"""Bytes of a gzip file that surely hold the name in its header."""
_NOTED = re.compile(rb"(\d+)-(\d+)")
_ROTATED = re.compile(r"\.(\d+)(\.gz)?$")


class Format(Protocol):
    """How records lie in a file."""

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Whole records, and what is left of an unfinished one."""
        ...

    def last(self, data: bytes, *, whole: bool) -> tuple[list[bytes], bytes] | None:
        """What `split` gives for the end of a file, as far as it can be told from there; `whole` when `data` is
        all of the file. None when it cannot, since the file ends in an unfinished record."""
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

    def directories(self) -> list[str]:
        directory = os.path.dirname(self.path)
        os.makedirs(directory, exist_ok=True)
        return [directory]

    def end(self) -> Place | None:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self.path)
            return Place(status.st_ino, status.st_size, time.time_ns())
        return None

    def size(self) -> int:
        total = 0
        for path in (*(piece.path for piece in rotated(self.path)), self.path):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(path).st_size
        return total


Identity = tuple[int, int]
NOBODY: Identity = (-1, 0)


def _identity(status: os.stat_result) -> Identity:
    return status.st_ino, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a log; `identity` is that of the file it was written as."""

    path: str
    identity: Identity


def rotated(path: str) -> list[Piece]:
    """Older files, oldest first; looked at until two looks agree, since a rotation may be under way."""
    before: list[Piece] | None = None
    while (now := _listed(path)) != before:
        before = now
    return now


def _listed(path: str) -> list[Piece]:
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
    pieces = (_piece(found[number]) for number in sorted(found, reverse=True))
    return [piece for piece in pieces if piece is not None]


def _piece(path: str) -> Piece | None:
    try:
        if not path.endswith(".gz"):
            return Piece(path, _identity(os.stat(path)))
        with open(path, "rb") as file:
            return Piece(path, _original(file.read(HEADER)))
    except FileNotFoundError:
        return None


def _original(header: bytes) -> Identity:
    """What compress.py noted in a gzip header as the file's name (RFC 1952, FNAME)."""
    if len(header) > 10 and header[3] & 8:
        match = _NOTED.fullmatch(header[10:].partition(b"\0")[0])
        if match:
            return int(match[1]), int(match[2])
    return NOBODY


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    packed = gzip.GzipFile(fileobj=file, mode="rb")
    packed.myfileobj = file  # type: ignore[assignment] # closed with it, as gzip.open's is
    return cast(IO[bytes], packed)


class FileCursor:
    """See `entry.Cursor`."""

    def __init__(self, path: str, selection: Selection, format: Format) -> None:
        self._format = format
        self.finished = False
        self._path = path
        self._selection = selection
        self._pending = b""
        self._file: IO[bytes] | None = None
        self._packed: Identity | None = None
        """The identity of an open compressed file; that of a plain one is read from it."""
        self._backlog: list[Entry] | None = None
        self._stop: Place | None = None
        self._moved = False
        """The open file is not the first one, and nothing of it was read yet."""
        if selection.tail == 0:
            self._open_current()
            if self._file:
                self._file.seek(0, os.SEEK_END)
        elif selection.tail > 0:
            self._backlog = self._read_tail(selection.tail)

    def stop_at(self, place: Place) -> None:
        self._stop = place
        self.finished = not place.inode

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
            if self._moved and records:
                self._moved = False
                self.finished = self._begun_behind_stop(records[0])
            chosen = [] if self.finished else self._chosen(records)
            if chosen:
                return chosen
        return []

    def _begun_behind_stop(self, first: bytes) -> bool:
        """Whether a file that we moved on to was begun behind the place to stop: the file of that place is gone."""
        entry = self._format.parse(first) if self._stop is not None and self._stop.at != NEVER else None
        return entry is not None and parse_rfc3339(entry.time) > self._stop.at  # type: ignore[union-attr]

    # -- which file

    def _more(self) -> bytes:
        while True:
            if self._file is None and not self._first():
                return b""
            assert self._file is not None
            size = self._until_stop()
            data = self._file.read(size)
            if data:
                return data
            if not size:
                self.finished = True
                return b""
            if self._is_current():
                return b""
            data = self._file.read(size)  # what was written before the rotation that we have just seen
            if data:
                return data
            if not self._next():
                return b""

    def _until_stop(self) -> int:
        """How much may be read at once; 0 at the place to stop. (The inode that a compressed file had may be
        another file's by now: that was written to before the place was the log's end.)"""
        assert self._file is not None
        inode, written = self._own_identity()
        if self._stop is None or inode != self._stop.inode or (self._packed and written < self._stop.at):
            return BATCH
        return max(0, min(BATCH, self._stop.offset - self._file.tell()))

    def _first(self) -> bool:
        while pieces := rotated(self._path):
            if self._open_piece(pieces[0]):
                return True
        return self._open_current()

    def _is_current(self) -> bool:
        if self._packed is not None:
            return False
        try:
            return os.stat(self._path).st_ino == self._own_identity()[0]
        except FileNotFoundError:  # renamed, and the new one not made yet
            return not self._younger()

    def _next(self) -> bool:
        """Goes on to the file after the open one; False when that is not there yet."""
        while True:
            younger = self._younger()
            if not younger:
                return self._open_current()
            if self._open_piece(younger[0]):
                return True

    def _own_identity(self) -> Identity:
        if self._file is None:
            return NOBODY
        return self._packed or _identity(os.fstat(self._file.fileno()))

    def _younger(self) -> list[Piece]:
        """Rotated files written after the open one; all of them when that has aged out."""
        mine, pieces = self._own_identity(), rotated(self._path)
        for index, piece in enumerate(pieces):
            if piece.identity == mine:
                return pieces[index + 1 :]
        return pieces

    def _open_piece(self, piece: Piece) -> bool:
        """False when names have shifted since: look again."""
        try:
            file = open(piece.path, "rb")  # noqa: SIM115 closed by close()
        except FileNotFoundError:
            return False
        packed = piece.path.endswith(".gz")
        identity = _original(file.read(HEADER)) if packed else _identity(os.fstat(file.fileno()))
        if identity != piece.identity:
            file.close()
            return False
        file.seek(0)
        self._take(_unpacked(file) if packed else file, identity if packed else None)
        return True

    def _open_current(self) -> bool:
        try:
            file = open(self._path, "rb")  # noqa: SIM115 closed by close()
        except FileNotFoundError:
            return False
        if self._file is not None:
            current = os.fstat(file.fileno()).st_ino
            same = self._packed is None and current == self._own_identity()[0]
            missed = [piece for piece in self._younger() if piece.identity[0] != current]
            if same or missed:  # rotated between our looking for younger files and this
                file.close()
                return False if same else self._next()
        self._take(file, None)
        return True

    def _take(self, file: IO[bytes], packed: Identity | None) -> None:
        if self._file is not None:
            self._file.close()
            self._moved = True
        self._file, self._packed, self._pending = file, packed, b""

    # -- which entries

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
        while True:
            entries: list[Entry] = []
            if self._open_current():
                assert self._file is not None
                size = os.fstat(self._file.fileno()).st_size
                entries, self._pending = self._tail_of(self._file, size, count)
                self._file.seek(size)
            older = self._tail_of_older(count - len(entries))
            if older is not None:
                return older + entries
            self.close()

    def _tail_of_older(self, count: int) -> list[Entry] | None:
        """The last `count` entries of the rotated files; None when they were rotated meanwhile."""
        entries: list[Entry] = []
        pieces = rotated(self._path)
        for piece in reversed(pieces):
            if len(entries) >= count:
                break
            reader = FileCursor(self._path, Selection(frozenset()), self._format)
            if not reader._open_piece(piece) or rotated(self._path) != pieces:
                reader.close()
                return None
            assert reader._file is not None
            with reader._file as file:
                entries = self._chosen(self._format.split(file.read())[0]) + entries
        if self._file is not None and not self._is_current():
            return None
        return entries[max(0, len(entries) - count) :]

    def _tail_of(self, file: IO[bytes], size: int, count: int) -> tuple[list[Entry], bytes]:
        data, position, more = b"", size, BATCH
        while True:
            step = min(more, position)
            position, more = position - step, 2 * more
            file.seek(position)
            data = file.read(step) + data
            found = self._format.last(data, whole=position == 0)
            if found is None:
                file.seek(0)
                records, rest = self._format.split(file.read(size))
                return self._chosen(records)[-count:], rest
            records, rest = found
            if position == 0 or len(records) >= count:
                entries = self._chosen(records)
                if position == 0 or len(entries) >= count:
                    return entries[-count:], rest

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file, self._packed = None, None

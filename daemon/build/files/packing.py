"""The part of a layer that is a kept directory as it is: packed by the listing, what was packed before copied.

    packed-<of what>    in the generation's directory: a line of JSON (the layer's blob, how many records, their
                        files' bytes, of what), where each record's entry begins in the archive and the last one ends
                        (8 bytes each), and the records

Of what a record says follow an entry's header and contents: of records that are as they were, the entries are, too.
They are copied from the older archive, which is read once, from its begin to its end; only the others' files are
opened. The archive is the same as if everything had been looked at. Where it turns out that the blob is damaged, or
a file not what its record says, everything is.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from daemon.build.proto.fsutil_pb2 import Listed
from daemon.build.session.contexts import TREE
from daemon.build.session.generation import (
    PACKED,
    Differ,
    Generation,
    Records,
    bytes_of,
    compared,
    mapped,
    st_mode,
)
from daemon.build.session.place import Place
from daemon.images.transfer.compression import Decompressed
from storage.archive.format import Entry, EntryType
from storage.archive.writer import TarWriter
from storage.content import ContentStore
from storage.errors import DataCorrupted, NotFound

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_PIECE = 1 << 18
_OFFSET = 8
_MOST = 8
"""Layers that are remembered of one directory."""
_TYPES = {stat.S_IFREG: EntryType.REGULAR, stat.S_IFDIR: EntryType.DIRECTORY, stat.S_IFLNK: EntryType.SYMLINK}


class Out(Protocol):
    """The archive on its way."""

    def write(self, data: bytes | memoryview) -> int: ...

    @property
    def position(self) -> int: ...


@dataclass(frozen=True)
class Mirror:
    """A directory of a snapshot that was made by linking all of a directory of a generation, and not touched since."""

    generation: Path
    source: str
    """In the generation's tree, without slashes at its ends; empty for all of it."""
    target: str
    """In the snapshot, likewise: there is nothing else in it but directories on the way there."""

    @property
    def packed(self) -> Path:
        name = hashlib.sha256(os.fsencode(f"{self.source}\0{self.target}")).hexdigest()[:32]
        return self.generation / f"{PACKED}{name}"


class Stale(Exception):
    """Something is not as it was noted."""


class Packing:
    """Packs a mirror."""

    def __init__(self, mirror: Mirror, out: Out, store: ContentStore) -> None:
        self._mirror, self._out = mirror, out
        self._records = Generation(mirror.generation).records
        self._source = os.fsencode(mirror.source)
        self._numbers = self._records.beneath(self._source)
        self._offsets = array("Q")
        self._before = _Before.load(mirror.packed, store)
        self._size = 0

    def write(self, writer: TarWriter) -> int:
        """Entries of all that is beneath the target; returns their files' bytes. Stale: they are not to be used."""
        place = Place(self._mirror.generation / TREE)
        try:
            if self._before is None:
                self._anew(writer, place, self._numbers)
            else:
                self._follow(writer, place, self._before)
        except (OSError, DataCorrupted) as error:
            self._mirror.packed.unlink(missing_ok=True)
            raise Stale() from error
        finally:
            place.close()
            if self._before is not None:
                self._before.close()
        self._offsets.append(self._out.position)
        return self._size

    def _follow(self, writer: TarWriter, place: Place, before: _Before) -> None:
        self._size = before.size
        old = before.records
        for part in compared(old, self._records, range(len(old)), self._numbers):
            if isinstance(part, Differ):
                self._size -= sum(bytes_of(old.listed(number)) for number in part.old)
                self._anew(writer, place, part.new)
                continue
            offsets = before.offsets[part.old : part.old + part.count + 1]
            shift = self._out.position - offsets[0]
            self._offsets.extend(offset + shift for offset in offsets[:-1])
            before.copy(offsets[0], offsets[-1], self._out.write)
        before.finish()

    def _anew(self, writer: TarWriter, place: Place, numbers: range) -> None:
        cut = len(self._source) + 1 if self._source else 0
        above = f"{self._mirror.target}/" if self._mirror.target else ""
        for number in numbers:
            found = self._records.listed(number)
            self._offsets.append(self._out.position)
            writer.header(_entry(found, above + os.fsdecode(found.path[cut:])))
            if size := bytes_of(found):
                self._size += size
                _contents(writer, place, found.path, size)

    def keep(self, blob: str) -> None:
        """What was packed is remembered by its generation."""
        path, numbers = self._mirror.packed, self._numbers
        starts = self._records.starts
        aside = path.with_name(f"new-{secrets.token_hex(8)}")
        with aside.open("xb") as file:
            about = {"blob": blob, "count": len(numbers), "size": self._size, "source": self._mirror.source}
            file.write(json.dumps(about).encode() + b"\n")
            file.write(self._offsets)
            file.write(self._records.data[starts[numbers.start] : starts[numbers.stop]])
        aside.rename(path)
        kept = sorted(path.parent.glob(f"{PACKED}*"), key=lambda each: each.stat().st_mtime_ns)
        for each in kept[:-_MOST]:
            each.unlink(missing_ok=True)


def _entry(found: Listed, name: str) -> Entry:
    mode = st_mode(found)
    if mode is None:
        raise DataCorrupted(f"{name!r} is nothing that is packed by its record")
    return Entry(
        name,
        _TYPES[stat.S_IFMT(mode)],
        mode=stat.S_IMODE(mode),
        uid=os.geteuid(),
        gid=os.getegid(),
        size=bytes_of(found),
        mtime=found.mod_time,
        linkname=os.fsdecode(found.linkname),
    )


def _contents(writer: TarWriter, place: Place, path: bytes, size: int) -> None:
    parent, name = place.parent(path)
    fd = os.open(name, _FILE, dir_fd=parent)
    try:
        while size:
            data = os.read(fd, min(size, _PIECE))
            if not data:
                raise DataCorrupted(f"{path!r} is shorter than it was when it came")
            writer.write(data)
            size -= len(data)
    finally:
        os.close(fd)


class _Before:
    """What was packed before."""

    def __init__(self, size: int, offsets: array[int], records: Records, blob: BinaryIO) -> None:
        self.size, self.offsets, self.records = size, offsets, records
        self._blob = blob
        self._plain = Decompressed(blob)
        self._at = 0

    @classmethod
    def load(cls, path: Path, store: ContentStore) -> _Before | None:
        try:
            data = mapped(path)
            head, _, _ = data[: 1 << 12].partition(b"\n")
            about = json.loads(head)
            start = len(head) + 1
            end = start + _OFFSET * (about["count"] + 1)
            offsets = array("Q", data[start:end])
            records = Records(data, end)
            if len(records) != about["count"] or len(offsets) != len(records) + 1:
                return None
            return cls(about["size"], offsets, records, store.open(about["blob"]))
        except (OSError, ValueError, LookupError, TypeError, NotFound):
            return None

    def copy(self, start: int, end: int, write: Callable[[bytes], int]) -> None:
        """A part of the archive, which lies behind those that were copied before."""
        while self._at < end:
            data = self._read(min(_PIECE, (start if self._at < start else end) - self._at))
            if self._at >= start:
                write(data)
            self._at += len(data)

    def _read(self, size: int) -> bytes:
        data = self._plain.read(size)
        if not data:
            raise DataCorrupted("the layer's archive is shorter than it was")
        return data

    def finish(self) -> None:
        """To the end, where the archive's own sum is checked."""
        while self._plain.read(_PIECE):
            pass

    def close(self) -> None:
        self._blob.close()

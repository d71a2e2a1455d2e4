"""A whole generation of a kept directory, as those read it who digest, copy and pack it.

    index      what it holds (daemon.build.session.listing): a record is known by its number here
    sums       bytes of all files (8), then for each record, by its number, the SHA-256 of what it is but for its
               name and times (daemon.build.files.hashing.summed)
    digests    digests of files by inode, made when somebody asks for one
    packed-*   layers that were made of it (daemon.build.files.packing)

There are sums only of directories that are plain: directories, files and symlinks, without hard links among them,
attributes that a layer would have, FIFOs, devices. The next generation's sums are those of the last but for the
records that differ: nothing here costs more than a glance for each record that is as it was.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import stat
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.build.files.hashing import summed
from daemon.build.proto.fsutil_pb2 import Listed
from daemon.build.session import listing
from daemon.build.session.contexts import TREE
from daemon.build.session.listing import GO_DIRECTORY, GO_SYMLINK, GO_TYPES, HEAD, order

INDEX, SUMS, DIGESTS, PACKED = "index", "sums", "digests", "packed-"
SUM = 32
_SIZE = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_DIGEST = slice(HEAD - SUM, HEAD)
_PATH = 0x0A
"""The first byte of a Stat whose first field is its path, as everybody writes it."""
_TOGETHER = 4096


class Records:
    """A listing's records by their numbers."""

    def __init__(self, data: mmap.mmap | bytes, start: int = 0) -> None:
        self.data = data
        self.starts = array("Q")
        """Where each begins, and the last one ends."""
        at, end, unpack, append = start, len(data), _LENGTH.unpack_from, self.starts.append
        while at < end:
            append(at)
            at += 4 + unpack(data, at)[0]
        append(at)

    @classmethod
    def of(cls, path: Path) -> Records:
        return cls(mapped(path))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def raw(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.starts[number + 1]]

    def listed(self, number: int) -> Listed:
        return Listed.FromString(self.data[self.starts[number] + HEAD : self.starts[number + 1]])

    def path(self, number: int) -> bytes:
        at, data = self.starts[number] + HEAD, self.data
        if data[at] == _PATH and data[at + 1] < 0x80:
            return data[at + 2 : at + 2 + data[at + 1]]
        return bytes(self.listed(number).path)

    def find(self, path: bytes) -> int:
        """The number of the path's record, or of the first behind its place."""
        key, low, high = order(path), 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if order(self.path(middle)) < key:
                low = middle + 1
            else:
                high = middle
        return low

    def beneath(self, path: bytes) -> range:
        """The numbers of all that is in a directory; of everything, for an empty path."""
        # "/" stands for the lowest byte in the order, "\\1" for the next
        return range(self.find(path + b"/"), self.find(path + b"\1")) if path else range(len(self))


@dataclass(frozen=True)
class Same:
    """Records that two listings have alike, by their first numbers."""

    old: int
    new: int
    count: int


@dataclass(frozen=True)
class Differ:
    """Numbers of records that only the old listing has at this place, and of those that only the new one has."""

    old: range
    new: range


def compared(old: Records, new: Records, olds: range, news: range) -> Iterator[Same | Differ]:
    """Two listings, or parts of them, from the begin to the end."""
    i, j = olds.start, news.start
    while i < olds.stop or j < news.stop:
        count = _alike(old, new, range(i, olds.stop), range(j, news.stop))
        if count:
            yield Same(i, j, count)
            i, j = i + count, j + count
            continue
        was = order(old.path(i)) if i < olds.stop else None
        now = order(new.path(j)) if j < news.stop else None
        gone = was is not None and (now is None or was <= now)
        come = now is not None and (was is None or now <= was)
        yield Differ(range(i, i + gone), range(j, j + come))
        i, j = i + gone, j + come


def _alike(old: Records, new: Records, olds: range, news: range) -> int:
    """How many records are the same from here on."""
    count, most = 0, min(len(olds), len(news))
    one, other, i, j = old.data, new.data, old.starts, new.starts
    begin, there = (i[olds.start], j[news.start]) if most else (0, 0)
    while count < most:
        end, following = i[olds.start + count + 1], j[news.start + count + 1]
        if one[begin:end] != other[there:following]:
            break
        begin, there, count = end, following, count + 1
    return count


def touched(new: Records, old: Records, differing: Sequence[Differ]) -> list[int]:
    """Numbers of what is new and of the directories in which something changed."""
    parents: set[bytes] = set()
    numbers: list[int] = []
    for part in differing:
        numbers += part.new
        paths = [*map(old.path, part.old), *map(new.path, part.new)]
        parents.update(path.rpartition(b"/")[0] for path in paths)
    for path in parents:
        number = new.find(path)
        if number < len(new) and new.path(number) == path:
            numbers.append(number)
    return numbers


class Sums:
    """A generation's `sums` while they are made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")
        self._file.write(_SIZE.pack(0))
        self.plain = True
        self.size = 0

    def follow(self, new: Records, old: Records, before: mmap.mmap | bytes) -> Iterator[Differ]:
        """Those of the generation before but for what differs, which is told."""
        self.size = _SIZE.unpack_from(before)[0]
        for part in compared(old, new, range(len(old)), range(len(new))):
            if isinstance(part, Same):
                start = _SIZE.size + SUM * part.old
                self._file.write(before[start : start + SUM * part.count])
                continue
            self.size -= sum(bytes_of(old.listed(number)) for number in part.old)
            self.add(new, part.new)
            yield part

    def add(self, records: Records, numbers: range) -> None:
        for number in numbers:
            found = records.listed(number)
            self.size += bytes_of(found)
            made = _sum(found, records.raw(number)[_DIGEST]) if self.plain else None
            if made is None:
                self.plain = False
            else:
                self._file.write(made)

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(_SIZE.pack(self.size))
        self._file.close()
        if not self.plain:
            self._path.unlink()


def bytes_of(found: Listed) -> int:
    """A file's size; of its further names nothing."""
    return 0 if found.mode & GO_TYPES or found.linkname else found.size


def _sum(found: Listed, digest: bytes) -> bytes | None:
    """hashing.summed() of a record; None where the directory is not plain by it."""
    mode = st_mode(found)
    if mode is None or (stat.S_ISREG(mode) and (digest == listing.NONE or found.linkname)):
        return None
    if not stat.S_ISDIR(mode) and any(listing.is_kept(name) for name in found.xattrs):
        return None
    contents = digest if stat.S_ISREG(mode) else found.linkname
    return summed(mode, os.geteuid(), os.getegid(), 0, contents)


def st_mode(found: Listed) -> int | None:
    """Of what is there by a record; None for what is neither directory nor file nor symlink."""
    kind = found.mode & GO_TYPES
    if kind == GO_SYMLINK:
        return stat.S_IFLNK | 0o777
    types = {0: stat.S_IFREG, GO_DIRECTORY: stat.S_IFDIR}
    return types[kind] | listing.permissions(found.mode) if kind in types else None


class Generation:
    """One that its user holds: nothing of it changes meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._records: Records | None = None
        self._digests: listing.Digests | None = None

    @classmethod
    def behind(cls, layers: Sequence[str]) -> Generation | None:
        """The one whose tree these directories are, if they are one's."""
        path = Path(layers[0]) if len(layers) == 1 else None
        if path is None or path.name != TREE or not (path.parent / INDEX).is_file():
            return None
        return cls(path.parent)

    @property
    def records(self) -> Records:
        if self._records is None:
            self._records = Records.of(self.directory / INDEX)
        return self._records

    @property
    def plain(self) -> bool:
        return (self.directory / SUMS).is_file()

    def beneath(self, path: str) -> Iterator[bytes] | None:
        """What hashing.digest() takes of all that is in a directory, by pieces; None where it must look itself."""
        return self._beneath(os.fsencode(path.strip("/"))) if self.plain else None

    def _beneath(self, path: bytes) -> Iterator[bytes]:
        records, cut = self.records, len(path) + 1 if path else 0
        sums = mapped(self.directory / SUMS)
        numbers = records.beneath(path)
        for first in range(numbers.start, numbers.stop, _TOGETHER):
            parts: list[bytes] = []
            for number in range(first, min(first + _TOGETHER, numbers.stop)):
                at = _SIZE.size + SUM * number
                parts += (records.path(number)[cut:], b"\0", sums[at : at + SUM])
            yield b"".join(parts)

    def find(self, status: os.stat_result) -> tuple[bytes, bool] | None:
        if self._digests is None:
            path = self.directory / DIGESTS
            if not path.exists():
                aside = path.with_name(f"{DIGESTS}.{secrets.token_hex(8)}")
                listing.write_digests(self.directory / INDEX, aside)
                aside.rename(path)
            self._digests = listing.Digests(path)
        return self._digests.find(status)

    def close(self) -> None:
        if self._digests is not None:
            self._digests.close()


def mapped(path: Path) -> mmap.mmap | bytes:
    """Of a file that nobody changes."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def hand_on(base: Path, new: Path) -> None:
    """What was packed of one generation, to one that begins with its files."""
    for path in base.glob(f"{PACKED}*"):
        with contextlib.suppress(FileExistsError):
            os.link(path, new / path.name)

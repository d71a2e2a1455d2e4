"""A streaming tar reader that believes nothing.

Reads ustar, pre-POSIX, GNU (long names, base-256 numbers, sparse) and pax archives, as Go's archive/tar
does for Docker. Python's tarfile is not used because it costs about five times as much per entry, seeks,
guesses where it should refuse, and keeps every member it has seen.

    reader = TarReader(stream)
    for entry in reader:
        if entry.name == "manifest.json":
            manifest = reader.read(limit=1 << 20)

The data of an entry that nobody asks for is skipped. Anything malformed raises DataCorrupted naming the
entry. An archive may end without its two zero blocks, but only between entries. Global pax headers are
skipped, as Docker does: nothing that makes layers uses them for more than a comment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from storage.archive import sparse
from storage.archive.format import (
    BLOCK,
    GNU_MAGIC,
    NANOSECONDS,
    TYPES,
    USTAR_MAGIC,
    XATTR_PREFIX,
    ZERO_BLOCK,
    Entry,
    EntryType,
    bound_time,
    check_id,
    checksum_matches,
    parse_number,
    parse_records,
    parse_text,
    parse_time,
)
from storage.disk import write_all
from storage.errors import DataCorrupted
from storage.streams import Readable

_CHUNK = 256 << 10
_MAX_SIZE = 1 << 63

_NUL_FREE = frozenset({"path", "linkpath", "uname", "gname"})


@dataclass(slots=True)
class _Extensions:
    """What the headers in front of an entry's own said about it."""

    records: list[tuple[str, bytes]] = field(default_factory=list)
    name: str | None = None
    linkname: str | None = None


class TarReader:
    """Iterates entries; the data of the current one comes by read, chunks or copy_to, once."""

    def __init__(self, stream: Readable, *, max_header: int = 1 << 20) -> None:
        self._stream = stream
        self._max_header = max_header
        self._buffer = b""
        self._at = 0
        self._left = 0
        """Bytes of the current entry's data not yet read."""
        self._padding = 0
        self._layout: sparse.Layout | None = None
        self._name = ""
        self._ended = False

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> Entry | None:
        """The next entry, or None at the archive's end."""
        if self._ended:
            return None
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        self._layout = None
        extensions: _Extensions | None = None
        while (block := self._header()) is not None:
            flag = block[156:157]
            if flag in b"xgLK":
                extensions = extensions or _Extensions()
                self._extend(extensions, flag, block)
            elif flag == b"V":  # a GNU volume's label
                self._skip(_padded(self._number(block[124:136], "size")))
            else:
                return self._entry(block, extensions)
        if extensions is not None and (extensions.records or extensions.name or extensions.linkname):
            raise self.corrupted("ends after an extended header")
        self._ended = True
        return None

    def read(self, limit: int) -> bytes:
        """The current entry's whole data. DataCorrupted when it is longer than `limit`."""
        size = self._layout.size if self._layout else self._left
        if size > limit:
            raise self.corrupted(f"is {size} bytes long, more than the {limit} allowed")
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The current entry's data in pieces, holes as zeros."""
        if self._layout is None:
            yield from self._stored(self._left)
            return
        at = 0
        for segment in self._layout.segments:
            yield from _zeros(segment.offset - at)
            yield from self._stored(segment.length)
            at = segment.offset + segment.length
        yield from _zeros(self._layout.size - at)

    def copy_to(self, fd: int) -> None:
        """Writes the current entry's data to a file just made, holes as holes."""
        if self._layout is None:
            if self._left <= len(self._buffer) - self._at:  # a small file, already here: the usual case
                end = self._at + self._left
                if end > self._at:
                    write_all(fd, self._buffer[self._at : end])
                self._at, self._left = end, 0
                return
            for data in self._stored(self._left):
                write_all(fd, data)
            return
        os.ftruncate(fd, self._layout.size)
        for segment in self._layout.segments:
            os.lseek(fd, segment.offset, os.SEEK_SET)
            for data in self._stored(segment.length):
                write_all(fd, data)

    def drain(self) -> int:
        """Reads what follows the archive (padding to a record): whoever hashes the stream wants to see it."""
        extra = len(self._buffer) - self._at
        self._buffer, self._at = b"", 0
        while data := self._stream.read(_CHUNK):
            extra += len(data)
        return extra

    def corrupted(self, why: str) -> DataCorrupted:
        """An error about the entry at hand, to be raised."""
        return DataCorrupted(f"archive entry {self._name!r} {why}")

    # Bytes

    def _take(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        end = self._at + size
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        data = self._buffer[self._at :]
        self._at = len(self._buffer)
        parts = [data]
        missing = size - len(data)
        while missing:
            if not self._fill():
                raise self._truncated()
            part = self._buffer[:missing]
            self._at = len(part)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _fill(self) -> bool:
        """Replaces a used-up buffer; False at the end of the stream."""
        self._buffer = self._stream.read(_CHUNK)
        self._at = 0
        return bool(self._buffer)

    def _stored(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes of the current entry's data, in pieces as they come."""
        while size:
            if self._at == len(self._buffer) and not self._fill():
                raise self._truncated()
            data = self._buffer[self._at : self._at + size]
            self._at += len(data)
            self._left -= len(data)
            size -= len(data)
            yield data

    def _skip(self, size: int) -> None:
        while size:
            if self._at == len(self._buffer) and not self._fill():
                raise self._truncated()
            step = min(size, len(self._buffer) - self._at)
            self._at += step
            size -= step

    def _truncated(self) -> DataCorrupted:
        return DataCorrupted(f"unexpected end of archive in or after entry {self._name!r}")

    # Headers

    def _header(self) -> bytes | None:
        """The next header block, its checksum right; None at the end of the archive."""
        if self._at == len(self._buffer) and not self._fill():
            return None
        block = self._take(BLOCK)
        if block == ZERO_BLOCK:
            if self._at == len(self._buffer) and not self._fill():
                return None
            if self._take(BLOCK) != ZERO_BLOCK:
                raise DataCorrupted(f"archive has a lone zero block after entry {self._name!r}")
            return None
        if not checksum_matches(block):
            raise DataCorrupted(f"archive header after entry {self._name!r} has a wrong checksum")
        return block

    def _number(self, field_: bytes, what: str) -> int:
        try:
            value = parse_number(field_)
        except ValueError as error:
            raise self.corrupted(f"has an invalid {what}: {error}") from None
        if what != "mtime" and not 0 <= value < _MAX_SIZE:
            raise self.corrupted(f"has an invalid {what}: {value}")
        return value

    def _extend(self, extensions: _Extensions, flag: bytes, block: bytes) -> None:
        """Reads one pax or GNU header that speaks about the next entry."""
        self._name = parse_text(block[:100])
        size = self._number(block[124:136], "size")
        if size > self._max_header:
            raise self.corrupted(f"is an extended header of {size} bytes; {self._max_header} are allowed")
        data = self._take(_padded(size))[:size]
        if flag == b"L":
            extensions.name = self._name = parse_text(data)
        elif flag == b"K":
            extensions.linkname = parse_text(data)
        else:
            try:
                records = parse_records(data)
            except ValueError as error:
                raise self.corrupted(f"is damaged: {error}") from None
            if flag == b"x":
                extensions.records = records

    def _entry(self, block: bytes, extensions: _Extensions | None) -> Entry:
        self._name = name = self._ustar_name(block)
        linkname = parse_text(block[157:257])
        entry = Entry(
            name=name,
            mode=self._number(block[100:108], "mode") & 0o7777,
            uid=self._number(block[108:116], "uid"),
            gid=self._number(block[116:124], "gid"),
            size=self._number(block[124:136], "size"),
            mtime=bound_time(self._number(block[136:148], "mtime") * NANOSECONDS),
            linkname=linkname,
        )
        if extensions is not None:
            self._apply(entry, extensions)
        self._set_type(entry, block)
        try:
            check_id(entry.uid)
            check_id(entry.gid)
            self._begin_data(entry, block, extensions)
        except ValueError as error:
            raise self.corrupted(f"is damaged: {error}") from None
        return entry

    @staticmethod
    def _ustar_name(block: bytes) -> str:
        name = parse_text(block[:100])
        if block[257:263] == USTAR_MAGIC and block[345]:
            width = 131 if block[508:512] == b"tar\0" else 155  # star keeps times behind a shorter prefix
            return f"{parse_text(block[345 : 345 + width])}/{name}"
        return name

    def _apply(self, entry: Entry, extensions: _Extensions) -> None:
        """Pax records, then GNU long names, override the header (the order is Go's)."""
        xattrs: dict[str, bytes] = {}
        sparse_name: bytes | None = None
        try:
            for key, value in extensions.records:
                if key.startswith(XATTR_PREFIX):
                    xattrs[key[len(XATTR_PREFIX) :]] = value
                elif key == "GNU.sparse.name":
                    sparse_name = value
                elif value:
                    _override(entry, key, value)
            if sparse_name:  # what "path" holds is then a name for readers that don't know sparse files
                _override(entry, "path", sparse_name)
        except ValueError as error:
            raise self.corrupted(f"has a damaged pax record: {error}") from None
        entry.xattrs = xattrs
        if extensions.name:
            entry.name = extensions.name
        if extensions.linkname:
            entry.linkname = extensions.linkname
        self._name = entry.name

    def _set_type(self, entry: Entry, block: bytes) -> None:
        flag = block[156:157]
        kind = TYPES.get(flag)
        if kind is None:
            raise self.corrupted(f"is of an unknown type {flag!r}")
        if kind is EntryType.REGULAR and flag == b"\0" and entry.name.endswith("/"):
            kind = EntryType.DIRECTORY  # before POSIX there was no type for them
        elif kind in (EntryType.CHARACTER, EntryType.BLOCK):
            major, minor = self._number(block[329:337], "device"), self._number(block[337:345], "device")
            if major >= 1 << 12 or minor >= 1 << 20:  # the kernel's dev_t
                raise self.corrupted(f"has an invalid device: {major}, {minor}")
            entry.device = os.makedev(major, minor)
        entry.type = kind

    def _begin_data(self, entry: Entry, block: bytes, extensions: _Extensions | None) -> None:
        """Notes how much data follows. Only regular files have any, whatever the header's size (as in Go)."""
        if entry.type is not EntryType.REGULAR:
            entry.size = 0
            return
        stored = self._left = entry.size
        if block[156:157] == b"S" and block[257:263] == GNU_MAGIC:
            self._layout = sparse.from_gnu_header(block, stored, self._take)
        elif extensions is not None and extensions.records:
            found = sparse.from_pax(extensions.records, stored, self._take)
            if found is not None:
                self._layout, used = found
                self._left -= used
        if self._layout is not None:
            entry.size = self._layout.size
        self._padding = -stored % BLOCK


def _override(entry: Entry, key: str, value: bytes) -> None:
    if key in _NUL_FREE and b"\0" in value:
        raise ValueError(f"{key} holds a NUL")
    match key:
        case "path":
            entry.name = os.fsdecode(value)
        case "linkpath":
            entry.linkname = os.fsdecode(value)
        case "size":
            entry.size = _decimal(key, value)
        case "uid":
            entry.uid = _decimal(key, value)
        case "gid":
            entry.gid = _decimal(key, value)
        case "mtime":
            entry.mtime = parse_time(value.decode("ascii", "replace"))


def _decimal(key: str, value: bytes) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) >= _MAX_SIZE:
        raise ValueError(f"{key} is {value[:40]!r}")
    return int(value)


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _zeros(size: int) -> Iterator[bytes]:
    zeros = bytes(min(size, _CHUNK))
    while size > 0:
        yield zeros[:size]
        size -= len(zeros)

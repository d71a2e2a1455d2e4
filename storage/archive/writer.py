"""A streaming tar writer whose bytes depend on what is written alone.

ustar where the values fit, a pax header in front where they don't: names over 100 bytes that can't be
split at a slash into 155 and 100, numbers beyond their octal fields, extended attributes, fractions of
seconds. Names stand in pax records as the bytes they are, which POSIX leaves to hdrcharset and everybody
accepts.
"""

from __future__ import annotations

import os

from storage.archive.format import (
    BLOCK,
    NANOSECONDS,
    XATTR_PREFIX,
    ZERO_BLOCK,
    Entry,
    EntryType,
    format_record,
)
from storage.errors import InvalidArgument
from storage.streams import Writable

_MAX_OCTAL_11 = 0o77777777777


class TarWriter:
    """Writes entries one after the other to `out`; each header is followed by exactly its size of data."""

    def __init__(self, out: Writable, *, nanoseconds: bool = False) -> None:
        self._out = out
        self._nanoseconds = nanoseconds
        self._left = 0
        self._padding = 0

    def header(self, entry: Entry) -> None:
        """The header alone; `entry.size` bytes of data must follow by write()."""
        if self._left:
            raise InvalidArgument(f"{self._left} bytes of the entry before {entry.name!r} are missing")
        size = entry.size if entry.type is EntryType.REGULAR else 0
        records: list[bytes] = []
        block = self._block(entry, size, records)
        if records:
            data = b"".join(sorted(records))
            # The name is for readers that don't know pax and unpack this as a file.
            extended = Entry("PaxHeaders.0/" + entry.name.rpartition("/")[2][:80], size=len(data))
            head = self._block(extended, len(data), [], flag=b"x")
            self._out.write(head + data + bytes(-len(data) % BLOCK))
        self._out.write(block)
        self._left = size
        self._padding = -size % BLOCK

    def write(self, data: bytes | memoryview) -> None:
        """Data of the current entry; padding follows when it is complete."""
        if len(data) > self._left:
            raise InvalidArgument(f"{len(data) - self._left} bytes too many for an archive entry")
        self._out.write(data)
        self._left -= len(data)
        if not self._left and self._padding:
            self._out.write(bytes(self._padding))
            self._padding = 0

    def file(self, name: str, data: bytes, *, mode: int = 0o644, mtime: int = 0) -> None:
        """A small regular file in one call (manifest.json ...); `mtime` in nanoseconds."""
        self.header(Entry(name, mode=mode, mtime=mtime, size=len(data)))
        self.write(data)

    def directory(self, name: str, *, mode: int = 0o755, mtime: int = 0) -> None:
        self.header(Entry(name, EntryType.DIRECTORY, mode=mode, mtime=mtime))

    def close(self) -> None:
        """The two zero blocks that end an archive; does not close `out`."""
        if self._left:
            raise InvalidArgument(f"{self._left} bytes of the last entry are missing")
        self._out.write(ZERO_BLOCK + ZERO_BLOCK)

    def _block(self, entry: Entry, size: int, records: list[bytes], flag: bytes | None = None) -> bytes:
        """The ustar block; what it can't hold is added to `records`."""
        name = entry.name
        if entry.type is EntryType.DIRECTORY and not name.endswith("/"):
            name += "/"
        base, prefix = self._split(os.fsencode(name), records)
        seconds, fraction = divmod(entry.mtime, NANOSECONDS)
        if self._nanoseconds and fraction and flag is None:
            records.append(format_record("mtime", f"{seconds}.{fraction:09}".rstrip("0").encode()))
            if seconds < 0:
                records[-1] = format_record("mtime", _negative(entry.mtime))
        elif not 0 <= seconds <= _MAX_OCTAL_11:
            records.append(format_record("mtime", str(seconds).encode()))
        for key, value in entry.xattrs.items():
            records.append(format_record(XATTR_PREFIX + key, value))
        link = os.fsencode(entry.linkname)
        if len(link) > 100:
            records.append(format_record("linkpath", link))
        device = entry.device if entry.type in (EntryType.CHARACTER, EntryType.BLOCK) else 0
        block = bytearray(BLOCK)
        block[0:100] = base.ljust(100, b"\0")
        block[100:108] = b"%07o\0" % entry.mode
        block[108:116] = _octal(entry.uid, 7, "uid", records)
        block[116:124] = _octal(entry.gid, 7, "gid", records)
        block[124:136] = _octal(size, 11, "size", records)
        block[136:148] = b"%011o\0" % min(max(seconds, 0), _MAX_OCTAL_11)
        block[148:156] = b"        "
        block[156:157] = flag or entry.type.value
        block[157:257] = link[:100].ljust(100, b"\0")
        block[257:265] = b"ustar\00000"
        block[329:337] = b"%07o\0" % os.major(device)
        block[337:345] = b"%07o\0" % os.minor(device)
        block[345:500] = prefix.ljust(155, b"\0")
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    @staticmethod
    def _split(name: bytes, records: list[bytes]) -> tuple[bytes, bytes]:
        """(name, prefix) fields; a name that fits neither way goes into a record and is cut here."""
        if len(name) <= 100:
            return name, b""
        cut = name.rfind(b"/", 0, 156)
        if cut > 0 and 0 < len(name) - cut - 1 <= 100:
            return name[cut + 1 :], name[:cut]
        records.append(format_record("path", name))
        return name[:100], b""


def _octal(value: int, digits: int, key: str, records: list[bytes]) -> bytes:
    if 0 <= value < 8**digits:
        return b"%0*o\0" % (digits, value)
    records.append(format_record(key, str(value).encode()))
    return b"0" * digits + b"\0"


def _negative(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(-nanoseconds, NANOSECONDS)
    return f"-{seconds}.{fraction:09}".rstrip("0").encode()

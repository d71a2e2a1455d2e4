"""The tar format's fields, both ways: where they stand in a header block and how numbers are spelled.

Sources: POSIX.1-2017 pax(1), "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format" and
"Storing Sparse Files"; where they leave room, what Go's archive/tar accepts, since that is what Docker
reads with.

     0 name 100     100 mode 8           108 uid 8       116 gid 8      124 size 12    136 mtime 12
   148 checksum 8   156 type 1           157 linkname 100               257 magic 6    263 version 2
   265 uname 32     297 gname 32         329 major 8     337 minor 8    345 prefix 155
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
NANOSECONDS = 1_000_000_000

USTAR_MAGIC = b"ustar\0"
GNU_MAGIC = b"ustar "

XATTR_PREFIX = "SCHILY.xattr."

_MAX_SECONDS = (1 << 63) // NANOSECONDS - 1
_MIN_SECONDS = -(1 << 31)
_MAX_ID = (1 << 32) - 2  # the last one, -1, means "leave as it is" to chown(2)

_DECIMAL_TIME = re.compile(r"(-?)(\d{1,20})(?:\.(\d*))?")


class EntryType(Enum):
    """What an entry makes; values are the type flags that TarWriter uses."""

    REGULAR = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


TYPES = {kind.value: kind for kind in EntryType} | {
    b"\0": EntryType.REGULAR,  # before POSIX
    b"7": EntryType.REGULAR,  # "contiguous": a hint for file systems that are long gone
    b"S": EntryType.REGULAR,  # GNU sparse
}


@dataclass(slots=True)
class Entry:
    """One archive member.

    Names are as in the archive (text with surrogateescape), not yet trusted in any way. `mode` is the
    permission bits only; `mtime` nanoseconds since 1970; `device` as os.makedev makes it.
    """

    name: str
    type: EntryType = EntryType.REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    linkname: str = ""
    device: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def parse_number(field_: bytes) -> int:
    """Octal text, or GNU's base-256 when the top bit is set. ValueError for anything else."""
    text = field_.strip(b" \0")
    if text.isdigit():
        return int(text, 8)
    if not text:
        return 0
    if field_[0] & 0x80:
        negative = field_[0] & 0x40
        value = int.from_bytes(field_) & ((1 << (8 * len(field_) - 1)) - 1)
        return value - (1 << (8 * len(field_) - 1)) if negative else value
    text = text.partition(b"\0")[0].rstrip(b" ")
    if not text.isdigit():
        raise ValueError(f"{field_!r} is not an octal number")
    return int(text, 8)


def parse_text(field_: bytes) -> str:
    """Up to the first NUL."""
    return os.fsdecode(field_.partition(b"\0")[0])


def parse_time(text: str) -> int:
    """A pax time ("1350244992.023960108") in nanoseconds; further digits are dropped. ValueError."""
    match = _DECIMAL_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time")
    value = int(match[2]) * NANOSECONDS + int((match[3] or "")[:9].ljust(9, "0"))
    return bound_time(-value if match[1] else value)


def bound_time(nanoseconds: int) -> int:
    """1970 for what no file system can hold, as Docker's unpacking has it."""
    return nanoseconds if _MIN_SECONDS <= nanoseconds // NANOSECONDS <= _MAX_SECONDS else 0


def check_id(value: int) -> int:
    if not 0 <= value <= _MAX_ID:
        raise ValueError(f"{value} is no user or group ID")
    return value


def parse_records(data: bytes) -> list[tuple[str, bytes]]:
    """The records of a pax header, in order, each "LENGTH KEY=VALUE\\n". ValueError."""
    records = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise ValueError("pax record without length")
        end = at + int(digits)
        if not space < end - 1 < len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("pax record of a wrong length")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise ValueError("pax record without key")
        records.append((os.fsdecode(key), value))
        at = end
    return records


def format_record(key: str, value: bytes) -> bytes:
    """One pax record; its length counts its own digits."""
    rest = b" " + os.fsencode(key) + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if length != len(rest) + len(str(length)):
        length += 1
    return str(length).encode() + rest


def checksum_matches(block: bytes) -> bool:
    """POSIX sums unsigned bytes; historic writers summed signed ones. The field itself counts as spaces."""
    try:
        wanted = parse_number(block[148:156])
    except ValueError:
        return False
    others = block[:148] + block[156:]
    unsigned = sum(others) + 8 * 0x20
    if unsigned == wanted:
        return True
    return unsigned - 256 * sum(1 for byte in others if byte >= 0x80) == wanted

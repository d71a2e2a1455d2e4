"""Sparse files in tar: GNU's old header and the three pax spellings (GNU tar manual, "Storing Sparse Files").

    old GNU   type S: four (offset, length) pairs in the header, then blocks of 21 while a flag says so
    pax 0.0   GNU.sparse.offset / GNU.sparse.numbytes records, repeated
    pax 0.1   GNU.sparse.map = "offset,length,..."
    pax 1.0   GNU.sparse.major/minor = 1/0; the map as decimal lines in front of the data, padded to a block

All end as a `Layout`: the file's size and the pieces whose data the archive holds, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from storage.archive.format import BLOCK, parse_number

_MAX_SEGMENTS = 1 << 20


class Segment(NamedTuple):
    offset: int
    length: int


class Layout(NamedTuple):
    """Where stored data lies in a file of `size` bytes; the rest are holes."""

    size: int
    segments: tuple[Segment, ...]


Take = Callable[[int], bytes]
"""Reads exactly n bytes of the archive."""


def from_gnu_header(block: bytes, stored: int, take: Take) -> Layout:
    """Reads the extension blocks too. ValueError when the map makes no sense."""
    size = parse_number(block[483:495])
    segments = _pairs(block[386:482])
    more = block[482]
    while more:
        block = take(BLOCK)
        segments += _pairs(block[:504])
        more = block[504]
        if len(segments) > _MAX_SEGMENTS:
            raise ValueError("sparse map too long")
    return _checked(size, segments, stored)


def _pairs(data: bytes) -> list[Segment]:
    found = []
    for at in range(0, len(data) - 23, 24):
        if data[at] == 0:
            break
        found.append(Segment(parse_number(data[at : at + 12]), parse_number(data[at + 12 : at + 24])))
    return found


def from_pax(records: list[tuple[str, bytes]], stored: int, take: Take) -> tuple[Layout, int] | None:
    """The layout and how many bytes in front of the data its map took; None when the file is not sparse."""
    values = dict(records)
    if values.get("GNU.sparse.major") == b"1" and values.get("GNU.sparse.minor") == b"0":
        size = _decimal(values.get("GNU.sparse.realsize", b""))
        segments, used = _map_in_data(stored, take)
        return _checked(size, segments, stored - used), used
    if "GNU.sparse.map" in values:
        numbers = [_decimal(text) for text in values["GNU.sparse.map"].split(b",") if text]
    elif "GNU.sparse.numblocks" in values:
        numbers = [_decimal(v) for k, v in records if k in ("GNU.sparse.offset", "GNU.sparse.numbytes")]
    else:
        return None
    size = _decimal(values.get("GNU.sparse.size", b""))
    return _checked(size, _paired(numbers), stored), 0


def _map_in_data(stored: int, take: Take) -> tuple[list[Segment], int]:
    data = b""
    used = 0
    wanted: int | None = None
    while wanted is None or data.count(b"\n") < wanted:
        if used + BLOCK > stored + BLOCK - 1 or used > 32 * _MAX_SEGMENTS:
            raise ValueError("sparse map longer than its entry")
        data += take(BLOCK)
        used += BLOCK
        if wanted is None and b"\n" in data:
            count = _decimal(data.partition(b"\n")[0])
            if count > _MAX_SEGMENTS:
                raise ValueError("sparse map too long")
            wanted = 1 + 2 * count
    return _paired([_decimal(line) for line in data.split(b"\n")[1:wanted]]), used


def _paired(numbers: list[int]) -> list[Segment]:
    if len(numbers) % 2:
        raise ValueError("sparse map of odd length")
    return [Segment(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    return int(text)


def _checked(size: int, segments: list[Segment], stored: int) -> Layout:
    """Segments ascend, don't overlap, lie within the file, and hold exactly what is stored."""
    end = 0
    for segment in segments:
        if segment.offset < end or segment.length < 0:
            raise ValueError("sparse map out of order")
        end = segment.offset + segment.length
    if not end <= size < 1 << 63 or sum(segment.length for segment in segments) != stored:
        raise ValueError("sparse map does not fit its file")
    return Layout(size, tuple(segments))

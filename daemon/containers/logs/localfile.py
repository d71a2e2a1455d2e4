"""Docker's `local` format: protobuf LogEntry records between their 4-byte big-endian sizes.

LogEntry   1 source  2 time_nano  3 line  4 partial  5 partial_log_metadata  6 attrs
(moby api/types/plugins/logdriver/entry.proto)
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.clock import rfc3339
from daemon.containers.logs.entry import Entry

_HEADER = 4
LONGEST = 1 << 20
"""More than a record has: a line's piece of 16 KiB and its attributes."""


class LocalFormat:
    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        records, position = [], 0
        while position + _HEADER <= len(data):
            size = int.from_bytes(data[position : position + _HEADER], "big")
            end = position + size + 2 * _HEADER
            if end > len(data):
                break
            records.append(data[position + _HEADER : end - _HEADER])
            position = end
        return records, data[position:]

    def last(self, data: bytes, *, whole: bool) -> tuple[list[bytes], bytes] | None:
        """From size to size backwards, as long as those before and behind a record agree."""
        records: list[bytes] = []
        end = len(data)
        while end >= 2 * _HEADER:
            size = data[end - _HEADER : end]
            start = end - int.from_bytes(size, "big") - 2 * _HEADER
            if start < 0:
                break
            if data[start : start + _HEADER] != size:
                return None
            records.append(data[start + _HEADER : end - _HEADER])
            end = start
        if end and (whole or (not records and len(data) > LONGEST)):
            return None
        records.reverse()
        return records, b""

    def parse(self, record: bytes) -> Entry | None:
        source, time, line, last, attrs = "", 0, b"", True, {}
        try:
            for number, value in _fields(record):
                if number == 1 and isinstance(value, bytes):
                    source = value.decode()
                elif number == 2 and isinstance(value, int):
                    time = value
                elif number == 3 and isinstance(value, bytes):
                    line = value
                elif number == 5 and isinstance(value, bytes):
                    last = any(n == 1 and v == 1 for n, v in _fields(value))
                elif number == 6 and isinstance(value, bytes):
                    pair = dict(_fields(value))
                    attrs[_text(pair.get(1))] = _text(pair.get(2))
        except (IndexError, ValueError):
            return None
        return Entry(source, rfc3339(time), line + b"\n" if last else line, attrs)


def _text(value: int | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Protobuf wire format: varints (type 0) and length-delimited fields (type 2)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        value, position = _varint(data, position)
        if key & 7 == 2:
            end = position + value
            yield key >> 3, data[position:end]
            position = end
        elif key & 7 == 0:
            yield key >> 3, value
        else:
            raise ValueError(f"unexpected wire type {key & 7}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7

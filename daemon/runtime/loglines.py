"""From a stream of bytes to log entries: cutting into lines, and the encodings of Docker's log files.

Model
    A *run* is one or more whole lines, each with its newline. A *piece* is LIMIT bytes of a longer line:
    Docker's copier (moby daemon/logger/copier.go) has a buffer of 16 KiB and logs what is in it when it
    is full and holds no newline. Pieces have no newline in the log but the last one, and carry the time
    of the first. The *carry* is the beginning of a line whose end has not come yet.

    `Lines.feed(chunk)` gives the bytes to append to the log file. Whole runs are encoded by a handful of
    passes in C (bytes.replace), not line by line: that, and one time stamp per chunk, is what makes
    millions of lines a second possible.

Encodings
    JsonEncoder    one JSON object a line, exactly as moby's jsonlog writes it: HTML characters and
                   U+2028/2029 escaped, invalid UTF-8 as \\ufffd, control characters as \\u00XX.
    LocalEncoder   the `local` driver: protobuf LogEntry between two big-endian lengths
                   (moby daemon/logger/internal/logdriver/entry.proto).
"""

from __future__ import annotations

import codecs
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Encoder(Protocol):
        def run(self, lines: bytes, now: int) -> bytes:
            """Entries of whole lines, each ending in a newline."""

        def piece(self, data: bytes, partial: Partial, *, last: bool) -> bytes:
            """One entry of a line that was cut; the last piece ends in a newline."""

        def boundary(self, batch: bytes, position: int) -> int:
            """Where the entry ends that the byte at `position` of a batch belongs to."""


LIMIT = 16 << 10


class Partial:
    """A cut line's identity: when its first piece was logged, how many were."""

    __slots__ = ("ident", "ordinal", "time")

    def __init__(self, now: int) -> None:
        self.time = now
        self.ordinal = 0
        self.ident = os.urandom(32).hex()


def segments(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Cuts `data`, which begins at the start of a line or piece: (run, True), (piece, False), ...

    What follows the last of them is the carry: less than LIMIT bytes without a newline."""
    start = run = 0
    size = len(data)
    while size - start >= LIMIT:
        cut = data.rfind(b"\n", start, start + LIMIT) + 1
        if cut:
            start = cut
            continue
        if start > run:
            yield data[run:start], True
        yield data[start : start + LIMIT], False
        start += LIMIT
        run = start
    start = data.rfind(b"\n", start) + 1 or start
    if start > run:
        yield data[run:start], True


class Lines:
    """One stream of one process on its way into a log."""

    __slots__ = ("_encoder", "carry", "partial")

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.carry = b""
        self.partial: Partial | None = None

    def feed(self, chunk: bytes, now: int) -> bytes:
        """Entries for all lines that are whole now; the rest is carried."""
        data = self.carry + chunk if self.carry else chunk
        entries = []
        used = 0
        for part, whole in segments(data):
            used += len(part)
            entries.append(self._lines(part, now) if whole else self._piece(part, now))
        self.carry = data[used:] if used else data
        return entries[0] if len(entries) == 1 else b"".join(entries)

    def finish(self, now: int) -> bytes:
        """The stream ended: a last line without newline is logged as it is."""
        rest, self.carry = self.carry, b""
        return self._piece(rest, now) if rest else b""

    def _lines(self, run: bytes, now: int) -> bytes:
        partial = self.partial
        if partial is None:
            return self._encoder.run(run, now)
        self.partial = None
        end = run.index(b"\n") + 1
        partial.ordinal += 1
        tail = self._encoder.piece(run[:end], partial, last=True)
        return tail + self._encoder.run(run[end:], now) if end < len(run) else tail

    def _piece(self, piece: bytes, now: int) -> bytes:
        if self.partial is None:
            self.partial = Partial(now)
        self.partial.ordinal += 1
        return self._encoder.piece(piece, self.partial, last=False)


# -- json-file ---------------------------------------------------------------------------------------

_SPECIAL = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_CONTROL = bytes(code for code in range(32) if code != 10)
_CONTROLS = tuple((bytes([c]), b"\\r" if c == 13 else b"\\u%04x" % c) for c in _CONTROL)
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def _as_go_does(error: UnicodeError) -> tuple[str, int]:
    """Go decodes invalid UTF-8 byte by byte: one replacement each."""
    assert isinstance(error, UnicodeDecodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error("pyd-go", _as_go_does)


def escape(data: bytes) -> bytes:
    """`data` as the inside of a JSON string, but for newlines, which stay."""
    for old, new in _SPECIAL:
        data = data.replace(old, new)
    if len(data.translate(None, _CONTROL)) != len(data):
        for old, new in _CONTROLS:
            data = data.replace(old, new)
    if not data.isascii():
        data = data.decode("utf-8", "pyd-go").encode()
        for old, new in _SEPARATORS:
            data = data.replace(old, new)
    return data


_second = (-1, "")


def rfc3339(now: int) -> str:
    """Nanoseconds since the epoch as Go's RFC3339Nano in UTC: trailing zeros of the fraction are cut."""
    global _second
    seconds, fraction = divmod(now, 1_000_000_000)
    if _second[0] != seconds:
        _second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    return f"{_second[1]}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


class JsonEncoder:
    """`{"log":"text\\n","stream":"stdout","attrs":{...},"time":"..."}`"""

    __slots__ = ("_middle",)

    def __init__(self, stream: str, attributes: dict[str, str]) -> None:
        middle = f'","stream":"{stream}"'
        if attributes:
            text = json.dumps(dict(sorted(attributes.items())), ensure_ascii=False, separators=(",", ":"))
            for character in "<>&\u2028\u2029":
                text = text.replace(character, f"\\u{ord(character):04x}")
            middle += f',"attrs":{text}'
        self._middle = middle.encode("utf-8", "replace") + b',"time":"'

    def run(self, lines: bytes, now: int) -> bytes:
        end = b"\\n" + self._middle + rfc3339(now).encode() + b'"}\n'
        return b'{"log":"' + escape(lines[:-1]).replace(b"\n", end + b'{"log":"') + end

    def piece(self, data: bytes, partial: Partial, *, last: bool) -> bytes:
        text = escape(data[:-1]) + b"\\n" if last else escape(data)
        return b'{"log":"' + text + self._middle + rfc3339(partial.time).encode() + b'"}\n'

    @staticmethod
    def boundary(batch: bytes, position: int) -> int:
        return batch.index(b"\n", position) + 1


# -- local -------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data if data else b""


class LocalEncoder:
    """LogEntry records; lines carry no newline. Empty fields are left out, as proto3 does."""

    __slots__ = ("_attributes", "_source")

    def __init__(self, stream: str, attributes: dict[str, str]) -> None:
        self._source = _field(1, stream.encode())
        pairs = sorted((key.encode(), value.encode("utf-8", "replace")) for key, value in attributes.items())
        self._attributes = b"".join(_field(6, _field(1, key) + _field(2, value)) for key, value in pairs)

    def run(self, lines: bytes, now: int) -> bytes:
        head, tail = self._source + b"\x10" + varint(now), self._attributes
        out: list[bytes] = []
        for line in lines[:-1].split(b"\n"):
            entry = b"%b%b%b" % (head, _field(3, line), tail)
            size = len(entry).to_bytes(4, "big")
            out += (size, entry, size)
        return b"".join(out)

    def piece(self, data: bytes, partial: Partial, *, last: bool) -> bytes:
        meta = (b"\x08\x01" if last else b"") + _field(2, partial.ident.encode()) + b"\x18"
        meta += varint(partial.ordinal)
        entry = self._source + b"\x10" + varint(partial.time) + _field(3, data[:-1] if last else data)
        entry += b"\x20\x01" + _field(5, meta) + self._attributes
        size = len(entry).to_bytes(4, "big")
        return size + entry + size

    @staticmethod
    def boundary(batch: bytes, position: int) -> int:
        end = 0
        while end <= position:
            end += int.from_bytes(batch[end : end + 4], "big") + 8
        return end

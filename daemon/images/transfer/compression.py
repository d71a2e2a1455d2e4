"""Layers come compressed with gzip, zstd, bzip2 or xz, or not at all; the first bytes tell.

gzip goes through ISA-L (three to five times zlib's speed).
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from storage.errors import DataCorrupted
from storage.streams import Readable

MAGIC = {
    "gzip": b"\x1f\x8b\x08",
    "zstd": b"\x28\xb5\x2f\xfd",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
}
LONGEST_MAGIC = 6
WINDOW_LIMIT = 128 << 20
"""Memory a zstd frame may ask for; the reference decoder's own default limit."""
LEVEL = 1
"""ISA-L's level for layers that we compress ourselves: speed before size, as dockerd's BestSpeed."""


def sniff(head: bytes) -> str:
    """Name of the compression, or "none"."""
    if head[:4] in (bytes([0x50 + n, 0x2A, 0x4D, 0x18]) for n in range(16)):
        return "zstd"  # a skippable frame (RFC 8878 section 3.1.2)
    return next((name for name, magic in MAGIC.items() if head.startswith(magic)), "none")


class Pushback(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: Readable):
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._head:
            data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        else:
            data = self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def read_head(stream: Readable, size: int = LONGEST_MAGIC) -> bytes:
    head = b""
    while len(head) < size and (more := stream.read(size - len(head))):
        head += more
    return head


class Decompressed:
    """`read` gives the plain bytes; damage raises DataCorrupted.

    A zstd stream that ends early only looks like a short archive: the tar reader and the digests tell.
    """

    def __init__(self, stream: Readable):
        head = read_head(stream)
        self.compression = sniff(head)
        self._plain = _open(self.compression, cast(BinaryIO, Pushback(head, stream)))

    def read(self, size: int = 1 << 18, /) -> bytes:
        try:
            return self._plain.read(size)
        except EOFError:
            raise DataCorrupted("unexpected EOF") from None
        except OSError as error:
            if error.errno is None:  # gzip.BadGzipFile and bz2 raise OSError without a number
                raise DataCorrupted(f"{self.compression}: invalid data: {error}") from None
            raise
        except Exception as error:
            if type(error).__name__ in ("ZstdError", "LZMAError", "IsalError", "error"):
                raise DataCorrupted(f"{self.compression}: invalid data: {error}") from None
            raise


def _open(compression: str, stream: BinaryIO) -> Readable:
    match compression:
        case "gzip":
            from isal import igzip

            opened: Readable = igzip.IGzipFile(fileobj=stream, mode="rb")  # type: ignore[no-untyped-call]
            return opened
        case "zstd":
            import zstandard

            decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT)
            return cast(Readable, decoder.stream_reader(stream, read_across_frames=True))
        case "bzip2":
            import bz2

            return cast(Readable, bz2.BZ2File(stream))
        case "xz":
            import lzma

            return cast(Readable, lzma.LZMAFile(stream))
    return cast(Readable, stream)

"""A streaming tar reader (signatures; being filled)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Entry:
    """One archive member. Names are str with surrogateescape; mtime is nanoseconds."""

    name: str
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    linkname: str
    device: int
    xattrs: Mapping[str, bytes]


class TarReader:
    """Iterates entries of an uncompressed tar; the data of the current one by read() or copy_to()."""

    def __init__(self, stream: Any, *, max_header: int = 1 << 20) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Entry]:
        raise NotImplementedError

    def read(self, limit: int) -> bytes:
        """The current entry's whole data, DataCorrupted when longer than `limit` (manifest.json ...)."""
        raise NotImplementedError

    def chunks(self) -> Iterator[bytes]:
        """The current entry's data in pieces, for a blob inside `docker load`'s archive."""
        raise NotImplementedError

"""Blobs by digest (signatures; being filled)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class BlobWriter:
    """Receives one blob. Leaving the `with` block without commit() drops it."""

    def write(self, data: bytes | memoryview) -> int:
        """Takes all of `data`. DataCorrupted as soon as it exceeds the size announced; NoSpace."""
        raise NotImplementedError

    def tell(self) -> int:
        raise NotImplementedError

    def commit(self) -> str:
        """Makes the blob visible and durable; returns its digest. DataCorrupted when it is not the one expected."""
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()


class ContentStore:
    """blobs/sha256/<hex> beneath `root`; digests are "sha256:<hex>" (or sha512)."""

    def __init__(self, root: Path) -> None:
        raise NotImplementedError

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. InvalidArgument for what is no digest."""
        raise NotImplementedError

    def has(self, digest: str) -> bool:
        raise NotImplementedError

    def size(self, digest: str) -> int:
        """NotFound when there is no such blob (as for read and open)."""
        raise NotImplementedError

    def read(self, digest: str) -> bytes:
        """A small blob, verified again."""
        raise NotImplementedError

    def open(self, digest: str) -> BinaryIO:
        raise NotImplementedError

    def writer(self, expected: str | None = None, size: int | None = None) -> BlobWriter:
        raise NotImplementedError

    def add(self, data: bytes) -> str:
        """A small blob in one call (configs, manifests): returns its digest."""
        raise NotImplementedError

    def delete(self, digest: str) -> None:
        """Idempotent. Use gc for anything that may be shared."""
        raise NotImplementedError

    def walk(self) -> Iterator[tuple[str, int]]:
        """(digest, size) of every blob."""
        raise NotImplementedError

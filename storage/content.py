"""The content store: blobs named by the digest of what they hold.

    ROOT/blobs/sha256/<hex>     whole, verified, never changed
    ROOT/ingest/<random>        being written

A blob is hashed while it is written, compared with what was expected, fsynced, renamed into place and the
directory fsynced: a name under blobs/ therefore always holds what it says, whatever was killed when. What
a crash leaves in ingest/ belongs to nobody (a store has one process at a time) and goes when the store is
opened. Two writers of the same blob are no conflict: the second rename replaces equal bytes.

Keeping a blob from being collected is the business of leases: see gc.py.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from storage import disk, failpoints
from storage.errors import DataCorrupted, InvalidArgument, NotFound

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
"""The registered algorithms: OCI image specification, descriptor.md, "Registered Algorithms"."""

_DIGEST = re.compile(r"(sha256):[0-9a-f]{64}|(sha512):[0-9a-f]{128}")

_WRITEBACK = 8 << 20
"""How much is written before the kernel is asked to begin with the disk."""


def algorithm(digest: str) -> str:
    """The digest's algorithm. InvalidArgument unless ALGORITHM:LOWERCASE-HEX of its length."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidArgument(f"invalid digest {digest[:150]!r}")
    return match[1] or match[2]


class BlobWriter:
    """Receives one blob. Leaving the `with` block without commit() drops it."""

    def __init__(self, store: ContentStore, expected: str | None, size: int | None) -> None:
        self._algorithm = algorithm(expected) if expected else "sha256"
        self._store = store
        self._expected = expected
        self._size = size
        self._hash = hashlib.new(self._algorithm)
        self._written = 0
        self._started = 0
        self._path = store.ingest / secrets.token_hex(16)
        with disk.no_space(self._path):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes | memoryview) -> int:
        """Takes all of `data`. DataCorrupted as soon as it exceeds the size announced; NoSpace."""
        if self._size is not None and self._written + len(data) > self._size:
            raise DataCorrupted(f"{self._name} is longer than the {self._size} bytes announced")
        with disk.no_space(self._path):
            disk.write_all(self._fd, data)
        self._hash.update(data)
        self._written += len(data)
        if self._written - self._started >= _WRITEBACK:
            disk.start_writeback(self._fd, self._started, self._written - self._started)
            self._started = self._written
        return len(data)

    def tell(self) -> int:
        return self._written

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def commit(self) -> str:
        """Makes the blob visible and durable; returns its digest. DataCorrupted if it is another."""
        self._verify()
        target = self._store.path(self.digest)
        with disk.no_space(self._path):
            failpoints.hit("content.commit")
            os.fsync(self._fd)
            self._path.rename(target)
            os.close(self._fd)
            self._fd = -1
            disk.sync_directory(target.parent)
        failpoints.hit("content.committed")
        return self.digest

    def _verify(self) -> None:
        if self._size is not None and self._written != self._size:
            raise DataCorrupted(f"{self._name} has {self._written} bytes instead of {self._size}")
        if self._expected is not None and self.digest != self._expected:
            raise DataCorrupted(f"{self._name} does not match what was received: {self.digest}")

    @property
    def _name(self) -> str:
        return f"blob {self._expected}" if self._expected else "blob"

    def abort(self) -> None:
        """Drops what was written; nothing after commit()."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class ContentStore:
    """blobs/sha256/<hex> beneath `root`; digests are "sha256:<hex>" (or sha512)."""

    def __init__(self, root: Path) -> None:
        """Opens or creates the store, and removes what an earlier process left half-written."""
        self.root = root
        self.ingest = root / "ingest"
        self._blobs = root / "blobs"
        with disk.no_space(root):
            self.ingest.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in _HEX_LENGTH:
                (self._blobs / name).mkdir(parents=True, exist_ok=True)
        for left in self.ingest.iterdir():
            left.unlink()

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. InvalidArgument for what is no digest."""
        return Path(self._place(digest))

    def _place(self, digest: str) -> str:
        return f"{self._blobs}/{algorithm(digest)}/{digest.partition(':')[2]}"

    def has(self, digest: str) -> bool:
        return os.path.exists(self._place(digest))  # asked a hundred times in a build: no Path is made for it

    def size(self, digest: str) -> int:
        """NotFound when there is no such blob (as for read and open)."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def read(self, digest: str) -> bytes:
        """A small blob, verified again: what is decided upon (manifests, configs) is worth the hash."""
        with self.open(digest) as file:
            data = file.read()
        if hashlib.new(algorithm(digest), data).hexdigest() != digest.partition(":")[2]:
            raise DataCorrupted(f"blob {self.path(digest)} does not hold what its name says")
        return data

    def open(self, digest: str) -> BinaryIO:
        """For reading, unbuffered."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def writer(self, expected: str | None = None, size: int | None = None) -> BlobWriter:
        """Starts a blob; what isn't `expected`, or not of `size`, will not be committed."""
        return BlobWriter(self, expected, size)

    def add(self, data: bytes, expected: str | None = None) -> str:
        """A small blob in one call (configs, manifests); returns its digest."""
        with self.writer(expected, len(data)) as writer:
            writer.write(data)
            return writer.commit()

    def delete(self, digest: str) -> None:
        """Idempotent. What may be shared is deleted by gc.Collector only."""
        self.path(digest).unlink(missing_ok=True)

    def walk(self) -> Iterator[tuple[str, int]]:
        """(digest, size) of every blob."""
        for name in _HEX_LENGTH:
            with os.scandir(self._blobs / name) as entries:
                for entry in entries:
                    try:
                        yield f"{name}:{entry.name}", entry.stat(follow_symlinks=False).st_size
                    except OSError as error:
                        if error.errno != errno.ENOENT:  # deleted meanwhile
                            raise

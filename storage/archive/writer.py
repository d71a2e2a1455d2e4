"""A streaming tar writer (signatures; being filled)."""

from __future__ import annotations

from storage.archive.create import Writable
from storage.archive.reader import Entry


class TarWriter:
    """Writes entries one after the other: ustar where the values fit, pax where they don't."""

    def __init__(self, out: Writable) -> None:
        raise NotImplementedError

    def header(self, entry: Entry) -> None:
        """The header alone; `entry.size` bytes of data must follow by write()."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Data of the current entry; padding is added when it is complete."""
        raise NotImplementedError

    def file(self, name: str, data: bytes, *, mode: int = 0o644, mtime: int = 0) -> None:
        """A small regular file in one call (manifest.json ...)."""
        raise NotImplementedError

    def directory(self, name: str, *, mode: int = 0o755, mtime: int = 0) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """The two zero blocks that end an archive; does not close `out`."""
        raise NotImplementedError

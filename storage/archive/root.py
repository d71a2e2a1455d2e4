"""Paths resolved inside a root (signatures; being filled)."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType


class Root:
    """A directory that is "/" for every path given here: symlinks, `..` and absolute names stay beneath it."""

    def __init__(self, directory: int | Path) -> None:
        """A descriptor is duplicated, not taken over."""
        raise NotImplementedError

    def open(self, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
        """openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS; OSError as open(2)."""
        raise NotImplementedError

    def lstat(self, path: str) -> os.stat_result:
        raise NotImplementedError

    def realpath(self, path: str) -> str:
        """The absolute path inside the root that `path` means, links resolved; the last part may be missing."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Root:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

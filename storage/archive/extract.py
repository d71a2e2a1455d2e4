"""Tar into a directory, whoever wrote the tar (signatures; being filled)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


class Readable(Protocol):
    """Where archives come from: read(n) gives at most n bytes, and b"" only at the end."""

    def read(self, size: int, /) -> bytes: ...


class Whiteouts(StrEnum):
    OVERLAY = "overlay"
    """A layer: `.wh.x` becomes overlay's character device 0/0, `.wh..wh..opq` its opaque attribute."""
    APPLY = "apply"
    """A layer onto a plain tree: `.wh.x` removes x, unless this archive made it."""
    LITERAL = "literal"
    """Not a layer (docker cp, build contexts): `.wh.x` is a name like any other."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where an archive stops being believed; exceeding one raises DataCorrupted."""

    entries: int = 10_000_000
    size: int | None = None
    """Bytes of all files together."""
    header: int = 1 << 20
    """Bytes of one extended header (pax records, GNU long name)."""


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    whiteouts: Whiteouts = Whiteouts.OVERLAY
    owner: Callable[[int, int], tuple[int, int]] | None = None
    """(uid, gid) in the archive to (uid, gid) on disk: user-namespace maps, or a fixed owner."""
    devices: bool = True
    """False skips character and block devices, as a rootless engine must."""
    userxattr: bool = False
    """Overlay's attributes are user.overlay.* instead of trusted.overlay.* (rootless)."""
    no_overwrite_dir_non_dir: bool = False
    """Refuse to replace a directory by something else or the reverse (docker cp)."""
    limits: Limits = field(default_factory=Limits)


class Extracted(NamedTuple):
    """What was written: number of entries, and bytes of regular files."""

    entries: int
    size: int


def extract(
    stream: Readable, root: int | Path, options: ExtractOptions | None = None, *, into: str = "/"
) -> Extracted:
    """Unpacks an uncompressed tar beneath `into`, a directory inside `root`.

    `root` is a directory (path or descriptor, for example of /proc/PID/root); no entry's name, link or
    target reaches outside it. Raises DataCorrupted naming the offending entry (malformed, truncated,
    leaving the root, beyond a limit), NoSpace, InvalidArgument (`no_overwrite_dir_non_dir`). What was
    unpacked before the error stays: callers unpack into something they throw away, or say so.
    """
    raise NotImplementedError

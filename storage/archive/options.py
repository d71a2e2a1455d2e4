"""What callers may ask of extraction, creation and layers."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

WHITEOUT_PREFIX = ".wh."
WHITEOUT_META_PREFIX = ".wh..wh."
WHITEOUT_OPAQUE = ".wh..wh..opq"
"""OCI image specification, layer.md, "Whiteouts". Other `.wh..wh.` names are aufs's own and mean nothing."""

OwnerMap = Callable[[int, int], tuple[int, int]]
"""(uid, gid) to (uid, gid)."""


def is_whiteout(found: os.stat_result) -> bool:
    """How overlay marks what it hides (Documentation/filesystems/overlayfs.rst)."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(directory: str | int, attribute: str) -> bool:
    """Whether a directory hides what lower layers have in it."""
    try:
        return os.getxattr(directory, attribute, follow_symlinks=isinstance(directory, int)) == b"y"
    except OSError:  # no such attribute, or a file system without
        return False


def opaque_attribute(*, userxattr: bool) -> str:
    """user.overlay.* is for overlays mounted in a user namespace (option userxattr)."""
    return f"{'user' if userxattr else 'trusted'}.overlay.opaque"


class Whiteouts(StrEnum):
    OVERLAY = "overlay"
    """A layer by itself: `.wh.x` becomes a character device 0/0, `.wh..wh..opq` the opaque attribute."""
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
    """Bytes of one extended header (pax records, GNU long name); Go's reader has the same limit."""


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    whiteouts: Whiteouts = Whiteouts.OVERLAY
    owner: OwnerMap | None = None
    """(uid, gid) in the archive to (uid, gid) on disk: user-namespace maps, or a fixed owner."""
    unlisted: OwnerMap | None = None
    """The same for directories on the way that the archive does not list; None: as `owner` has root's."""
    chown: bool = True
    """False leaves everything to the caller's own user (rootless without maps)."""
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


@dataclass(frozen=True, slots=True)
class CreateOptions:
    owner: OwnerMap | None = None
    """(uid, gid) on disk to (uid, gid) in the archive."""
    select: Callable[[str], bool] | None = None
    """Called with each path relative to the top (`a/b`); False leaves it out, and all beneath it."""
    nanoseconds: bool = False
    """Keep fractions of mtimes (a pax header for each entry). Docker cuts them off."""

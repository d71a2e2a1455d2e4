"""What every start leaves in a container's own layer by itself: mount points, and the mark /.dockerenv.

dockerd keeps these in a layer of their own below the container's ("-init", moby daemon/initlayer), so that
`docker diff` and `docker commit` don't show them. Here they lie in the container's layer and are passed
over instead. Nothing else can be hidden by that: while a container runs, all of these are mounts.
"""

from __future__ import annotations

from collections.abc import Iterable

from storage.snapshots.interface import Change, ChangeKind

MARK = ".dockerenv"
"""An empty file by which programs know that they are in a container."""
_TREES = ("dev", "proc", "sys")
_FILES = frozenset({MARK, "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"})
_PARENT = "/etc"


def is_users(path: str) -> bool:
    """Whether a path of a container's layer (`etc/hosts`) is of the container's own making."""
    return path not in _FILES and path.partition("/")[0] not in _TREES


def without(changes: Iterable[Change]) -> list[Change]:
    """Changes but those that a start makes; /etc too when it has changed by them alone."""
    left = [change for change in changes if is_users(change.path.lstrip("/"))]
    if any(change.path.startswith(f"{_PARENT}/") for change in left):
        return left
    return [c for c in left if c.path != _PARENT or c.kind is ChangeKind.DELETED]

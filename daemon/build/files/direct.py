"""Copying straight into a snapshot's own directory, where what is copied lies under nothing.

Through an overlay every file of a context is created twice: when the context is unpacked and when it is copied.
Where the target is not in the image yet, or an empty directory, overlay has nothing to merge: the snapshot's
directory can be filled without mounting it, and a file of the build's own context, which nobody changes any more,
becomes the layer's file by another name (a hard link). Creating a file costs ext4 up to ten times what linking one
does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.archive import Root
from storage.archive.create import read_attributes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def possible(actions: Sequence[Mapping[str, Any]]) -> bool:
    """Only copies to one place; an archive that is unpacked may name any place of the tree."""
    if not all(a["kind"] == "CopyFiles" and not a["unpack"] and a["create"] for a in actions):
        return False
    # names of owners are looked up in the tree that is written to, and only overlay shows it whole
    numbers = all(not action["owner"] or set(action["owner"]) <= set("0123456789:") for action in actions)
    return numbers and len({action["target"] for action in actions}) == 1


def prepare(lower: Root, upper: Path, target: str) -> str | None:
    """Makes what lies above the target in the snapshot look as in the image; the target's real path.

    None when something is there in the image already that is no empty directory: then overlay must merge.
    """
    real = lower.realpath(target)
    if real == "/" or (_exists(lower, real) and not _is_empty(lower, real)):
        return None
    fd = os.open(upper, _DIRECTORY)
    try:
        path = ""
        for part in real.strip("/").split("/"):
            path += f"/{part}"
            try:
                found = lower.lstat(path)
            except OSError:
                break
            if not stat.S_ISDIR(found.st_mode):
                return None
            following = _copied_up(fd, part, found, lower, path)
            os.close(fd)
            fd = following
    finally:
        os.close(fd)
    return real + "/" if target.endswith("/") else real


def _copied_up(parent: int, name: str, found: os.stat_result, lower: Root, path: str) -> int:
    """As overlay does before it changes a directory."""
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
        source = lower.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for key, value in read_attributes(source).items():
                os.setxattr(fd, key, value)
        finally:
            os.close(source)
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_empty(root: Root, path: str) -> bool:
    """A directory in which nothing is yet, as WORKDIR makes them."""
    try:
        fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not os.listdir(fd)
    finally:
        os.close(fd)


def _exists(root: Root, path: str) -> bool:
    try:
        root.lstat(path)
    except OSError:
        return False
    return True

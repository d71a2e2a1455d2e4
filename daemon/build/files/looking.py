"""What a front end may see of a tree that it had built: a file's bytes, a directory's entries, what a path is.

Runs in the build worker. Paths are beneath the tree whatever links say. (BuildKit cache/util/fsutil.go)
"""

from __future__ import annotations

import asyncio
import base64
import errno
import fnmatch
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from daemon.build.session.listing import go_mode
from storage.archive import Root
from storage.errors import InvalidArgument, NotFound

MOST = 15 << 20
"""Bytes of a file in one answer: clients take messages of 16 MB."""
Report = Callable[[dict[str, Any]], None]
Opened = Callable[[dict[str, Any] | None], AbstractContextManager[Root | None]]


def small_file(root: Root, path: str, limit: int) -> bytes | None:
    """A regular file's bytes; None: there is none. InvalidArgument beyond `limit`; below 0: that much of its begin."""
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(limit + 1 if limit > 0 else -limit)
    if 0 < limit < len(data):
        raise InvalidArgument(f"{path} is larger than {limit >> 20} MiB")
    return data


def small_files(directory: Path, paths: Sequence[str], limit: int) -> list[bytes | None]:
    """Of a directory, resolved beneath it."""
    with Root(directory) as root:
        return [small_file(root, path, limit) for path in paths]


class Looking:
    """Operations of the build worker. `opened` mounts a tree for a while."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def tree_read(
        self, report: Report, tree: dict[str, Any] | None, path: str, offset: int, length: int
    ) -> str:
        """Base64. `length` 0: to its end. NotFound as Go words it."""

        def work() -> str:
            with self._opened(tree) as root:
                fd = _open(root, path)
                with open(fd, "rb") as file:
                    if not stat.S_ISREG(os.fstat(fd).st_mode):
                        raise InvalidArgument(f"read {path}: is a directory")
                    file.seek(offset)
                    data = file.read(min(length, MOST) if length else MOST + 1)
            if len(data) > MOST:
                raise InvalidArgument(f"{path} is larger than {MOST >> 20} MiB")
            return base64.b64encode(data).decode()

        return await asyncio.to_thread(work)

    async def tree_list(
        self, report: Report, tree: dict[str, Any] | None, path: str, pattern: str
    ) -> list[dict[str, Any]]:
        """Stats of a directory's entries, by name; those that the pattern matches, if there is one."""

        def work() -> list[dict[str, Any]]:
            with self._opened(tree) as root:
                if root is None:
                    return []
                fd = _open(root, path)
                try:
                    if not stat.S_ISDIR(os.fstat(fd).st_mode):
                        raise InvalidArgument(f"open {path}: not a directory")
                    names = sorted(os.listdir(fd))
                finally:
                    os.close(fd)
                wanted = [name for name in names if not pattern or fnmatch.fnmatchcase(name, pattern)]
                return [_stat(root, f"{path}/{name}", name) for name in wanted]

        return await asyncio.to_thread(work)

    async def tree_stat(self, report: Report, tree: dict[str, Any] | None, path: str) -> dict[str, Any]:
        """One path's Stat; a link in the last place is not followed."""

        def work() -> dict[str, Any]:
            with self._opened(tree) as root:
                return _stat(root, path, os.path.basename(os.path.normpath(f"/{path}")) or "/")

        return await asyncio.to_thread(work)


def _missing(verb: str, path: str, error: OSError) -> NotFound | InvalidArgument:
    reason = os.strerror(error.errno or errno.EIO).lower()
    kind = NotFound if error.errno in (errno.ENOENT, errno.ENOTDIR) else InvalidArgument
    return kind(f"{verb} {path}: {reason}")


def _open(root: Root | None, path: str) -> int:
    try:
        if root is None:
            raise FileNotFoundError(errno.ENOENT, "")
        return root.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise _missing("open", path, error) from None


def _stat(root: Root | None, path: str, name: str) -> dict[str, Any]:
    """The members of fsutil's Stat."""
    try:
        if root is None:
            raise FileNotFoundError(errno.ENOENT, "")
        found = root.lstat(path)
        link = root.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
    except OSError as error:
        raise _missing("lstat", path, error) from None
    device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
    return {
        "path": name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "mode": go_mode(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": found.st_size if stat.S_ISREG(found.st_mode) else 0,
        "mod_time": found.st_mtime_ns,
        "linkname": link.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "devmajor": os.major(found.st_rdev) if device else 0,
        "devminor": os.minor(found.st_rdev) if device else 0,
    }

"""Paths resolved inside a root, never outside, by the kernel itself.

openat2(RESOLVE_IN_ROOT) treats the directory as "/" for symlinks, `..` and absolute names alike, in one
atomic walk: what chroot gives, without a process of one's own, and without the races of checking a path
first and using it afterwards (CVE-2018-15664 was `docker cp` doing that). RESOLVE_NO_MAGICLINKS refuses
/proc's links, which are no paths and could leave.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from storage.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 255  # Docker's limit for a path in a container; the kernel's is 40


class Root:
    """A directory that is "/" for every path given here, with links and `..` staying beneath it."""

    def __init__(self, directory: int | Path) -> None:
        """A descriptor is duplicated, not taken over."""
        if isinstance(directory, int):
            self.fd = os.dup(directory)
        else:
            self.fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
        """As open(2) in a chroot; the descriptor is close-on-exec."""
        return openat2(self.fd, path or ".", flags, mode, _RESOLVE)

    def lstat(self, path: str) -> os.stat_result:
        """Of what the path names, a final symlink not followed."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def stat(self, path: str) -> os.stat_result:
        fd = self.open(path, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def readlink(self, path: str) -> str:
        """OSError EINVAL when it is no symlink."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.readlink("", dir_fd=fd)
        except FileNotFoundError:  # how the kernel says that an O_PATH descriptor is no symlink
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path) from None
        finally:
            os.close(fd)

    def realpath(self, path: str, *, follow_last: bool = True) -> str:
        """The absolute path inside the root that `path` means; parts that are missing stay as they are.

        A name, and so for showing and comparing only: opening it later resolves it again, safely.
        """
        done: list[str] = []
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            target = self._link_target("/".join([*done, part])) if todo or follow_last else None
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                done.clear()
            todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        return "/" + "/".join(done)

    def _link_target(self, path: str) -> str | None:
        try:
            return self.readlink(path) if stat.S_ISLNK(self.lstat(path).st_mode) else None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
                return None
            raise

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Root:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

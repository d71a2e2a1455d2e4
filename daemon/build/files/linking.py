"""A whole directory by hard links, without a look at its files.

Two threads make them: in directories that are large, where it is worth a thread's start. They hardly meet in the
interpreter, nor in the kernel, as long as each is in a directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_THREADS = 2
_MANY = 100
"""Files of a directory that are another thread's work."""
_AT_ONCE = 1000
_WAITING = 16
_OPEN = 32


class Others(Protocol):
    """What is no file, and files that can't be linked."""

    def directory(self, parent: int, name: str, status: os.stat_result, shown: str) -> None: ...

    def entry(
        self, source: int, name: str, status: os.stat_result, parent: int, last: str, shown: str
    ) -> None: ...


def tree(others: Others, parent: int, name: str, target: int, shown: str, *, changing: bool = False) -> None:
    """All that is in the directory `name` of `parent` into the directory `target`.

    `changing`: what goes meanwhile is left out; else nobody changes it.
    """
    source = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        with contextlib.closing(_Linking(others, source, target, shown)) as linking:
            linking.gone = (FileNotFoundError, NotADirectoryError) if changing else ()
            linking.run()
    finally:
        os.close(source)


class _Linking:
    def __init__(self, others: Others, source: int, target: int, shown: str) -> None:
        self._others, self._shown = others, shown
        self._from, self._to = _Directories(source), _Directories(target)
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []
        self._lock = threading.Lock()
        self.gone: tuple[type[OSError], ...] = ()
        """Errors that say that something has gone, where that may be."""

    def run(self) -> None:
        times: list[tuple[str, os.stat_result]] = []
        stack = [""]
        while stack:
            path = stack.pop()
            try:
                source, target = self._from.open(path), self._to.open(path)
            except self.gone:
                continue
            children = self._entries(source, target, path)
            stack += [below for below, _ in reversed(children)]
            times += children
        self._wait(0)
        for path, status in reversed(times):
            with contextlib.suppress(OSError):
                os.utime(self._to.open(path), ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _entries(self, source: int, target: int, path: str) -> list[tuple[str, os.stat_result]]:
        """Links a directory's files; returns the directories in it, which it has made."""
        files, children = [], []
        with os.scandir(source) as entries:
            for entry in entries:
                name = entry.name
                if entry.is_file(follow_symlinks=False):
                    files.append(name)
                    continue
                below = f"{path}/{name}" if path else name
                with contextlib.suppress(*self.gone):
                    status = os.stat(name, dir_fd=source, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        self._others.directory(target, name, status, f"{self._shown}/{below}")
                        children.append((below, status))
                    else:
                        self._other(source, name, status, target, below)
        files.sort()  # ext4 takes a tenth less for them than in the order it gave them
        if len(files) < _MANY:
            self._link(source, target, files, path)
        else:
            for first in range(0, len(files), _AT_ONCE):
                self._submit(source, target, files[first : first + _AT_ONCE], path)
        return children

    def _link(self, source: int, target: int, names: Sequence[str], path: str) -> None:
        for name in names:
            try:
                os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except OSError:  # something stands there; another file system; too many links
                with contextlib.suppress(*self.gone):
                    status = os.stat(name, dir_fd=source, follow_symlinks=False)
                    self._other(source, name, status, target, f"{path}/{name}")

    def _other(self, source: int, name: str, status: os.stat_result, target: int, below: str) -> None:
        with self._lock:
            self._others.entry(source, name, status, target, name, f"{self._shown}/{below}")

    def _submit(self, source: int, target: int, names: Sequence[str], path: str) -> None:
        own = os.dup(source), os.dup(target)  # the directories may be closed before it is this job's turn

        def job() -> None:
            try:
                self._link(*own, names, path)
            finally:
                for fd in own:
                    os.close(fd)

        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS)
        self._jobs.append(self._pool.submit(job))
        self._wait(_WAITING)

    def _wait(self, most: int) -> None:
        """Until no more jobs than these are left. Raises what one raised."""
        while len(self._jobs) > most:
            self._jobs.pop(0).result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._from.close()
        self._to.close()


class _Directories:
    """Beneath a descriptor, by their paths; few are kept open, as the walk goes depth first."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._open: dict[str, int] = {}

    def open(self, path: str) -> int:
        """Ours until the next call."""
        if not path:
            return self._top
        if path not in self._open:
            above, _, name = path.rpartition("/")
            parent = self._open.get(above)
            fd = self._way(path) if parent is None else os.open(name, _DIRECTORY, dir_fd=parent)
            if len(self._open) >= _OPEN:
                self.close()
            self._open[path] = fd
        return self._open[path]

    def _way(self, path: str) -> int:
        """From the top by single names, none of them followed."""
        fd = os.dup(self._top)
        for name in path.split("/"):
            try:
                following = os.open(name, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = following
        return fd

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

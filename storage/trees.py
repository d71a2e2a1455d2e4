"""Removing and measuring whole trees, however deep and however hostile.

Containers make trees that path-based tools choke on: deeper than PATH_MAX, deeper than the recursion limit
or the descriptor limit. Everything here goes by directory descriptors, without recursion, and never follows
a symlink.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from stat import S_ISDIR, S_ISREG

_DEPTH = 64
"""How many directories are held open at once."""

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    fd: int
    name: str
    directories: list[str]


def remove(name: str, *, dir_fd: int) -> None:
    """rm -rf of one entry of a directory. FileNotFoundError when it is not there."""
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except IsADirectoryError:
        pass
    stack = [_enter(name, dir_fd)]
    try:
        while stack:
            _step(stack, dir_fd)
    finally:
        for level in stack:
            os.close(level.fd)


def _step(stack: list[_Level], dir_fd: int) -> None:
    """Goes one directory down, or removes the emptied one at the top of the stack."""
    level = stack[-1]
    if level.directories:
        child = level.directories.pop()
        if len(stack) < _DEPTH:
            stack.append(_enter(child, level.fd))
        else:  # too deep: hang it up at the tree's top, to be done from there
            moved = f".{secrets.token_hex(16)}"
            os.rename(child, moved, src_dir_fd=level.fd, dst_dir_fd=stack[0].fd)
            stack[0].directories.append(moved)
        return
    stack.pop()
    os.close(level.fd)
    os.rmdir(level.name, dir_fd=stack[-1].fd if stack else dir_fd)


def _enter(name: str, dir_fd: int) -> _Level:
    """Opens a directory and unlinks all in it but directories."""
    fd = os.open(name, _OPEN, dir_fd=dir_fd)
    try:
        directories = []
        with os.scandir(fd) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=fd)
    except BaseException:
        os.close(fd)
        raise
    return _Level(fd, name, directories)


def measure(fd: int) -> tuple[int, int]:
    """(bytes, inodes) of a directory and all beneath it.

    Bytes are the apparent sizes of regular files; hard links count once.
    What can't be read any more (a living tree changes) is left out.
    """
    size = 0
    inodes = 1
    linked: set[tuple[int, int]] = set()
    for stat in _walk_stats(fd):
        if stat.st_nlink > 1 and not S_ISDIR(stat.st_mode):
            if (stat.st_dev, stat.st_ino) in linked:
                continue
            linked.add((stat.st_dev, stat.st_ino))
        inodes += 1
        if S_ISREG(stat.st_mode):
            size += stat.st_size
    return size, inodes


def _walk_stats(fd: int) -> Iterator[os.stat_result]:
    """lstat of everything beneath a directory; os.fwalk would hold one descriptor per level as well."""
    stack: list[tuple[int, list[str]]] = [_list(os.dup(fd))]
    try:
        while stack:
            fd, names = stack[-1]
            if not names:
                stack.pop()
                os.close(fd)
                continue
            name = names.pop()
            try:
                stat = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            yield stat
            if S_ISDIR(stat.st_mode):
                try:
                    child = os.open(name, _OPEN, dir_fd=fd)
                except OSError:
                    continue
                stack.append(_list(child))
    finally:
        for fd, _ in stack:
            os.close(fd)


def _list(fd: int) -> tuple[int, list[str]]:
    return fd, os.listdir(fd)

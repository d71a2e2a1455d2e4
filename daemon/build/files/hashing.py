"""What a copy depends on: a digest of names, types, modes, owners, links, attributes and contents; no times.

Files are hashed with SHA-256 as they lie on disk. What a tree's files were is remembered by inode, size and
change time within one worker, so that a tree which several instructions copy is read once. Kept contexts bring
the digests of their files along (daemon.build.session.generation), and the sums of all their entries: of those,
nothing is read, and where all of a directory is copied nothing is even looked at.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any, Protocol

from daemon.build.dockerfile.ignore import Ignore
from daemon.build.files.sources import Found
from storage.archive import Root
from storage.archive.create import read_attributes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20
_remembered: dict[tuple[int, int, int, int], bytes] = {}
_MOST = 50_000


class Known(Protocol):
    """What is known of a tree's files, which are not to be read again."""

    def beneath(self, path: str) -> Iterator[bytes] | None:
        """Paths and sums of all that is in a directory, as digest() takes them; None: look yourself."""
        ...

    def find(self, status: os.stat_result) -> tuple[bytes, bool] | None:
        """(SHA-256, whether it has attributes); None: look yourself."""
        ...


def digest(root: Root, found: list[Found], excludes: Ignore | None, known: Known | None = None) -> str:
    """Of all that copying `found` would bring: of each entry, its path below the source and its sum."""
    total: Any = hashlib.sha256()
    for source in found:
        total.update(b"source\0" + os.fsencode(source.name) + b"\0")
        parent, _, last = source.path.rpartition("/")
        fd = root.open(parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            for path, directory, name, status in walk(fd, last or ".", excludes):
                total.update(os.fsencode(path) + b"\0" + _sum(directory, name, status, known))
                if not path and known is not None and excludes is None and stat.S_ISDIR(status.st_mode):
                    if (pieces := known.beneath(source.path)) is None:
                        continue
                    for piece in pieces:
                        total.update(piece)
                    break
        finally:
            os.close(fd)
    return "sha256:" + str(total.hexdigest())


def summed(mode: int, uid: int, gid: int, device: int, contents: bytes) -> bytes:
    """The sum of an entry. `contents`: a file's SHA-256 and its attributes, where a symlink leads."""
    return hashlib.sha256(b"%o %d %d %d\0%b" % (mode, uid, gid, device, contents)).digest()


def walk(parent: int, top: str, excludes: Ignore | None) -> Iterator[tuple[str, int, str, os.stat_result]]:
    """(path below the top, descriptor of its directory, name in it, status), parents first; links not followed."""
    status = os.stat(top, dir_fd=parent, follow_symlinks=False)
    yield "", parent, top, status
    if not stat.S_ISDIR(status.st_mode):
        return
    stack = [(os.open(top, _DIRECTORY, dir_fd=parent), "", None)]
    lists: list[Iterator[str]] = [iter(_names(stack[0][0]))]
    try:
        while stack:
            fd, path, _ = stack[-1]
            name = next(lists[-1], None)
            if name is None:
                os.close(fd)
                stack.pop()
                lists.pop()
                continue
            below = f"{path}/{name}" if path else name
            ignored = excludes is not None and excludes.ignored(below)
            if ignored and excludes is not None and excludes.prunes(below):
                continue
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # overlay lists a whiteout in a directory that one layer alone has
            if not ignored:
                yield below, fd, name, status
            elif not stat.S_ISDIR(status.st_mode):
                continue
            if stat.S_ISDIR(status.st_mode):
                stack.append((os.open(name, _DIRECTORY, dir_fd=fd), below, None))
                lists.append(iter(_names(stack[-1][0])))
    finally:
        for fd, *_ in stack:
            os.close(fd)


def _names(directory: int) -> list[str]:
    """In the order of their bytes, which is not that of Python's strings where they are no text."""
    return sorted(os.listdir(directory), key=os.fsencode)


def _sum(directory: int, name: str, status: os.stat_result, known: Known | None) -> bytes:
    contents = b""
    if stat.S_ISREG(status.st_mode):
        found = known.find(status) if known is not None else None
        contents, attributed = found or (file_digest(directory, name, status), None)
        # how many names a kept context's file has says nothing: layers link to it
        if attributed or (attributed is None and (known or status.st_mode & 0o111 or status.st_nlink > 1)):
            attributes = read_attributes(f"/proc/self/fd/{directory}/{name}")
            contents += b"".join(key.encode() + b"\0" + attributes[key] for key in sorted(attributes))
    elif stat.S_ISLNK(status.st_mode):
        contents = os.fsencode(os.readlink(name, dir_fd=directory))
    return summed(status.st_mode, status.st_uid, status.st_gid, status.st_rdev, contents)


def file_digest(directory: int, name: str, status: os.stat_result) -> bytes:
    key = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
    known = _remembered.get(key)
    if known is not None:
        return known
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        if status.st_size <= _PIECE:
            result = hashlib.sha256(os.read(fd, _PIECE + 1)).digest()
        else:
            summed = hashlib.sha256()
            while data := os.read(fd, _PIECE):
                summed.update(data)
            result = summed.digest()
    finally:
        os.close(fd)
    if len(_remembered) >= _MOST:
        _remembered.clear()
    _remembered[key] = result
    return result

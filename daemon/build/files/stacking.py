"""Layers put elsewhere: the same changes upon other parents (Merge), and the changes between any two trees (Diff)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daemon.build.files.copying import Copier
from daemon.build.files.hashing import walk
from storage.archive import Root
from storage.archive.create import read_attributes
from storage.snapshots.changes import copy_changes
from storage.snapshots.interface import ChangeKind
from storage.syscalls import chmod_descriptor

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"


def restack(source: Path, target: Path) -> None:
    """Fills an empty directory with what a committed snapshot's has: whiteouts and opaque marks too.

    Files are links, for a committed snapshot never changes.
    """
    top = os.open(source.parent, _DIRECTORY)
    base = os.open(target, _DIRECTORY)
    made: list[tuple[str, os.stat_result]] = []
    try:
        for path, directory, name, status in walk(top, source.name, None):
            if not path:
                continue
            if stat.S_ISDIR(status.st_mode):
                _directory(f"/proc/self/fd/{directory}/{name}", f"/proc/self/fd/{base}/{path}", status)
                made.append((path, status))
            else:
                _link(directory, name, status, base, path)
        for path, status in reversed(made):
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=base)
    finally:
        os.close(top)
        os.close(base)


def _directory(source: str, target: str, status: os.stat_result) -> None:
    os.mkdir(target, 0o700)
    for key in os.listxattr(source, follow_symlinks=False):
        # overlay's own are of the layer it was unpacked in; only the opaque mark says something about contents
        if not key.startswith("trusted.overlay.") or key == _OPAQUE:
            with contextlib.suppress(OSError):
                os.setxattr(
                    target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False
                )
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))


def _link(source: int, name: str, status: os.stat_result, base: int, path: str) -> None:
    try:
        os.link(name, path, src_dir_fd=source, dst_dir_fd=base, follow_symlinks=False)
    except OSError:  # as many links as the file system allows
        parent, _, last = path.rpartition("/")
        with Root(Path(f"/proc/self/fd/{base}")) as root, _opened(root, parent) as directory:
            Copier(root, root).entry(source, name, status, directory, last, path)


@contextlib.contextmanager
def _opened(root: Root, path: str) -> Iterator[int]:
    fd = root.open(path or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def difference(lower: list[str], upper: Root, target: Path) -> None:
    """Fills an empty directory with what makes `upper` of the layers `lower` (topmost first)."""
    with Root(target) as root:
        copier = Copier(upper, root)
        times: list[tuple[str, int]] = []
        with _opened(upper, "") as top:  # a root's own descriptor is O_PATH and can't be listed
            changes = copy_changes(top, lower, _OPAQUE)
        for change in changes:
            parent, _, name = change.path.rpartition("/")
            with _opened(root, parent) as into:
                if change.kind is ChangeKind.DELETED:
                    os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=into)
                    continue
                with _opened(upper, parent) as source:
                    status = os.stat(name, dir_fd=source, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        _shell(source, into, name, status)
                        times.append((change.path, status.st_mtime_ns))
                    else:
                        copier.entry(source, name, status, into, name, change.path)
        for path, when in reversed(times):
            with _opened(root, path) as fd:
                os.utime(fd, ns=(when, when))


def _shell(source: int, parent: int, name: str, status: os.stat_result) -> None:
    """A directory with its looks and nothing in it yet."""
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for key, value in read_attributes(f"/proc/self/fd/{source}/{name}").items():
            os.setxattr(fd, key, value)
        os.fchown(fd, status.st_uid, status.st_gid)
        chmod_descriptor(fd, stat.S_IMODE(status.st_mode))
    finally:
        os.close(fd)

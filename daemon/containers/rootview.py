"""A container's root as the daemon sees it, without ever mounting it on the host.

A running container's root is reached through /proc/PID/root; a stopped one's is an overlay mounted
*detached* (fsopen, fsmount): a tree that no mount namespace holds and that vanishes with its descriptor,
whatever kills the daemon. Every path inside is resolved by the kernel with openat2(RESOLVE_IN_ROOT), so
a symlink in the container never leads outside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from daemon.containers.model import Container
from daemon.runtime import syscalls
from storage.errors import Conflict
from storage.snapshots import OverlayMount, Snapshotter, mounts

MAX_TEXT = 4 << 20


@contextmanager
def root_of(container: Container, snapshots: Snapshotter, *, writable: bool = False) -> Iterator[int]:
    """A descriptor of the root directory, closed afterwards. Blocking: use it in a thread."""
    fd = open_root(container, snapshots, writable=writable)
    try:
        yield fd
    finally:
        os.close(fd)


def open_root(container: Container, snapshots: Snapshotter, *, writable: bool = False) -> int:
    if container.state.alive and container.state.pid:
        try:
            return os.open(f"/proc/{container.state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):  # it has ended, and the news is on its way
            raise Conflict(f"container {container.id} is not running") from None
    return open_tree(snapshots.overlay(container.id), writable=writable)


def open_tree(mount: OverlayMount, *, writable: bool) -> int:
    """A detached mount of a snapshot that is in no running container's use."""
    return mounts.open_tree(mount if writable else mount.as_read_only())


def open_in(root: int, path: str, flags: int = os.O_RDONLY, mode: int = 0) -> int:
    """Open a path beneath `root`, whatever links it holds. Raises OSError."""
    return syscalls.openat2(
        root,
        os.fsencode(path.lstrip("/") or "."),
        flags | os.O_CLOEXEC,
        mode=mode,
        resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS,
    )


def read_text(root: int, path: str) -> str:
    """A small text file of the container, at most 4 MiB of it; empty when there is none."""
    try:
        fd = open_in(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(fd, "rb") as file:
        return file.read(MAX_TEXT).decode(errors="replace")

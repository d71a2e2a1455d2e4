"""A snapshot's tree for this process alone: a mount that no mount namespace ever sees.

    with mounted(snapshots.overlay(container_id).as_read_only()) as fd:
        create(out, fd, "/etc", name="etc")          # docker cp from a stopped container

fsmount(2) gives a mount as a descriptor, and without move_mount(2) it is attached nowhere: no other process
can come across it, and it is gone when the descriptor is closed, also by SIGKILL. Not for the tree of a
running container: overlay must not be mounted twice over one upper directory (its tree is /proc/PID/root).
Read-only unless something is to be written: unmounting an overlay with an upper directory syncs its file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from storage.errors import Internal
from storage.snapshots.interface import OverlayMount
from storage.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    fsconfig_create,
    fsconfig_string,
    fsmount,
    fsopen,
)


@contextlib.contextmanager
def mounted(mount: OverlayMount, *, userxattr: bool = False) -> Iterator[int]:
    """The descriptor of the tree's root, valid inside the block. In a thread: closing may wait for the disk."""
    fd = _open(mount, userxattr)
    try:
        yield fd
    finally:
        os.close(fd)


def _open(mount: OverlayMount, userxattr: bool) -> int:
    if mount.plain is not None:
        return os.open(mount.plain, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    context = fsopen("overlay")
    try:
        _configure(context, mount, userxattr)
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        return fsmount(context, attributes | (MOUNT_ATTR_RDONLY if mount.read_only else 0))
    except OSError as error:
        raise Internal(f"mount snapshot {mount.upper or mount.lower[0]}: {error.strerror}") from error
    finally:
        os.close(context)


def _configure(context: int, mount: OverlayMount, userxattr: bool) -> None:
    try:
        for lower in mount.lower:
            fsconfig_string(context, "lowerdir+", str(lower))  # Linux 6.5
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fsconfig_string(context, "lowerdir", ":".join(str(lower) for lower in mount.lower))
    if mount.upper is not None:
        fsconfig_string(context, "upperdir", str(mount.upper))
        fsconfig_string(context, "workdir", str(mount.work))
    if userxattr:
        fsconfig_string(context, "userxattr", "")
    fsconfig_create(context)

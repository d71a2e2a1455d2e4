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
import os
import re
import threading
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
    overlay_of_own,
)

_ONE_BY_ONE = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 5)
"""Whether the kernel takes lower directories one by one. One that does not swallows them all the same, and
refuses the mount when it is made: too late to see from the error what was wrong."""


@contextlib.contextmanager
def mounted(mount: OverlayMount, *, userxattr: bool = False) -> Iterator[int]:
    """The descriptor of the tree's root, valid inside the block. In a thread: closing may wait for the disk."""
    fd = open_tree(mount, userxattr=userxattr)
    try:
        yield fd
    finally:
        os.close(fd)


def open_tree(mount: OverlayMount, *, userxattr: bool = False) -> int:
    """The same for the caller to close. Raises Internal."""
    if mount.plain is not None:
        return os.open(mount.plain, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _configured(mount, userxattr) if _ONE_BY_ONE else _classic(mount, userxattr)
    except OSError as error:
        raise Internal(f"mount snapshot {mount.upper or mount.lower[0]}: {error.strerror}") from error


def _configured(mount: OverlayMount, userxattr: bool) -> int:
    context = fsopen("overlay")
    try:
        for lower in mount.lower:
            fsconfig_string(context, "lowerdir+", str(lower))
        if mount.upper is not None:
            fsconfig_string(context, "upperdir", str(mount.upper))
            fsconfig_string(context, "workdir", str(mount.work))
        if userxattr:
            fsconfig_string(context, "userxattr", "")
        fsconfig_create(context)
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        return fsmount(context, attributes | (MOUNT_ATTR_RDONLY if mount.read_only else 0))
    finally:
        os.close(context)


def _classic(mount: OverlayMount, userxattr: bool) -> int:
    """Before Linux 6.5 all lower directories are one text, and fsconfig(2) takes no text over 256 bytes."""
    escaped = (str(path).replace("\\", "\\\\").replace(":", "\\:") for path in mount.lower)
    options = [f"lowerdir={':'.join(escaped)}"]
    if mount.upper is not None:
        options += [f"upperdir={mount.upper}", f"workdir={mount.work}"]
    options += ["userxattr"] if userxattr else []
    place = str(mount.upper or mount.lower[0])
    result: list[int | OSError] = []

    def run() -> None:
        try:
            result.append(overlay_of_own(place, os.fsencode(",".join(options))))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=run, name="overlay")
    thread.start()
    thread.join()
    (found,) = result
    if isinstance(found, OSError):
        raise found
    return found

"""A container's terminal: a pty of its own devpts, /dev/console, and the controlling terminal."""

from __future__ import annotations

import os
import stat
from fcntl import ioctl

from daemon.runtime import inroot, operations
from daemon.runtime import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.operations import Context

TIOCGPTPEER = 0x5441
TIOCSCTTY = 0x540E
TIOCSPTLCK = 0x40045431
TIOCSWINSZ = 0x5414


def open_pty(directory: int) -> tuple[int, int]:
    """(master, slave) of the devpts that `directory` (-1: /dev/pts below the process' root) must be.

    The slave comes from the master (TIOCGPTPEER) and not from a path in the container, which its
    processes could have exchanged (CVE-2025-52565).
    """
    opened = -1
    if directory < 0:
        opened = directory = os.open("/dev/pts", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if sc.fstatfs_type(directory) != operations.DEVPTS_MAGIC:
            raise OSError(19, "is not a devpts", "/dev/pts")
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        ioctl(master, TIOCSPTLCK, bytes(4))
        return master, ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        if opened >= 0:
            os.close(opened)


def set_size(fd: int, rows: int, columns: int) -> None:
    size = b"".join(value.to_bytes(2, "little") for value in (rows, columns, 0, 0))
    ioctl(fd, TIOCSWINSZ, size)


def mount_console(context: Context, slave: int) -> None:
    """Bind the pty to /dev/console, by descriptor at both ends."""
    parent, name = inroot.parent_of(context.root, "/dev/console")
    try:
        os.close(
            os.open(name, os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=parent)
        )
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    if stat.S_ISLNK(os.fstat(target).st_mode):
        raise OSError(40, "is a symbolic link", "/dev/console")
    tree = operations.clone_tree(slave)
    operations.attach(tree, target)
    os.close(tree)
    os.close(target)


def take(slave: int) -> None:
    """Make the pty the controlling terminal of this session leader and its standard streams."""
    ioctl(slave, TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.close(slave)

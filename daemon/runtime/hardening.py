"""Making the runtime's own process safe to start containers from."""

from __future__ import annotations

import os
import sys

from daemon.runtime import syscalls as sc

_ST_RDONLY = 1


def harden(argv: list[str] | None = None) -> None:
    """See `launch.harden`. `argv` is what to re-execute, by default this process' own command line."""
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    sc.reset_internal_signals()
    if os.statvfs("/proc/self/exe").f_flag & _ST_RDONLY:
        return
    interpreter = os.readlink("/proc/self/exe")
    clone = sc.open_tree(sc.AT_FDCWD, os.fsencode(interpreter), sc.OPEN_TREE_CLONE)
    sc.mount_setattr(clone, b"", sc.AT_EMPTY_PATH, set_=sc.MOUNT_ATTR_RDONLY)
    os.execve(clone, argv or [sys.executable or interpreter, *sys.orig_argv[1:]], os.environ)


def return_to(*, namespace: int, root: int, directory: int) -> None:
    """Go back to the mount namespace, root and directory that the launcher (pyd-oci) came from.

    The interpreter's executable stays on the read-only mount of the namespace left behind.
    """
    sc.setns(namespace, sc.CLONE_NEWNS)
    os.fchdir(root)
    os.chroot(".")
    os.fchdir(directory)
    for fd in (namespace, root, directory):
        os.close(fd)

"""Network namespaces that live without a process: made in a thread, bound to a file, dropped by unmounting.

`unshare(CLONE_NEWNET)` moves only the calling thread, so a thread may make a namespace, open sockets in
it (which stay there), and return. `/proc/sys/net` shows the namespace of the thread that opens it.
man 7 network_namespaces, man 2 setns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.network.links import set_up
from daemon.network.rtnetlink import NetlinkSocket

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
LOOPBACK = 1
"""Index of `lo` in every namespace."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


@dataclass(slots=True)
class Namespace:
    """A bound namespace: the file, an open descriptor of it, and a netlink socket that lives in it."""

    path: Path
    fd: int
    netlink: NetlinkSocket

    def close(self) -> None:
        """Close our handles; the namespace stays as long as the file is bound or a process is in it."""
        self.netlink.close()
        os.close(self.fd)


@contextlib.contextmanager
def entered(fd: int) -> Iterator[None]:
    """The calling thread inside another namespace. Only for worker threads, never the event loop's."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def create(path: Path) -> Namespace:
    """A new namespace bound at `path` (the directory exists), its loopback up."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWNET), "unshare network namespace")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))
            _check(
                _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", MS_BIND, None),
                f"bind network namespace at {path}",
            )
            sock = NetlinkSocket()
            sock.request(set_up(LOOPBACK))
        except BaseException:
            drop(path)
            raise
        finally:
            _setns(home)
    finally:
        os.close(home)
    return Namespace(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), sock)


def adopt(path: Path) -> Namespace:
    """Open a namespace that an earlier daemon bound."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(fd):
            return Namespace(path, fd, NetlinkSocket())
    except BaseException:
        os.close(fd)
        raise


def drop(path: Path) -> None:
    """Unbind; with the last process gone the kernel destroys the namespace and all that is in it."""
    while _libc.umount2(os.fsencode(path), MNT_DETACH) == 0:
        pass
    path.unlink(missing_ok=True)


def write_sysctl(name: str, value: str) -> None:
    """Set `net.*` of the calling thread's namespace, e.g. `ipv6/conf/eth0/disable_ipv6`, if it exists."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)


def _setns(fd: int) -> None:
    _check(_libc.setns(fd, CLONE_NEWNET), "enter network namespace")


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")

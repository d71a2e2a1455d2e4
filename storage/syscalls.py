"""System calls that Python's os module lacks, as thin functions that raise OSError.

The daemon's runtime has its own, larger set: storage may import nothing of ours, and this is all it needs.
Numbers are those of the kernel's unified table, the same on x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import errno
import os

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_OPENAT2 = 437
_SYS_QUOTACTL_FD = 443
_SYS_FCHMODAT2 = 452

_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x4000, 0x80000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1
FSOPEN_CLOEXEC = 1
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_EAGAIN_RETRIES = 64


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_HOW_SIZE = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def openat2(dir_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """openat2(2). EAGAIN means that a rename raced with a `..`: the kernel asks to try again."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path)
    for _ in range(_EAGAIN_RETRIES):
        fd: int = _syscall(_SYS_OPENAT2, dir_fd, name, ctypes.byref(how), _HOW_SIZE)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def chmod_descriptor(fd: int, mode: int) -> None:
    """Changes the mode of what an O_PATH descriptor means: fchmodat2(2); through /proc before Linux 6.6."""
    if _syscall(_SYS_FCHMODAT2, fd, b"", mode, _AT_EMPTY_PATH) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.ENOSYS:
        raise OSError(code, os.strerror(code))
    os.chmod(f"/proc/self/fd/{fd}", mode)


def fsopen(kind: str) -> int:
    return _checked(_syscall(_SYS_FSOPEN, kind.encode(), FSOPEN_CLOEXEC), kind)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    _checked(_syscall(_SYS_FSCONFIG, fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0), value)


def fsconfig_create(fd: int) -> None:
    _checked(_syscall(_SYS_FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig")


def fsmount(fd: int, attributes: int) -> int:
    return _checked(_syscall(_SYS_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes), "fsmount")


def overlay_of_own(place: str, options: bytes) -> int:
    """mount(2) of an overlay over a directory, in a mount namespace of the calling thread's; a copy of it that is
    attached nowhere. For threads that end then, and their namespace with them."""
    target = os.fsencode(place)
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _checked(_libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), "/")
    _checked(_libc.mount(b"overlay", target, b"overlay", _MS_NODEV | _MS_NOSUID, options), place)
    return _checked(_syscall(_SYS_OPEN_TREE, _AT_FDCWD, target, _OPEN_TREE_CLONE | os.O_CLOEXEC), place)


def quotactl(fd: int, command: int, identity: int, buffer: bytearray) -> None:
    """quotactl_fd(2) on the file system of an open file; `buffer` is read or filled. Linux 5.14."""
    address = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    _checked(_syscall(_SYS_QUOTACTL_FD, fd, command, identity, address), "quotactl_fd")


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result

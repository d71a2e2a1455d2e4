"""Linux system calls that Python's `os` lacks: one thin function each, named after the call.

Each raises OSError with the kernel's errno (and the file name where one is known), returns what the
kernel returns and decides nothing.

This module is imported by every start of `pyd-oci`, so it talks to `_ctypes` itself: the public `ctypes`
package costs 3 ms at import, a tenth of what a whole `runc run` takes. Functions keep the GIL
(FUNCFLAG_PYTHONAPI), because the child of `clone3` runs on a copy of this interpreter and must not
wait for a lock that another thread held at the time of the clone.
"""

from __future__ import annotations

import os
import sys
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    Array,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
CLONE_INTO_CGROUP = 0x200000000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWTIME = 0x00000080
CLONE_NEWUSER = 0x10000000
CLONE_NEWUTS = 0x04000000
CLONE_PARENT = 0x00008000
CLONE_PIDFD = 0x00001000
CLOSE_RANGE_CLOEXEC = 4
FSCONFIG_CMD_CREATE = 6
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSMOUNT_CLOEXEC = 1
FSOPEN_CLOEXEC = 1
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_SETPERM = 5
MNT_DETACH = 2
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR__ATIME = 0x00000070
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_NOSUID = 0x2
MS_PRIVATE = 0x40000
MS_RDONLY = 0x1
MS_REC = 0x4000
MS_REMOUNT = 0x20
MS_SHARED = 0x100000
MS_SLAVE = 0x80000
MS_UNBINDABLE = 0x20000
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
OPEN_TREE_CLONE = 1
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_CAP_AMBIENT_RAISE = 2
PR_SET_CHILD_SUBREAPER = 36
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
SECCOMP_SET_MODE_FILTER = 1

# New calls have one number on all architectures (since Linux 5.1); these older ones have not.
_NUMBERS = {
    "x86_64": {
        "capset": 126,
        "ioprio_set": 251,
        "keyctl": 250,
        "pivot_root": 155,
        "rt_sigaction": 13,
        "sched_setattr": 314,
        "seccomp": 317,
    },
    "aarch64": {
        "capset": 91,
        "ioprio_set": 30,
        "keyctl": 219,
        "pivot_root": 41,
        "rt_sigaction": 134,
        "sched_setattr": 274,
        "seccomp": 277,
    },
}
NR = _NUMBERS.get(os.uname().machine, _NUMBERS["x86_64"])
NR_CLONE3 = 435
NR_CLOSE_RANGE = 436
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_FSOPEN = 430
NR_MOUNT_SETATTR = 442
NR_MOVE_MOUNT = 429
NR_OPENAT2 = 437
NR_OPEN_TREE = 428
NR_PIDFD_SEND_SIGNAL = 424

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Integer = _SimpleCData[int]
    _Buffer = Array[_SimpleCData[int]]
else:
    _Integer = _SimpleCData
    _Buffer = Array


class _Long(_Integer):
    _type_ = "l"


class _Text(_Integer):
    """A pointer to the characters of a bytes object, which must outlive it."""

    _type_ = "z"


class _Int(_Integer):
    _type_ = "i"


class _Call(CFuncPtr):
    """A function that returns int."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class _LongCall(CFuncPtr):
    """A function that returns long, as syscall(2) does."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_libc = dlopen("libc.so.6", os.RTLD_NOW)


def _function(name: str) -> _Call:
    return _Call(dlsym(_libc, name))


_syscall = _LongCall(dlsym(_libc, "syscall"))
_prctl = _function("prctl")
_mount = _function("mount")
_umount2 = _function("umount2")
_setns = _function("setns")
_unshare = _function("unshare")
_fstatfs = _function("fstatfs")
_sethostname = _function("sethostname")
_setdomainname = _function("setdomainname")
_personality = _function("personality")


_SMALL = [_Long(value) for value in range(64)]  # a start passes some forty capability numbers
_ZERO = _SMALL[0]


def _long(value: int) -> _Long:
    return _SMALL[value] if value < 64 else _Long(value)


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _u64(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, sys.byteorder) for value in values)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's three capability sets (bit masks, version 3 layout: capset(2))."""
    header = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)
    words = []
    for shift in (0, 32):
        words += [(mask >> shift) & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    data = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    _check(_syscall(NR["capset"], header, data))


class CloneArguments:
    """`struct clone_args` with room for the pidfd, allocated before the clone (clone(2), version 2)."""

    __slots__ = ("_arguments", "_pidfd")

    def __init__(self, flags: int, *, exit_signal: int, cgroup_fd: int = -1) -> None:
        self._pidfd = _Long(-1)
        if cgroup_fd >= 0:
            flags |= CLONE_INTO_CGROUP
        self._arguments = _u64(
            flags | CLONE_PIDFD, addressof(self._pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup_fd, 0)
        )

    def clone3(self) -> int:
        """0 in the child, the child's pid in the parent."""
        return _check(_syscall(NR_CLONE3, self._arguments, _Long(len(self._arguments))))

    @property
    def pidfd(self) -> int:
        """The child's pidfd (close-on-exec); only in the parent after `clone3`."""
        return self._pidfd.value & 0xFFFFFFFF


def close_range(first: int, last: int, flags: int) -> None:
    """Close (or, with CLOSE_RANGE_CLOEXEC, mark) all descriptors from `first` to `last`."""
    _check(_syscall(NR_CLOSE_RANGE, first, last, flags))


def fsconfig(fs: int, command: int, key: bytes | None, value: bytes | None) -> None:
    _check(_syscall(NR_FSCONFIG, fs, command, key, value, 0), key.decode() if key else None)


def fsmount(fs: int, attributes: int) -> int:
    """The configured file system as a detached mount: an O_PATH descriptor."""
    return _check(_syscall(NR_FSMOUNT, fs, FSMOUNT_CLOEXEC, attributes))


def fsopen(name: bytes) -> int:
    return _check(_syscall(NR_FSOPEN, name, FSOPEN_CLOEXEC), name.decode())


def ioprio_set(which: int, who: int, priority: int) -> None:
    _check(_syscall(NR["ioprio_set"], which, who, priority))


def keyctl_join_session_keyring(name: bytes | None) -> int:
    return _check(_syscall(NR["keyctl"], KEYCTL_JOIN_SESSION_KEYRING, name))


def keyctl_setperm(key: int, permissions: int) -> None:
    _check(_syscall(NR["keyctl"], KEYCTL_SETPERM, key, permissions))


def malloc_trim() -> None:
    """Give memory that was freed back to the kernel (malloc_trim(3)); only the GNU library has it."""
    try:
        trim = _function("malloc_trim")
    except OSError:
        return
    trim(_ZERO)


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    _check(_mount(source, target, kind, _Long(flags), data), os.fsdecode(target))


def mount_setattr(
    directory: int,
    path: bytes,
    flags: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = 0,
) -> None:
    attributes = _u64(set_, clear, propagation, userns)
    _check(
        _syscall(NR_MOUNT_SETATTR, directory, path, flags, attributes, _Long(len(attributes))),
        os.fsdecode(path),
    )


def move_mount(source: int, source_path: bytes, target: int, target_path: bytes, flags: int) -> None:
    _check(_syscall(NR_MOVE_MOUNT, source, source_path, target, target_path, flags), os.fsdecode(target_path))


def open_tree(directory: int, path: bytes, flags: int) -> int:
    return _check(_syscall(NR_OPEN_TREE, directory, path, flags | OPEN_TREE_CLOEXEC), os.fsdecode(path))


def openat2(directory: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    how = _u64(flags | os.O_CLOEXEC, mode, resolve)
    return _check(_syscall(NR_OPENAT2, directory, path, how, _Long(len(how))), os.fsdecode(path))


def personality(persona: int) -> None:
    _check(_personality(_Long(persona)))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _check(_syscall(NR["pivot_root"], new_root, put_old), os.fsdecode(new_root))


def prctl(option: int, argument: int = 0, third: int = 0) -> int:
    return _check(_prctl(option, _long(argument), _long(third), _ZERO, _ZERO))


def reset_internal_signals() -> None:
    """Default dispositions for the signals that glibc keeps to itself (32 and 33; signal(2) refuses them).

    Its posix_spawn leaves them ignored in the child, and what is ignored survives execve.
    """
    default = bytes(32)  # struct kernel_sigaction: SIG_DFL, no flags, empty mask
    for number in (32, 33):
        _check(_syscall(NR["rt_sigaction"], number, default, 0, 8))


def sched_setattr(pid: int, attributes: bytes) -> None:
    _check(_syscall(NR["sched_setattr"], pid, attributes, 0))


class CodeBuffer:
    """Bytes and their address (`array` would do, but imports collections.abc for 2 ms)."""

    __slots__ = ("address", "code")

    def __init__(self, code: bytes) -> None:
        self.code = code
        self.address: int = _Long.from_buffer(_Text(code)).value  # type: ignore[arg-type]  # it takes bytes


def seccomp_set_filter(flags: int, count: int, address: int) -> int:
    """Install the BPF program of `count` instructions at `address` (struct sock_fprog, seccomp(2))."""
    program = count.to_bytes(8, sys.byteorder) + address.to_bytes(8, sys.byteorder)
    return _check(_syscall(NR["seccomp"], SECCOMP_SET_MODE_FILTER, flags, program))


def setdomainname(name: bytes) -> None:
    _check(_setdomainname(name, _Long(len(name))))


def sethostname(name: bytes) -> None:
    _check(_sethostname(name, _Long(len(name))))


def setns(fd: int, kinds: int) -> None:
    _check(_setns(fd, kinds))


def umount2(target: bytes, flags: int) -> None:
    _check(_umount2(target, flags), os.fsdecode(target))


def unshare(flags: int) -> None:
    _check(_unshare(flags))


class _StatFs(_Buffer):
    """Room for `struct statfs` (120 bytes on 64-bit), of which only f_type, the first word, is read."""

    _type_ = _Long
    _length_ = 32


def fstatfs_type(fd: int) -> int:
    """The file system's magic number (statfs(2)), e.g. 0x9fa0 of procfs."""
    room = _StatFs()
    _check(_fstatfs(fd, room))
    magic: int = room[0]
    return magic & 0xFFFFFFFF

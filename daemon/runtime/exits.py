"""How a process ended, seen by its parent, or by somebody who only holds a pidfd.

    own child                         waitpid
    orphan of a killed supervisor     its zombie's exit code (/proc/<pid>/stat, last but one field), or, once
                                      init has reaped it, ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT
                                      (Linux 6.15, include/uapi/linux/pidfd.h)
    neither                           UNKNOWN: 255, the status a shell gives for "out of range"

Statuses are 0-255, a death by signal n is 128 + n, as shells and Docker have it.
"""

from __future__ import annotations

import fcntl
import os
import struct

from daemon.runtime.records import stat_fields

UNKNOWN = 255
# struct pidfd_info: mask, cgroupid (u64); pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid (u32);
# exit_code (s32). Its first published size is 64 bytes, the number is _IOWR(0xFF, 11, that size).
_INFO = struct.Struct("<QQ11Ii")
_SIZE = 64
_PIDFD_GET_INFO = 3 << 30 | _SIZE << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3


def decode(status: int) -> int:
    """A wait status as Docker reports it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def of_pidfd(pidfd: int) -> int | None:
    """The status of a process that was reaped by somebody else; None while it is not, or too old a kernel."""
    request = _INFO.pack(_PIDFD_INFO_EXIT, 0, *([0] * 11), 0)
    try:
        raw = fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request.ljust(_SIZE, b"\0"))
    except OSError:
        return None
    fields = _INFO.unpack_from(raw)
    return decode(fields[-1]) if fields[0] & _PIDFD_INFO_EXIT else None


def of_zombie(pid: int, ticks: int) -> int | None:
    """The status of a dead process that nobody has reaped yet; None when it lives or is gone."""
    fields = stat_fields(pid)
    if fields is None or int(fields[19]) != ticks or fields[0] != "Z":
        return None
    return decode(int(fields[49]))


def alive(pid: int, ticks: int) -> bool:
    fields = stat_fields(pid)
    return fields is not None and int(fields[19]) == ticks and fields[0] not in "ZX"

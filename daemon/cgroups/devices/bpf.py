"""Loading the device program and hanging it on a v2 cgroup: bpf(2) through ctypes, no library.

A cgroup can hold several programs when they are attached with BPF_F_ALLOW_MULTI, and then all must allow.
So an update must replace, never add: the one program there is exchanged atomically (BPF_F_REPLACE, Linux
5.6); on an older kernel, or when somebody left several, ours is added first and the others are taken off
after, so that at no time nothing guards the devices. systemd and runc attach the same way and coexist.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from daemon.cgroups.devices.program import assemble
from daemon.cgroups.devices.rules import DevicePolicy
from daemon.cgroups.errors import CgroupError

_NR_BPF = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "ppc64le": 361,
    "s390x": 351,
    "armv7l": 386,
    "i686": 357,
}

_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_PROG_QUERY = 16

_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_REPLACE = 4

_LICENSE = ctypes.create_string_buffer(b"Apache-2.0")  # no GPL-only helper is called
_LOG_SIZE = 65536
_MAX_ATTACHED = 64


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2): result and the attribute block, in which the kernel answers. Raises OSError."""
    number = _NR_BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    block = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result: int = libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), ctypes.byref(block), ctypes.c_uint(len(block))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, block.raw


def load(code: bytes) -> int:
    """BPF_PROG_LOAD; the program's descriptor. With the verifier's words when it refuses."""
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack(
        "<IIQQ",
        _PROG_TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(program),
        ctypes.addressof(_LICENSE),
    )
    try:
        return _bpf(_PROG_LOAD, header)[0]
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _bpf(_PROG_LOAD, header + struct.pack("<IIQ", 1, _LOG_SIZE, ctypes.addressof(log)))[0]
        except OSError as second:
            words = log.value.decode(errors="replace").strip().splitlines()
            raise OSError(second.errno, "; ".join(words[-3:]) or second.strerror) from error


def attached(cgroup_fd: int) -> list[int]:
    """IDs of the device programs hanging on the cgroup itself."""
    ids = (ctypes.c_uint32 * _MAX_ATTACHED)()
    request = struct.pack("<IIIIQI", cgroup_fd, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MAX_ATTACHED)
    _, answer = _bpf(_PROG_QUERY, request)
    (count,) = struct.unpack_from("<I", answer, 24)
    return list(ids[:count])


def install(directory: str, policy: DevicePolicy) -> None:
    """Guard the cgroup at `directory` by `policy`, in place of what guarded it before."""
    try:
        cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            program_fd = load(assemble(policy))
            try:
                _attach(cgroup_fd, program_fd)
            finally:
                os.close(program_fd)
        finally:
            os.close(cgroup_fd)
    except OSError as error:
        raise CgroupError(
            f"load the device program of {directory}: {error.strerror}",
            file=directory,
            errno=error.errno or 0,
        ) from error


def _attach(cgroup_fd: int, program_fd: int) -> None:
    old = [_bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0))[0] for number in attached(cgroup_fd)]
    try:
        if len(old) == 1 and _replace(cgroup_fd, program_fd, old[0]):
            return
        _bpf(_PROG_ATTACH, struct.pack("<IIII", cgroup_fd, program_fd, _CGROUP_DEVICE, _ALLOW_MULTI))
        for fd in old:
            _bpf(_PROG_DETACH, struct.pack("<III", cgroup_fd, fd, _CGROUP_DEVICE))
    finally:
        for fd in old:
            os.close(fd)


def _replace(cgroup_fd: int, program_fd: int, old_fd: int) -> bool:
    request = struct.pack("<IIIII", cgroup_fd, program_fd, _CGROUP_DEVICE, _ALLOW_MULTI | _REPLACE, old_fd)
    try:
        _bpf(_PROG_ATTACH, request)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a kernel before 5.6
            return False
        raise
    return True

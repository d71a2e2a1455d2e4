"""What a process that reads hostile bytes gives up before it reads them.

no_new_privs, no network (an empty network namespace), no other IPC, core dumps or child processes, only
the capabilities that unpacking needs, and by Landlock no file outside one directory. Everything that is
needed must have been imported and opened before. A kernel without one of these goes on without it: the
extractor itself keeps every path beneath its root (storage.archive), this is the second wall.

Numbers: linux/capability.h, linux/landlock.h, linux/sched.h, linux/prctl.h.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SYS_ADMIN = 21
"""trusted.* attributes: overlay's opaque marks."""
CAP_MKNOD = 27
CAP_SETFCAP = 31
KEPT = (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_SYS_ADMIN,
    CAP_MKNOD,
    CAP_SETFCAP,
)
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
CLONE_NEWUTS = 0x04000000
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446

_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""LANDLOCK_ACCESS_FS_*: all rights each ABI version knows."""

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """SIGKILL when the parent goes; ends at once when it has gone already."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def no_new_privileges() -> None:
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def confine(directory: int) -> None:
    """Leaves this process nothing but its open descriptors and what lies beneath `directory`."""
    no_new_privileges()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    _libc.unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    os.fchdir(directory)
    _landlock(directory)
    _keep_capabilities(KEPT)


def _landlock(directory: int) -> None:
    version = _libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return
    rights = max(known for known in _RIGHTS.items() if known[0] <= version)[1]
    attributes = struct.pack("=Q", rights)
    rules = _libc.syscall(SYS_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return
    beneath = struct.pack("=Qi", rights, directory)
    _libc.syscall(SYS_LANDLOCK_ADD_RULE, rules, LANDLOCK_RULE_PATH_BENEATH, beneath, 0)
    _libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _keep_capabilities(kept: tuple[int, ...]) -> None:
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0))

"""The one error of this package.

    OSError-like facts (file, value, errno)
    └── CgroupError    a cgroup file or directory could not be made, read, written or removed, or a
                       resource setting makes no sense on this hierarchy

It is not an OSError: the kernel says only "Invalid argument", while which file refused which value is
what a user needs. `errno` stays available (0 when the request was refused before the kernel saw it).
"""

from __future__ import annotations

import os


class CgroupError(Exception):
    """`str(error)` names the file and the value, e.g.
    `write 4096 to /sys/fs/cgroup/memory/pyd/x/memory.limit_in_bytes: Device or resource busy`."""

    def __init__(self, message: str, *, file: str = "", value: str = "", errno: int = 0) -> None:
        super().__init__(message)
        self.file = file
        self.value = value
        self.errno = errno

    @classmethod
    def of(cls, action: str, file: str, error: OSError, value: str = "") -> CgroupError:
        """The error of a failed `action` ("write", "read", "mkdir" ...) on `file`."""
        number = error.errno or 0
        what = f"{action} {value} to {file}" if value else f"{action} {file}"
        return cls(f"{what}: {os.strerror(number)}", file=file, value=value, errno=number)

"""Compresses one rotated log file; a process of its own, so that the keeper goes on meanwhile.

Run as `python -I -S compress.py FILE`. Writes FILE.gz.tmp, renames it to FILE.gz, then removes FILE: a
reader finds the whole content under at least one of the two names at any time.

A keeper that was killed leaves its compressor running, and the next keeper starts another: a lock on FILE makes that
one wait, and find nothing left to do. So no compressor outlives the one that its keeper waits for before it rotates.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO


def compress(path: str) -> None:
    temporary = f"{path}.gz.tmp"
    try:
        with open(path, "rb") as source:
            fcntl.flock(source, fcntl.LOCK_EX)
            if os.stat(path).st_ino == os.fstat(source.fileno()).st_ino:
                _compress_locked(path, source, temporary)
    except FileNotFoundError:
        return
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _compress_locked(path: str, source: IO[bytes], temporary: str) -> None:
    with open(temporary, "wb") as target:
        os.fchmod(target.fileno(), 0o640)
        status = os.fstat(source.fileno())
        name = f"{status.st_ino}-{status.st_mtime_ns}"  # by which readers know the file again
        with gzip.GzipFile(filename=name, mode="wb", fileobj=target, compresslevel=6, mtime=0) as packed:
            shutil.copyfileobj(source, packed, 256 << 10)
    os.rename(temporary, f"{path}.gz")
    os.unlink(path)


if __name__ == "__main__":
    os.nice(10)
    compress(sys.argv[1])

"""Compresses one rotated log file; a process of its own, so that the keeper goes on meanwhile.

Run as `python -I -S compress.py FILE`. Writes FILE.gz.tmp, renames it to FILE.gz, then removes FILE: a
reader finds the whole content under at least one of the two names at any time.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys


def compress(path: str) -> None:
    temporary = f"{path}.gz.tmp"
    try:
        with open(path, "rb") as source, open(temporary, "wb") as target:
            os.fchmod(target.fileno(), 0o640)
            status = os.fstat(source.fileno())
            name = f"{status.st_ino}-{status.st_mtime_ns}"  # by which readers know the file again
            with gzip.GzipFile(filename=name, mode="wb", fileobj=target, compresslevel=6, mtime=0) as packed:
                shutil.copyfileobj(source, packed, 256 << 10)
        os.rename(temporary, f"{path}.gz")
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    os.unlink(path)


if __name__ == "__main__":
    os.nice(10)
    compress(sys.argv[1])

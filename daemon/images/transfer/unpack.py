"""One layer out of a pipe into a directory, in a process of its own.

stdin   the layer as it came, compressed or not
argv    the directory, the parent's process ID
stdout  one JSON line: {"diff_id", "tar_size", "size", "entries"} or {"error", "message"}

The process sees hostile input, so it gives up all that it does not need (confine.py) before the first
byte is read. It is started anew for every layer, which costs about 50 ms of a processor and leaves no
memory behind.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - nothing can be imported once confined
import hashlib
import json
import os
import sys

import isal.igzip  # noqa: F401
import zstandard  # noqa: F401

from daemon.images.transfer.compression import Decompressed
from daemon.images.transfer.confine import confine, die_with_parent
from storage.archive import ExtractOptions, extract
from storage.errors import DataCorrupted, PydError


class Hashed:
    """Reads through, hashing what passes."""

    def __init__(self, source: Decompressed):
        self._source = source
        self._hash = hashlib.sha256()
        self.count = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    def drain(self) -> None:
        """The padding behind the archive's end is part of the diff ID as well."""
        while self.read(1 << 18):
            pass

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def unpack(source: int, directory: int) -> dict[str, object]:
    with open(source, "rb", buffering=0, closefd=False) as stream:
        plain = Hashed(Decompressed(stream))
        done = extract(plain, directory, ExtractOptions())
        plain.drain()
    return {"diff_id": plain.digest, "tar_size": plain.count, "size": done.size, "entries": done.entries}


def main() -> int:
    die_with_parent(int(sys.argv[2]))
    directory = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(directory)
    status = 0
    try:
        answer = unpack(0, directory)
    except PydError as error:
        answer, status = {"error": type(error).__name__, "message": str(error)}, 1
    except MemoryError:
        answer, status = {"error": DataCorrupted.__name__, "message": "layer needs too much memory"}, 1
    except OSError as error:
        answer, status = {"error": "Internal", "message": f"unpack: {error.strerror}: {error.filename}"}, 1
    os.write(1, json.dumps(answer).encode() + b"\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

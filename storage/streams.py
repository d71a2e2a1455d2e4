"""The two shapes of byte stream that storage takes: nothing wider than what it uses."""

from __future__ import annotations

from typing import Protocol


class Readable(Protocol):
    """Where bytes come from: read(n) gives at most n of them, and b"" only at the end."""

    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """Where bytes go: write(data) takes all of it. `data` must be used or copied before it returns."""

    def write(self, data: bytes | memoryview, /) -> object: ...

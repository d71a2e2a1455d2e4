"""Container output on its way to this process's stdout and stderr.

Output of a container without a terminal comes in frames, `[stream, 0, 0, 0, length as u32 big-endian]`
(Docker Engine API, "ContainerAttach", "Stream format"); with a terminal it comes as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from client.errors import ClientError

Buffer = bytes | memoryview
STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
_HEADER = 8


class Demultiplexer:
    """Frames cut anywhere, to (stream, data) pairs; data is handed on at once and never copied."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = STDOUT
        self._remaining = 0

    def feed(self, chunk: Buffer) -> Iterator[tuple[int, Buffer]]:
        view = memoryview(chunk)
        position, end = 0, len(view)
        while position < end:
            if self._remaining:
                stop = min(end, position + self._remaining)
                self._remaining -= stop - position
                yield self._stream, view[position:stop]
                position = stop
                continue
            taken = min(_HEADER - len(self._head), end - position)
            self._head += bytes(view[position : position + taken])
            position += taken
            if len(self._head) == _HEADER:
                self._stream, self._remaining = self._head[0], int.from_bytes(self._head[4:], "big")
                self._head = b""
                if self._stream > SYSTEM_ERROR:
                    raise ClientError(f"unrecognized stream: {self._stream}")

    def finish(self) -> None:
        """ClientError when the stream ended inside a frame."""
        if self._head or self._remaining:
            raise ClientError("the daemon closed the stream in the middle of a frame")


def demultiplex(chunks: Iterable[Buffer]) -> Iterator[tuple[int, Buffer]]:
    frames = Demultiplexer()
    for chunk in chunks:
        yield from frames.feed(chunk)
    frames.finish()


def write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def copy_output(chunks: Iterable[Buffer], *, framed: bool) -> None:
    """To descriptors 1 and 2, until the end. A frame of stream 3 is the daemon's own error."""
    sys.stdout.flush()
    if not framed:
        for chunk in chunks:
            write_all(1, chunk)
        return
    for stream, data in demultiplex(chunks):
        if stream == SYSTEM_ERROR:
            raise ClientError(f"error from daemon in stream: {bytes(data).decode(errors='replace')}")
        write_all(2 if stream == STDERR else 1, data)

"""The daemon's end of the worker: starts it when something is asked, and lets it go when nothing is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.images.registry.errors import RegistryError
from daemon.images.transfer import descriptors
from storage import errors
from storage.errors import Internal

IDLE = 5.0
"""Seconds without work after which a worker ends."""
STOPPING = 5.0
"""Seconds that a cancelled operation gets for stopping its processes."""
LONGEST_LINE = 64 << 20
ROOT = str(Path(__file__).parents[3])
_BOOT = f"import sys; sys.path.insert(0, {ROOT!r})\nfrom daemon.images.transfer.worker import main\nmain()"

Progress = Callable[[dict[str, Any]], None]


class _Process:
    """One running worker and the requests it has not answered."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        channel: socket.socket,
    ):
        self.process, self.reader, self.writer, self.channel = process, reader, writer, channel
        self.pending: dict[int, tuple[asyncio.Future[Any], Progress | None]] = {}
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            while line := await self.reader.readline():
                self._dispatch(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            self.writer.close()
            self.channel.close()
            for future, _ in self.pending.values():
                if not future.done():
                    future.set_exception(Internal("the image worker ended unexpectedly"))
            await self.process.wait()

    def _dispatch(self, message: dict[str, Any]) -> None:
        future, progress = self.pending.get(message["seq"], (None, None))
        if future is None or future.done():
            return
        if "progress" in message:
            if progress is not None:
                progress(message["progress"])
        elif "error" in message:
            future.set_exception(_error(message["error"]))
        else:
            future.set_result(message["result"])


def _error(fields: dict[str, Any]) -> Exception:
    if "registry" in fields:
        return RegistryError.of(fields["registry"])
    kind = getattr(errors, fields["kind"], Internal)
    made = kind(fields["message"])
    assert isinstance(made, Exception)
    return made


class Worker:
    """A worker that is there when needed; `data` is an archive's descriptor, which is handed over to it."""

    BOOT = _BOOT
    """What the process runs; another kind of worker with the same protocol names its own."""
    IDLE = IDLE

    def __init__(self, content_root: Path, data: int | None = None):
        self._content_root = content_root
        self._data = data
        self._numbers = itertools.count(1)
        self._current: _Process | None = None
        self._starting = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._holds = 0

    @contextlib.contextmanager
    def held(self) -> Any:
        """Keeps the process (and so its sessions) for the length of a `with` block."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._maybe_idle()

    async def call(
        self, op: str, *, progress: Progress | None = None, fd: int | None = None, **arguments: Any
    ) -> Any:
        """One operation's result; cancelling the caller cancels the operation.

        `fd` is taken over and goes along, as the operation's argument of that name.
        """
        try:
            process, seq = await self._running(), next(self._numbers)
            if fd is not None:
                descriptors.send(process.channel, seq, fd)
                arguments["fd"] = True
        finally:
            if fd is not None:
                os.close(fd)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        process.pending[seq] = (future, progress)
        try:
            process.writer.write(json.dumps({"seq": seq, "op": op, **arguments}).encode() + b"\n")
            return await asyncio.shield(future)  # being cancelled must not pass for an answer
        except asyncio.CancelledError:
            if not process.writer.is_closing() and not future.done():
                process.writer.write(json.dumps({"cancel": seq}).encode() + b"\n")
                await asyncio.wait([future], timeout=STOPPING)  # nothing writes to our files any more
            if future.done() and not future.cancelled():
                future.exception()
            raise
        finally:
            process.pending.pop(seq, None)
            self._maybe_idle()

    async def close(self, *, kill: bool = False) -> None:
        """Ends the process now."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._current = self._current, None
        if process is not None:
            if kill:
                with contextlib.suppress(ProcessLookupError):
                    process.process.kill()
            process.writer.close()
            await asyncio.gather(process.listening, return_exceptions=True)
        self._close_data()

    async def start(self) -> None:
        """Starts the process, and with it hands over the archive's descriptor."""
        await self._running()

    async def _running(self) -> _Process:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        async with self._starting:
            if self._current is None or self._current.writer.is_closing():
                self._current = await self._spawn()
            return self._current

    async def _spawn(self) -> _Process:
        ours, theirs = socket.socketpair()
        channel, far_end = descriptors.pair()
        passed = [theirs.fileno(), far_end.fileno()] + ([self._data] if self._data is not None else [])
        arguments = [str(theirs.fileno()), str(far_end.fileno()), str(os.getpid()), str(self._content_root)]
        arguments += [str(self._data)] if self._data is not None else []
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-c",
                self.BOOT,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=passed,
            )
        except BaseException:
            ours.close()
            channel.close()
            raise
        finally:
            theirs.close()
            far_end.close()
        self._close_data()
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        return _Process(process, reader, writer, channel)

    def _close_data(self) -> None:
        if self._data is not None:
            os.close(self._data)
            self._data = None

    def _maybe_idle(self) -> None:
        process = self._current
        if process is None or process.pending or self._holds or self._idle is not None:
            return
        self._idle = asyncio.get_running_loop().call_later(self.IDLE, self._release, process)

    def _release(self, process: _Process) -> None:
        self._idle = None
        if self._current is process and not process.pending and not self._holds:
            self._current = None
            process.writer.close()

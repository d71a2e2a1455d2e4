"""One run of a command inside a container for the engine's own use: output captured, time bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from daemon.containers import execprocess
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.runtime.client import RuntimeCallError

_ended: dict[str, asyncio.Future[int]] = {}

KILL_PATIENCE = 5.0
"""Seconds that a killed command gets to be gone, so that dying probes don't pile up."""


class ProbeTimeout(Exception):
    """The command was killed because it took too long; `output` is what it had said."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def on_exit(exec_id: str, status: int) -> bool:
    """True when the exec was a probe."""
    future = _ended.pop(exec_id, None)
    if future is None:
        return False
    if not future.done():
        future.set_result(status)
    return True


class Output:
    """The first `limit` bytes of what came; "..." stands for the rest (moby's limitedBuffer)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = b""
        self._truncated = False

    def add(self, data: bytes) -> None:
        room = self._limit - len(self._data)
        self._data += data[:room]
        self._truncated = self._truncated or len(data) > room

    def __str__(self) -> str:
        return self._data.decode(errors="replace") + ("..." if self._truncated else "")


class Probe:
    """`await Probe(ctx, container, argv, exec_id).run(timeout, limit)`, once."""

    def __init__(self, ctx: Context, container: Container, argv: list[str], exec_id: str) -> None:
        self._ctx, self._container, self._argv, self._id = ctx, container, argv, exec_id

    async def run(self, timeout: float, limit: int) -> tuple[str, int]:
        """Output (stdout and stderr as they came, at most `limit` bytes) and exit code.

        Raises ProbeTimeout after killing the command, RuntimeCallError when it could not be started.
        """
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        _ended[self._id] = ended
        mine, theirs = socket.socketpair()
        output = Output(limit)
        reading: asyncio.Task[None] | None = None
        try:
            await self._start(theirs)
            reading = asyncio.ensure_future(_read(mine, output))
            async with asyncio.timeout(timeout):
                code = await ended
                await reading
            self._publish("exec_die", exitCode=str(code))
        except TimeoutError:
            await self._kill()
            await asyncio.wait([ended], timeout=KILL_PATIENCE)
            raise ProbeTimeout(str(output)) from None
        except asyncio.CancelledError:
            self._ctx.spawn(self._kill(), f"kill probe {self._id[:12]}")
            raise
        finally:
            _ended.pop(self._id, None)
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            mine.close()
            theirs.close()
        return str(output), code

    async def _start(self, theirs: socket.socket) -> None:
        runtime, cid = self._ctx.runtime, self._container.id
        self._publish(f"exec_create: {' '.join(self._argv)}")
        await runtime.attach(
            cid, theirs, exec_id=self._id, stdin=False, stdout=True, stderr=True, tty=False, framed=False
        )
        theirs.close()
        process = await execprocess.process(self._ctx, self._container, self._argv, {})
        await runtime.exec(cid, self._id, process, open_stdin=False, tty=False)
        self._publish(f"exec_start: {' '.join(self._argv)}")

    def _publish(self, action: str, **attributes: str) -> None:
        self._ctx.publish(self._container, action, execID=self._id, **attributes)

    async def _kill(self) -> None:
        with contextlib.suppress(RuntimeCallError):
            await self._ctx.runtime.kill(self._container.id, 9, exec_id=self._id)


async def _read(mine: socket.socket, output: Output) -> None:
    loop = asyncio.get_running_loop()
    mine.setblocking(False)
    while data := await loop.sock_recv(mine, 65536):
        output.add(data)

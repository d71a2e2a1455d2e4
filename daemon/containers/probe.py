"""One run of a command inside a container for the engine's own use: output captured, time bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

from daemon.containers import merge
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.spec import security
from daemon.containers.surroundings import hostname_of
from daemon.runtime.client import NotRunning

_ended: dict[str, asyncio.Future[int]] = {}


def on_exit(exec_id: str, status: int) -> bool:
    """True when the exec was a probe."""
    future = _ended.pop(exec_id, None)
    if future is None:
        return False
    if not future.done():
        future.set_result(status)
    return True


class Probe:
    def __init__(self, ctx: Context, container: Container, argv: list[str], exec_id: str) -> None:
        self._ctx, self._container, self._argv, self._id = ctx, container, argv, exec_id

    async def run(
        self, mine: socket.socket, theirs: socket.socket, timeout: float, limit: int
    ) -> tuple[str, int]:
        """Output (stdout and stderr as they came, at most `limit` bytes) and exit code.

        Raises TimeoutError after killing the command, RuntimeCallError when it could not be started.
        """
        runtime, cid = self._ctx.runtime, self._container.id
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        _ended[self._id] = ended
        try:
            await runtime.attach(
                cid, theirs, exec_id=self._id, stdin=False, stdout=True, stderr=True, tty=False, framed=False
            )
            theirs.close()
            await runtime.exec(cid, self._id, await self._process(), open_stdin=False, tty=False)
            reading = asyncio.ensure_future(_read(mine, limit))
            try:
                async with asyncio.timeout(timeout):
                    code = await ended
                    output = await reading
            except TimeoutError:
                reading.cancel()
                with contextlib.suppress(NotRunning):
                    await runtime.kill(cid, 9, exec_id=self._id)
                raise
            return output.decode(errors="replace"), code
        finally:
            _ended.pop(self._id, None)

    async def _process(self) -> dict[str, Any]:
        container, ctx = self._container, self._ctx
        identity = await ctx.users.identity(container, container.config.get("User") or "", ())
        caps = security.capabilities(container.host)
        return {
            "terminal": False,
            "user": identity.as_oci(),
            "args": self._argv,
            "env": merge.environment(
                container.config, hostname=hostname_of(container, ctx.registry), home=identity.home
            ),
            "cwd": container.config.get("WorkingDir") or "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        }


async def _read(mine: socket.socket, limit: int) -> bytes:
    loop = asyncio.get_running_loop()
    mine.setblocking(False)
    collected = b""
    while data := await loop.sock_recv(mine, 65536):
        collected = (collected + data)[:limit]
    return collected

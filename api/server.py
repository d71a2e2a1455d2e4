"""uvicorn's protocol on asyncio's servers, without uvicorn's main loop.

uvicorn.Server wakes ten times a second and knows one kind of listener; an idle pydd wakes for nothing,
and listens on plain and TLS sockets at once. What is left of it is its protocol and its state object.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from api.hijack import HijackProtocol
from api.listeners import BACKLOG, Listener
from api.versions import CURRENT, text

log = logging.getLogger("pyd.api")

VERSION = "0.1.0"
KEEP_ALIVE = 600
"""Seconds an idle connection is kept; Docker's clients keep theirs and expect them to work."""

Headers = list[tuple[bytes, bytes]]


class State(ServerState):
    """Headers that every answer has; Date is made when it is asked for, once a second at most."""

    def __init__(self) -> None:
        self._second = 0
        self._headers: Headers = []
        super().__init__()

    @property
    def default_headers(self) -> Headers:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._headers = [
                (b"Api-Version", text(CURRENT).encode()),
                (b"Docker-Experimental", b"false"),
                (b"Ostype", b"linux"),
                (b"Server", f"pyd/{VERSION} (linux)".encode()),
                (b"Date", formatdate(now, usegmt=True).encode()),
            ]
        return self._headers

    @default_headers.setter
    def default_headers(self, value: Headers) -> None:
        """ServerState's constructor sets an empty list; ours are computed."""


class Server:
    """Serves one application on any number of listeners.

    Lifecycle: `await start()`, then `await stop(timeout)`: no new connections, running requests get
    `timeout` seconds, then they are cancelled. Hijacked connections are not ours any more and stay.
    """

    def __init__(
        self, app: ASGIApp, listeners: Sequence[Listener], tls: ssl.SSLContext | None = None
    ) -> None:
        self.listeners = listeners
        self._tls = tls
        self._state = State()
        self._servers: list[asyncio.Server] = []
        self._config = uvicorn.Config(
            app,
            http=HijackProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._config.load()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            secure = self._tls if listener.secure else None
            server = await loop.create_server(
                self._protocol, sock=listener.socket, ssl=secure, backlog=BACKLOG
            )
            self._servers.append(server)
            log.info("API listen on %s", listener.address)

    def _protocol(self) -> HijackProtocol:
        return HijackProtocol(self._config, self._state, {})

    async def stop(self, timeout: float) -> None:
        for server in self._servers:
            server.close()
        for listener in self.listeners:
            listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.close()


def tls_context(certificate: Path, key: Path, authority: Path | None, *, verify: bool) -> ssl.SSLContext:
    """The server's side of TLS; with `verify` a client must show a certificate of `authority`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    if verify:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context

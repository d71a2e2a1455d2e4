"""The userland proxy: connections to a published port that the kernel's DNAT did not take.

In practice these are IPv6 clients of an IPv4 container (`localhost` is often ::1 first). It runs in the
daemon on the sockets that hold the ports (ports.py), without a process per port. The container sees the
bridge's gateway as its peer, as with docker-proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from ipaddress import IPv4Address
from typing import Any

from daemon.network.ports import Bound

log = logging.getLogger(__name__)
CHUNK = 1 << 16
Peer = tuple[Any, ...]
"""A socket address, as recvfrom gives it."""
UDP_IDLE = 90.0
"""Seconds that an unanswered UDP client is remembered, as docker-proxy."""
MAX_UDP_CLIENTS = 1024


class TcpProxy:
    """Accepts on a listening socket and joins each connection with one to the container."""

    def __init__(self, listener: socket.socket, address: IPv4Address, port: int) -> None:
        self._listener = listener
        self._target = str(address), port
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting and cut what is joined; the listening socket is its owner's."""
        self._loop.remove_reader(self._listener.fileno())
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _peer = self._listener.accept()
            client.setblocking(False)
            task = self._loop.create_task(self._join(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _join(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setblocking(False)
        with client, server, contextlib.suppress(OSError):
            await self._loop.sock_connect(server, self._target)
            await asyncio.gather(self._copy(client, server), self._copy(server, client))

    async def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := await self._loop.sock_recv(source, CHUNK):
                await self._loop.sock_sendall(sink, data)
        finally:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


class UdpProxy:
    """Gives each client address a socket towards the container, until it is idle."""

    def __init__(self, holder: socket.socket, address: IPv4Address, port: int) -> None:
        self._holder = holder
        self._target = str(address), port
        self._clients: dict[Peer, tuple[socket.socket, asyncio.TimerHandle]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(holder.fileno(), self._inward)

    def close(self) -> None:
        self._loop.remove_reader(self._holder.fileno())
        for client in list(self._clients):
            self._forget(client)

    def _inward(self) -> None:
        with contextlib.suppress(OSError):
            data, client = self._holder.recvfrom(CHUNK)
            known = self._clients.get(client)
            if known is None and len(self._clients) >= MAX_UDP_CLIENTS:
                self._forget(next(iter(self._clients)))
            server = known[0] if known else self._connect(client)
            self._touch(client, server)
            server.send(data)

    def _connect(self, client: Peer) -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.setblocking(False)
        server.connect(self._target)
        self._loop.add_reader(server.fileno(), self._outward, client, server)
        return server

    def _outward(self, client: Peer, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            data = server.recv(CHUNK)
            self._touch(client, server)
            self._holder.sendto(data, client)

    def _touch(self, client: Peer, server: socket.socket) -> None:
        if known := self._clients.pop(client, None):
            known[1].cancel()
        self._clients[client] = server, self._loop.call_later(UDP_IDLE, self._forget, client)

    def _forget(self, client: Peer) -> None:
        server, timer = self._clients.pop(client)
        timer.cancel()
        self._loop.remove_reader(server.fileno())
        server.close()


Proxy = TcpProxy | UdpProxy


def serve(bound: Bound, holder: socket.socket, address: IPv4Address) -> Proxy | None:
    """The proxy behind one host port; None for protocols it cannot carry."""
    match bound.protocol:
        case "tcp":
            return TcpProxy(holder, address, bound.port)
        case "udp":
            return UdpProxy(holder, address, bound.port)
    return None

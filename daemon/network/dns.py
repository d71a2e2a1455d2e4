"""The name service of user-defined networks: 127.0.0.11 inside a container, answered by the daemon.

Two sockets per sandbox, opened inside its namespace at 127.0.0.11 on ports that the kernel chooses; a
small nftables table in the namespace leads port 53 there. (Binding 53 itself would take it from a
container that is a name server.) Names of containers that share a network are answered from `Names`;
everything else goes to the servers of --dns, asked from inside the container's namespace, or to the
host's, asked from the host's; a container on internal networks only gets no such answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from daemon.network import dnswire
from daemon.network.dnswire import Query
from daemon.network.namespaces import Namespace, entered
from daemon.network.nftables import Nftables
from daemon.network.resolv import INTERNAL_RESOLVER
from daemon.network.sandboxes import Endpoint, Sandbox

log = logging.getLogger(__name__)
TIMEOUT = 4.0
"""Seconds for one outside server."""
MAX_PENDING = 256
"""Queries of one container under way; more are dropped, as by any busy name server."""
MAX_TCP = 64
_RULES = """\
add table ip pyd_dns
delete table ip pyd_dns
table ip pyd_dns {{
  chain output {{
    type nat hook output priority -100; policy accept;
    ip daddr {address} udp dport 53 dnat to {address}:{udp}
    ip daddr {address} tcp dport 53 dnat to {address}:{tcp}
  }}
}}
"""


class Names:
    """Who is called what in which network. Names are compared in lower case."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], dict[str, IPv4Address]] = defaultdict(dict)
        self._by_address: dict[tuple[str, IPv4Address], str] = {}

    def add(self, endpoint: Endpoint) -> None:
        if endpoint.interface is None or not endpoint.names:
            return
        address = endpoint.interface.address.ip
        for name in endpoint.names:
            self._by_name[endpoint.network_id, name.lower()][endpoint.id] = address
        self._by_address[endpoint.network_id, address] = f"{endpoint.names[0]}.{endpoint.network}"

    def discard(self, endpoint: Endpoint) -> None:
        if endpoint.interface is None:
            return
        for name in endpoint.names:
            holders = self._by_name.get((endpoint.network_id, name.lower()), {})
            holders.pop(endpoint.id, None)
            if not holders:
                self._by_name.pop((endpoint.network_id, name.lower()), None)
        self._by_address.pop((endpoint.network_id, endpoint.interface.address.ip), None)

    def addresses(self, asker: Iterable[Endpoint], name: str) -> list[IPv4Address]:
        """Addresses of `name`, or `name.network`, in the asker's networks; in random order."""
        found: dict[IPv4Address, None] = {}
        for endpoint in asker:
            suffix = f".{endpoint.network.lower()}"
            for candidate in (linked(endpoint, name), name, name.removesuffix(suffix)):
                holders = self._by_name.get((endpoint.network_id, candidate))
                if holders:
                    found.update(dict.fromkeys(holders.values()))
                    break
        return random.sample(list(found), len(found))

    def name(self, asker: Iterable[Endpoint], address: IPv4Address) -> str | None:
        return next(
            (
                self._by_address[key]
                for endpoint in asker
                if (key := (endpoint.network_id, address)) in self._by_address
            ),
            None,
        )


def linked(endpoint: Endpoint, name: str) -> str:
    """The true name behind an alias of `--link target:alias`, which only this endpoint knows."""
    for link in endpoint.settings.get("Links") or ():
        target, _, alias = link.partition(":")
        if (alias or target).lower() == name:
            return target.lower()
    return ""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The two sockets at 127.0.0.11 inside a sandbox."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def open_sockets(namespace: Namespace) -> Sockets:
    """Runs in the worker thread; replaces what an earlier daemon had set up there."""
    with entered(namespace.fd), contextlib.ExitStack() as undo:
        udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        tcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        udp.bind((INTERNAL_RESOLVER, 0))
        tcp.bind((INTERNAL_RESOLVER, 0))
        tcp.listen(MAX_TCP)
        firewall = Nftables()
        try:
            ports = {"udp": udp.getsockname()[1], "tcp": tcp.getsockname()[1]}
            firewall.run(_RULES.format(address=INTERNAL_RESOLVER, **ports))
        finally:
            firewall.close()
        udp.setblocking(False)
        tcp.setblocking(False)
        undo.pop_all()
        return Sockets(udp, tcp)


def outside_socket(namespace: Namespace | None, kind: socket.SocketKind) -> socket.socket:
    """A socket to ask an outside server with; runs in the worker thread when in a namespace."""
    if namespace is None:
        made = socket.socket(socket.AF_INET, kind)
    else:
        with entered(namespace.fd):
            made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    return made


Opener = Callable[[Namespace | None, socket.SocketKind], Awaitable[socket.socket]]


class Resolver:
    """Serves one sandbox; `sandbox` is asked at each query, since endpoints come and go."""

    def __init__(
        self,
        sandbox: Callable[[], Sandbox | None],
        names: Names,
        sockets: Sockets,
        opener: Opener,
        host_servers: Callable[[], Sequence[str]],
    ) -> None:
        self._sandbox = sandbox
        self._names = names
        self._sockets = sockets
        self._open = opener
        self._host_servers = host_servers
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sockets.udp.fileno(), self._datagram)
        self._loop.add_reader(sockets.tcp.fileno(), self._connection)

    def close(self) -> None:
        for each in (self._sockets.udp, self._sockets.tcp):
            self._loop.remove_reader(each.fileno())
        self._sockets.close()
        for task in self._tasks:
            task.cancel()

    def answer(self, query: Query) -> bytes | None:
        """The reply from what the daemon knows; None: someone else must be asked."""
        sandbox = self._sandbox()
        endpoints = sandbox.endpoints if sandbox else []
        if address := query.reversed_address:
            name = self._names.name(endpoints, address)
            return dnswire.answer_name(query, name) if name else None
        if query.type not in (dnswire.A, dnswire.AAAA, dnswire.ANY):
            return None
        addresses = self._names.addresses(endpoints, query.name)
        return dnswire.answer_addresses(query, addresses) if addresses else None

    def _datagram(self) -> None:
        with contextlib.suppress(OSError):
            data, client = self._sockets.udp.recvfrom(4096)
            try:
                query = dnswire.parse_query(data)
            except dnswire.Malformed:
                return
            reply = self.answer(query)
            if reply is not None:
                self._sockets.udp.sendto(reply, client)
            elif len(self._tasks) < MAX_PENDING:
                self._spawn(self._forward_datagram(data, query, client))

    async def _forward_datagram(self, data: bytes, query: Query, client: tuple[str, int]) -> None:
        reply = await self._ask(data, query, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            self._sockets.udp.sendto(dnswire.truncated(reply, query.size), client)

    def _connection(self) -> None:
        with contextlib.suppress(OSError):
            client, _peer = self._sockets.tcp.accept()
            client.setblocking(False)
            if len(self._tasks) >= MAX_PENDING:
                client.close()
            else:
                self._spawn(self._stream(client))

    async def _stream(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(TIMEOUT * 3):
                    data = await _receive(client)
                    try:
                        query = dnswire.parse_query(data)
                    except dnswire.Malformed:
                        return
                    reply = self.answer(query) or await self._ask(data, query, socket.SOCK_STREAM)
                    await self._loop.sock_sendall(client, len(reply).to_bytes(2, "big") + reply)

    async def _ask(self, data: bytes, query: Query, kind: socket.SocketKind) -> bytes:
        """The first outside server's reply; SERVFAIL when none may be or can be asked."""
        sandbox = self._sandbox()
        if sandbox is None or sandbox.gateway() is None:
            return dnswire.refuse(query, dnswire.SERVFAIL)
        servers = sandbox.dns or tuple(self._host_servers())
        inside = sandbox.namespace if sandbox.dns else None
        for server in servers:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIMEOUT):
                    return await self._ask_server(data, server, kind, inside)
        return dnswire.refuse(query, dnswire.SERVFAIL)

    async def _ask_server(
        self, data: bytes, server: str, kind: socket.SocketKind, inside: Namespace | None
    ) -> bytes:
        with await self._open(inside, kind) as outside:
            await self._loop.sock_connect(outside, (server, 53))
            if kind == socket.SOCK_STREAM:
                await self._loop.sock_sendall(outside, len(data).to_bytes(2, "big") + data)
                return await _receive(outside)
            await self._loop.sock_sendall(outside, data)
            while True:
                reply = await self._loop.sock_recv(outside, 65535)
                if dnswire.answers_to(data, reply):
                    return reply

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("name service: query failed", exc_info=error)


async def _receive(stream: socket.socket) -> bytes:
    """One message with its two-byte length, as DNS over TCP has it."""
    loop = asyncio.get_running_loop()

    async def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = await loop.sock_recv(stream, count - len(data))
            if not part:
                raise asyncio.IncompleteReadError(data, count)
            data += part
        return data

    return await exactly(int.from_bytes(await exactly(2), "big"))

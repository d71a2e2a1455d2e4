"""Published ports: what `-p` asks for, which host ports are free, and the sockets that hold them.

The kernel forwards by DNAT (firewall.py). A bound, listening socket stands behind each published port
all the same, for three reasons: another program that wants the port gets EADDRINUSE, as with dockerd; a
port that another program has is refused before anything is set up; and what DNAT does not catch, which
is IPv6 clients of an IPv4 container, is served through it (proxy.py).

Planning is pure: `parse` turns Docker's maps into `Want`s; `PortAllocator.reserve` chooses host ports.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from daemon.containers.wire import PortBinding
from storage.errors import Internal, InvalidArgument

PROTOCOLS = ("tcp", "udp", "sctp")
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
IPPROTO_SCTP = 132
BACKLOG = 4096

HostIP = IPv4Address | IPv6Address
ANY4, ANY6 = IPv4Address(0), IPv6Address(0)


class PortConflict(Internal):
    """A host port cannot be had. Docker answers 500 with this text inside a longer one."""


@dataclass(frozen=True, slots=True)
class Want:
    """One binding as asked for. `first`..`last` is the host's range; both 0: any ephemeral port."""

    protocol: str
    port: int
    host_ip: HostIP | None
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Bound:
    """One host port given to a container's port; several of one `Want` (IPv4, IPv6) share the number."""

    protocol: str
    port: int
    host_ip: HostIP
    host_port: int

    @property
    def key(self) -> str:
        return f"{self.port}/{self.protocol}"


def parse_port(spec: str) -> tuple[int, str]:
    """`80/tcp` or `80`."""
    number, _, protocol = spec.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid port specification: {spec!r}: unknown protocol {protocol}")
    return _number(number, spec), protocol


def parse(
    bindings: Mapping[str, Sequence[PortBinding] | None], exposed: Iterable[str], *, publish_all: bool
) -> list[Want]:
    """All bindings of a container, in a stable order; `publish_all` adds exposed ports not bound yet."""
    wants = []
    for spec, entries in bindings.items():
        port, protocol = parse_port(spec)
        for entry in entries or ():
            first, last = _host_range(entry.get("HostPort") or "", spec)
            wants.append(Want(protocol, port, _host_ip(entry.get("HostIp") or ""), first, last))
    if publish_all:
        for spec in exposed:
            port, protocol = parse_port(spec)
            if not bindings.get(spec):
                wants.append(Want(protocol, port, None, 0, 0))
    return sorted(wants, key=lambda want: (want.protocol, want.port, want.first == 0, want.first))


def port_map(bound: Iterable[Bound], exposed: Iterable[str]) -> dict[str, list[PortBinding] | None]:
    """`NetworkSettings.Ports`."""
    found: dict[str, list[PortBinding] | None] = {}
    for one in bound:
        entry = PortBinding(HostIp=str(one.host_ip), HostPort=str(one.host_port))
        found[one.key] = [*(found.get(one.key) or []), entry]
    for spec in exposed:
        port, protocol = parse_port(spec)
        found.setdefault(f"{port}/{protocol}", None)
    return found


class PortAllocator:
    """The host ports this daemon gave away, and the sockets that hold them."""

    def __init__(self, *, ipv6: bool) -> None:
        self._ipv6 = ipv6
        self._taken: dict[tuple[str, HostIP, int], socket.socket | None] = {}
        self._next = 0

    def reserve(self, want: Want, address: IPv4Address) -> list[Bound]:
        """A free host port for the binding, held from now on; one entry per address family."""
        hosts = self._hosts(want)
        conflict = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        for host_port in self._candidates(want):
            if any(self.is_taken(want.protocol, host, host_port) for host in hosts):
                if want.first == want.last != 0:
                    raise PortConflict(f"Bind for {hosts[0]}:{host_port} failed: port is already allocated")
                continue
            try:
                self._hold(want.protocol, hosts, host_port)
            except OSError as error:
                conflict = error
                if want.first != want.last or want.first == 0:
                    continue
                text = (error.strerror or str(error)).lower()
                raise PortConflict(
                    f"failed to bind host port for {hosts[0]}:{host_port}:{address}:{want.port}"
                    f"/{want.protocol}: {text}"
                ) from error
            if want.first == 0:
                self._next = host_port + 1
            return [Bound(want.protocol, want.port, host, host_port) for host in hosts]
        if want.first:
            raise PortConflict(
                f"Bind for {hosts[0]}:{want.first}-{want.last} failed: port is already allocated"
            )
        raise PortConflict(
            f"failed to bind host port for {hosts[0]}: {conflict.strerror}: all ports are allocated"
        )

    def restore(self, bound: Bound) -> bool:
        """Hold a port that a running container had before a restart; False: someone else has it."""
        key = (bound.protocol, bound.host_ip, bound.host_port)
        try:
            self._hold(bound.protocol, [bound.host_ip], bound.host_port)
        except OSError:
            self._taken[key] = None
            return False
        return True

    def holder(self, bound: Bound) -> socket.socket | None:
        """The socket behind a port; None where the protocol has none (sctp without kernel support)."""
        return self._taken.get((bound.protocol, bound.host_ip, bound.host_port))

    def release(self, bound: Iterable[Bound]) -> None:
        for one in bound:
            held = self._taken.pop((one.protocol, one.host_ip, one.host_port), None)
            if held is not None:
                held.close()

    def close(self) -> None:
        for held in self._taken.values():
            if held is not None:
                held.close()
        self._taken.clear()

    def is_taken(self, protocol: str, host: HostIP, port: int) -> bool:
        """Whether the port is ours on that address, or on the family's any-address, or for any when asked."""
        wild = ANY4 if host.version == 4 else ANY6
        if host == wild:
            return any(
                (kind, other.version, number) == (protocol, host.version, port)
                for kind, other, number in self._taken
            )
        return (protocol, host, port) in self._taken or (protocol, wild, port) in self._taken

    def _hosts(self, want: Want) -> list[HostIP]:
        if want.host_ip is not None:
            return [want.host_ip]
        return [ANY4, ANY6] if self._ipv6 else [ANY4]

    def _candidates(self, want: Want) -> Iterable[int]:
        if want.first:
            return range(want.first, want.last + 1)
        low, high = _ephemeral()
        start = self._next if low <= self._next <= high else low
        return itertools.chain(range(start, high + 1), range(low, start))

    def _hold(self, protocol: str, hosts: Iterable[HostIP], port: int) -> None:
        with contextlib.ExitStack() as undo:
            made = []
            for host in hosts:
                held = _bind(protocol, host, port)
                if held is not None:
                    undo.callback(held.close)
                made.append((host, held))
            undo.pop_all()
        for host, held in made:
            self._taken[protocol, host, port] = held


def _bind(protocol: str, host: HostIP, port: int) -> socket.socket | None:
    """A socket that holds the port: listening for tcp and sctp, bound for udp."""
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    try:
        held = socket.socket(
            family,
            socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM,
            IPPROTO_SCTP if protocol == "sctp" else 0,
        )
    except OSError:
        if protocol == "sctp":
            return None
        raise
    try:
        held.setblocking(False)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((str(host), port))
        if protocol != "udp":
            held.listen(BACKLOG)
    except BaseException:
        held.close()
        raise
    return held


def _ephemeral() -> tuple[int, int]:
    """The range for ports that nobody chose, as dockerd: the kernel's own."""
    try:
        low, high = LOCAL_PORTS.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 49153, 65535


def _host_range(text: str, spec: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    low, dash, high = text.partition("-")
    first = _number(low, text)
    last = _number(high, text) if dash else first
    if last < first:
        raise InvalidArgument(f"invalid port range {text!r} for {spec}: it ends before it begins")
    return first, last


def _number(text: str, spec: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise InvalidArgument(f"invalid port specification: {spec!r}: value out of range (0–65535)")
    return int(text)


def _host_ip(text: str) -> HostIP | None:
    if not text:
        return None
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        raise InvalidArgument(f"invalid IP address in port mapping: {text!r}") from None

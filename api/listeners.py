"""Sockets that the daemon listens on: `unix://PATH`, `tcp://HOST:PORT`, `fd://[NAME|*]`."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from api.systemd import listen_sockets
from storage.errors import InvalidArgument

BACKLOG = 1024
GROUPS = ("docker", "pyd")
PORT, TLS_PORT = 2375, 2376


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; `path` is the file to remove at the end, for those we made."""

    socket: socket.socket
    address: str
    secure: bool = False
    path: Path | None = None

    def close(self) -> None:
        self.socket.close()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def open_listeners(hosts: tuple[str, ...], *, tls: bool, group: str | None = None) -> list[Listener]:
    """All of `hosts`, or none: an error closes those already open."""
    opened: list[Listener] = []
    passed = listen_sockets()
    try:
        for host in hosts:
            opened += open_host(host, tls=tls, group=group, passed=passed)
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return opened


def open_host(
    host: str, *, tls: bool, group: str | None, passed: list[tuple[str, socket.socket]]
) -> list[Listener]:
    parts = urlsplit(host)
    match parts.scheme:
        case "unix":
            return [open_unix(Path(parts.netloc + parts.path), group)]
        case "tcp":
            return open_tcp(parts.hostname or "localhost", _port(host, parts.port, tls), tls)
        case "fd":
            return _take_passed(host, parts.netloc + parts.path, tls, passed)
        case _:
            raise InvalidArgument(f"invalid bind address ({host}): unsupported proto: {parts.scheme}")


def _port(host: str, port: int | None, tls: bool) -> int:
    return port if port is not None else (TLS_PORT if tls else PORT)


def _take_passed(
    host: str, wanted: str, tls: bool, passed: list[tuple[str, socket.socket]]
) -> list[Listener]:
    """Sockets of systemd: all of them for `fd://` and `fd://*`, else by number or name."""
    chosen = [(name, taken) for name, taken in passed if wanted in ("", "*", name, str(taken.fileno()))]
    if not chosen:
        raise InvalidArgument(
            f"no sockets found via socket activation for {host}: make sure the service was started by systemd"
        )
    secure = [tls and taken.family != socket.AF_UNIX for _, taken in chosen]
    for _, taken in chosen:
        taken.setblocking(False)
    return [
        Listener(taken, f"fd://{name}", secured)
        for (name, taken), secured in zip(chosen, secure, strict=True)
    ]


def open_unix(path: Path, group: str | None) -> Listener:
    """0660, owned by root and the group that may use the daemon; a dead daemon's file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(mask)
    owner = _group_id(group)
    if owner is not None:
        os.chown(path, 0, owner)
    path.chmod(0o660)
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return Listener(listening, f"unix://{path}", path=path)


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InvalidArgument(f"can't create unix socket {path}: a file that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise InvalidArgument(f"can't create unix socket {path}: another process listens on it")
    path.unlink()


def _group_id(group: str | None) -> int | None:
    """The group given, which must exist; else the first of docker and pyd that does."""
    if group is not None:
        try:
            return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise InvalidArgument(f"group {group} not found") from None
    for name in GROUPS:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(name).gr_gid
    return None


def open_tcp(host: str, port: int, tls: bool) -> list[Listener]:
    """One socket for every address of `host`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
        opened.append(Listener(listening, f"tcp://{host}:{port}", tls))
    return opened

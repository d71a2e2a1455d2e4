"""Where the daemon is: `unix://`, `tcp://`, `http(s)://` addresses, contexts and TLS files.

Order of precedence: `-H`, `--context`, `PYD_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context of
config.json, then unix:///run/pyd.sock.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import ClientError, ConnectionFailed

if TYPE_CHECKING:
    import ssl

    from client.tls import TlsStream

DEFAULT_HOST = "unix:///run/pyd.sock"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a TLS connection; `verify` asks for the server's certificate to be checked against `ca`."""

    ca: Path
    cert: Path
    key: Path
    verify: bool

    def context(self) -> ssl.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.verify:
            context.load_verify_locations(self.ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert.exists() and self.key.exists():
            context.load_cert_chain(self.cert, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One daemon's address: `scheme` unix or tcp; `path` is the socket's path or an URL prefix."""

    url: str
    scheme: str
    path: str
    host: str = "localhost"
    port: int = 0
    tls: TlsFiles | None = None

    def connect(self, timeout: float | None = None) -> socket.socket:
        """A connected stream socket, TLS already spoken; ConnectionFailed when nobody is there."""
        with self._told():
            plain = self._plain(timeout)
            return self.tls.context().wrap_socket(plain, server_hostname=self.host) if self.tls else plain

    def duplex(self, timeout: float | None = None) -> socket.socket | TlsStream:
        """The same for a connection whose sides end one by one: of a hijacked one, stdin ends first."""
        with self._told():
            plain = self._plain(timeout)
            if self.tls is None:
                return plain
            from client.tls import TlsStream

            return TlsStream(plain, self.tls.context(), self.host)

    def _plain(self, timeout: float | None) -> socket.socket:
        if self.scheme == "unix":
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            plain.settimeout(timeout)
            plain.connect(self.path)
            return plain
        plain = socket.create_connection((self.host, self.port), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Says in docker's words why there is no connection."""
        try:
            yield
        except PermissionError as error:
            raise ConnectionFailed(
                f"permission denied while trying to connect to the pyd daemon socket at {self.url}: {error.strerror}"
            ) from None
        except OSError as error:
            import ssl

            if isinstance(error, ssl.SSLError):
                raise ConnectionFailed(f"error during connect: {self.url}: {error}") from None
            raise ConnectionFailed(
                f"Cannot connect to the pyd daemon at {self.url}. Is the pyd daemon running?"
            ) from None


def parse_endpoint(address: str, tls: TlsFiles | None = None) -> Endpoint:
    """`unix:///run/x.sock`, `tcp://host:2376`, `host:port`; anything else is a ClientError."""
    scheme, separator, rest = address.strip().partition("://")
    if not separator:
        scheme, rest = "tcp", address.strip()
    if scheme == "unix":
        return Endpoint(address, "unix", rest or "/run/pyd.sock")
    if scheme in ("tcp", "http", "https"):
        return _network_endpoint(address, scheme, rest, tls)
    if scheme == "ssh":
        raise ClientError("ssh:// addresses are not supported yet; forward the socket: "
                          "ssh -L /tmp/pyd.sock:/run/pyd.sock HOST")  # fmt: skip
    raise ClientError(
        f"Failed to initialize: unable to resolve pyd endpoint: invalid bind address format: {address}"
    )


def _network_endpoint(address: str, scheme: str, rest: str, tls: TlsFiles | None) -> Endpoint:
    from urllib.parse import urlsplit

    parts = urlsplit(f"//{rest}")
    try:
        port = parts.port or (2376 if tls or scheme == "https" else 2375)
    except ValueError:
        raise ClientError(f"invalid port in host address {address!r}") from None
    return Endpoint(address, "tcp", parts.path.rstrip("/"), parts.hostname or "localhost", port, tls)


def host_from_environment() -> str | None:
    return os.environ.get("PYD_HOST") or os.environ.get("DOCKER_HOST") or None

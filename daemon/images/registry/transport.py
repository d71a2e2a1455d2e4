"""A broken conversation in the words that a Docker user knows: those of Go's net/http."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import ssl
from pathlib import Path

import httpx

from daemon.images.registry.errors import RegistryError

_WORDS = {
    errno.ECONNREFUSED: "connect: connection refused",
    errno.EHOSTUNREACH: "connect: no route to host",
    errno.ENETUNREACH: "connect: network is unreachable",
    errno.ETIMEDOUT: "connect: connection timed out",
    errno.ECONNRESET: "read: connection reset by peer",
    errno.EPIPE: "write: broken pipe",
}


def transport_error(method: str, url: str, error: BaseException) -> RegistryError:
    """A RegistryError `Get "url": cause`; worth a retry unless the other side refuses to talk at all."""
    cause = _cause(url, error)
    fatal = isinstance(error, httpx.ConnectError | httpx.InvalidURL | httpx.UnsupportedProtocol)
    return RegistryError("transport", f'{method.capitalize()} "{url}": {cause}', retry=not fatal)


def _cause(url: str, error: BaseException) -> str:
    address = _address(url)
    if isinstance(error, httpx.ConnectTimeout):
        return f"dial tcp {address}: i/o timeout"
    if isinstance(error, httpx.TimeoutException):
        return "context deadline exceeded (Client.Timeout exceeded while awaiting headers or reading body)"
    for inner in _chain(error):
        if isinstance(inner, ssl.SSLError):
            return _tls(inner)
        if isinstance(inner, socket.gaierror):
            return f"dial tcp: lookup {address.rpartition(':')[0]}{_name_server()}: no such host"
        if isinstance(inner, OSError) and inner.errno in _WORDS:
            word = _WORDS[inner.errno]
            return f"dial tcp {address}: {word}" if word.startswith("connect") else word
    return _by_text(address, error)


def _name_server() -> str:
    """` on ADDRESS:53`: who was asked, as far as resolv.conf tells."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                return f" on {words[1]}:53"
    return ""


def _by_text(address: str, error: BaseException) -> str:
    """anyio and asyncio join several errors into one text; read the number back from it."""
    text = str(error)
    if match := re.search(r"\[Errno (\d+)\]", text):
        number = int(match[1])
        return f"dial tcp {address}: {_WORDS.get(number, os.strerror(number).lower())}"
    if "All connection attempts failed" in text:
        return f"dial tcp {address}: connect: connection refused"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "unexpected EOF" if "incomplete" in text or not text or "without" in text else text
    return text or type(error).__name__


def _tls(error: ssl.SSLError) -> str:
    text = str(error)
    if "WRONG_VERSION_NUMBER" in text or "UNKNOWN_PROTOCOL" in text or "HTTP_REQUEST" in text:
        return "http: server gave HTTP response to HTTPS client"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {error.verify_message or error.reason}"
    return f"tls: {(error.reason or text).lower()}"


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        if isinstance(error, BaseExceptionGroup):
            found += error.exceptions
        error = error.__cause__ or error.__context__
    return found


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return url
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return f"{parsed.host}:{port}"

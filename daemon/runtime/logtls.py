"""Syslog over TLS: a sink whose stream is encrypted (RFC 5425; log options syslog-tls-...).

OpenSSL is loaded by the keeper with the first such log, not before: it takes megabytes. Certificates are read whenever
a connection is made, so that one which was renewed is found; the daemon has tried them when the container started.
"""

from __future__ import annotations

import contextlib
import os
import socket

from daemon.runtime.logremote import Sink
from daemon.runtime.loop import IN, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any

    from daemon.runtime.loop import Loop


def context(files: dict[str, str]) -> ssl.SSLContext:
    """`files`: {ca, cert, key}, each a path or "", and `skip`: "1" for a server that is not verified; a CA counts
    beside the system's own. Raises ValueError in the words of Go's tlsconfig."""
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.get("skip"):
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_default_certs()
        if files.get("ca"):
            _load_authority(made, files["ca"])
    if files.get("cert") or files.get("key"):
        _load_pair(made, files.get("cert", ""), files.get("key", ""))
    return made


def _load_authority(made: ssl.SSLContext, path: str) -> None:
    import ssl

    try:
        made.load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f'failed to append certificates from PEM file: "{path}"') from None
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise ValueError(f'could not read CA certificate "{path}": open {path}: {why}') from None


def _load_pair(made: ssl.SSLContext, cert: str, key: str) -> None:
    import ssl

    failure = "Could not load X509 key pair: "
    for path in (cert, key):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise ValueError(f"{failure}open {path}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        made.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        text = "tls: failed to find any PEM data in certificate input" if "PEM" in str(error) else str(error)
        raise ValueError(failure + text) from None


class TlsSink(Sink):
    """`name` is the one that the server's certificate must have. A handshake waits as little as a message does."""

    def __init__(
        self, loop: Loop, family: int, address: Any, limit: int | None, *, name: str, files: dict[str, str]
    ) -> None:
        super().__init__(loop, family, socket.SOCK_STREAM, address, limit)
        self._name, self._files = name, files
        self._tls: ssl.SSLSocket | None = None
        self._shaken = False

    def _transmit(self, message: bytes) -> int:
        """Raises BlockingIOError when the connection has to be waited for, in the direction of `_awaits`."""
        import ssl

        try:
            if self._tls is None:
                self._wrap()
            assert self._tls is not None
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
            return self._tls.send(message)
        except ssl.SSLWantReadError:
            self._awaits = IN
        except ssl.SSLWantWriteError:
            self._awaits = OUT
        raise BlockingIOError

    def _wrap(self) -> None:
        """Takes the plain socket over."""
        assert self._sock is not None
        try:
            made = context(self._files)
        except ValueError as error:
            raise OSError(0, str(error)) from None
        self._tls = made.wrap_socket(self._sock, server_hostname=self._name, do_handshake_on_connect=False)
        self._sock = self._tls

    def _disconnect(self) -> None:
        """With the close_notify; what the server said (tickets) is read, or closing would reset the connection
        and take from the server what it has not read yet."""
        tls, self._tls = self._tls, None
        if tls is not None and self._shaken:
            with contextlib.suppress(OSError):
                while tls.recv(4096):
                    pass
            with contextlib.suppress(OSError):
                tls.unwrap()
        self._shaken = False
        super()._disconnect()

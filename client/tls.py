"""A TLS connection whose sides end one by one.

`ssl.SSLSocket.unwrap` sends a close_notify and then waits for the peer's, throwing away what comes before it; an
`SSLObject` between two memory BIOs sends it and reads on (RFC 8446, 6.1; SSL_shutdown(3)). And OpenSSL's object must
not be used by two threads at once, which a client that copies both ways does: here a lock is held while bytes go
through it, never while the network is waited for.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

_CHUNK = 64 << 10


class TlsStream:
    """What client/hijack.py asks of a connected socket. One thread may read while another writes."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Speaks the handshake. Raises ssl.SSLError and OSError; then `plain` is closed."""
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._state = threading.Lock()
        self._sending = threading.Lock()
        self._received = bytearray(_CHUNK)
        self._decrypted = bytearray()
        try:
            self._handshake()
        except BaseException:
            plain.close()
            raise

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            finally:
                self._flush()

    def _fill(self) -> None:
        """Waits for more from the peer."""
        count = self._plain.recv_into(self._received)
        with self._state:
            if count:
                self._incoming.write(memoryview(self._received)[:count])
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        """Sends what is encrypted. The caller holds `_sending`, or there is no other thread yet."""
        while True:
            with self._state:
                data = self._outgoing.read()
            if not data:
                return
            self._plain.sendall(data)

    def recv_into(self, buffer: bytearray) -> int:
        """Bytes read, 0 at the end (a peer that just hangs up ends the stream as well)."""
        while True:
            try:
                with self._state:
                    return self._take(buffer)
            except ssl.SSLWantReadError:
                self._answer()
                self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def _take(self, buffer: bytearray) -> int:
        if self._decrypted:
            count = min(len(buffer), len(self._decrypted))
            buffer[:count] = self._decrypted[:count]
            del self._decrypted[:count]
            return count
        return self._tls.read(len(buffer), buffer)  # type: ignore[return-value] # typeshed says bytes

    def _answer(self) -> None:
        """What reading made TLS say (a key update); a writer under way sends it with its own."""
        if self._outgoing.pending and self._sending.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._sending.release()

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        with self._sending:
            while view:
                with self._state:
                    count = self._tls.write(view[:_CHUNK])
                view = view[count:]
                self._flush()

    def shutdown(self, how: int) -> None:
        """SHUT_WR sends close_notify, and the peer's side goes on; else both sides end at once."""
        if how != socket.SHUT_WR:
            self._plain.shutdown(how)
            return
        with self._sending:
            with self._state:
                self._decrypt_all()
                with contextlib.suppress(ssl.SSLWantReadError):  # the peer goes on: as it should be
                    self._tls.unwrap()
            self._flush()

    def _decrypt_all(self) -> None:
        """SSL_shutdown drops what came and was not read yet."""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while data := self._tls.read(_CHUNK):
                self._decrypted += data

    def settimeout(self, seconds: float | None) -> None:
        self._plain.settimeout(seconds)

    def close(self) -> None:
        self._plain.close()

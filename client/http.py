"""Requests to the daemon: httpx over a transport that speaks through one plain socket.

`SocketTransport` is the seam: it takes an `Endpoint` and uses the standard library's HTTP/1.1 reader, which
httpx has loaded anyway; httpcore, anyio, click and rich are never imported (they are two thirds of the start-up
time of a plain `import httpx`).

    api = Api(parse_endpoint("unix:///run/pyd.sock"))
    api.json("GET", "/containers/json", query={"all": "1"})
    with api.stream("POST", "/images/create", query=...) as response: ...
    raw = api.hijack("/containers/x/attach", query=...)      # client.hijack.RawStream
"""

from __future__ import annotations

import contextlib
import http.client
import json as json_format
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from client import VERSION
from client.errors import ApiError, ClientError, ConnectionFailed

# httpx offers a command of its own when click and rich are there, and zstd when zstandard is; pyd needs neither.
_blocked = [name for name in ("httpx._main", "zstandard") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_blocked))  # type: ignore[arg-type]
import httpx  # noqa: E402

for _name in _blocked:
    del sys.modules[_name]

if TYPE_CHECKING:
    from client.endpoint import Endpoint
    from client.hijack import RawStream

Query = Mapping[str, "str | int | bool | list[str] | None"]
NEWEST_API = "1.51"
_TOO_NEW = re.compile(r"Maximum supported API version is (\d+\.\d+)")


class _Connection(http.client.HTTPConnection):
    """http.client's connection over an Endpoint's socket."""

    def __init__(self, endpoint: Endpoint, timeout: float | None) -> None:
        super().__init__(endpoint.host, endpoint.port or 80)
        self._endpoint = endpoint
        self._wait = timeout

    def connect(self) -> None:
        self.sock = self._endpoint.connect(10.0)
        self.sock.settimeout(self._wait)


class _Body(httpx.SyncByteStream):
    """The answer's body as it comes; closing it closes the connection."""

    def __init__(self, response: http.client.HTTPResponse, connection: _Connection) -> None:
        self._response, self._connection = response, connection

    def __iter__(self) -> Iterator[bytes]:
        try:
            while data := self._response.read1(1 << 16):
                yield data
        except (http.client.HTTPException, OSError) as error:
            raise httpx.ReadError(f"the connection to the daemon broke: {error}") from error

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class SocketTransport(httpx.BaseTransport):
    """One request, one connection: a unix socket costs microseconds and a command makes few requests."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        connection = _Connection(self._endpoint, request.extensions.get("timeout", {}).get("read"))
        target = self._endpoint_path() + request.url.raw_path.decode()
        headers = {
            name: value for name, value in request.headers.items() if name not in ("connection", "accept")
        }
        chunked = "transfer-encoding" in headers
        try:
            connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = self._send_body(connection, request, chunked)
        except ConnectionError as error:
            connection.close()
            raise httpx.ConnectError(str(error)) from error
        except http.client.HTTPException as error:
            connection.close()
            raise httpx.RemoteProtocolError(str(error)) from error
        return httpx.Response(answer.status, headers=answer.getheaders(), stream=_Body(answer, connection),
                              extensions={"reason_phrase": answer.reason.encode()})  # fmt: skip

    def _endpoint_path(self) -> str:
        return self._endpoint.path if self._endpoint.scheme == "tcp" else ""

    @staticmethod
    def _send_body(
        connection: _Connection, request: httpx.Request, chunked: bool
    ) -> http.client.HTTPResponse:
        """Send the body; a daemon that refuses early closes its end, and then its answer is what matters."""
        try:
            for data in request.stream:  # type: ignore[union-attr]
                if data:
                    connection.send(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if chunked:
                connection.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        return connection.getresponse()


def encode_query(query: Query | None) -> str:
    """`?a=1&b=x`, or nothing; None is left out, booleans are 1 and 0, lists repeat the key."""
    from urllib.parse import urlencode

    pairs: list[tuple[str, str]] = []
    for key, value in (query or {}).items():
        if value is None:
            continue
        if isinstance(value, list):
            pairs += [(key, item) for item in value]
        else:
            pairs.append((key, str(int(value)) if isinstance(value, bool) else str(value)))
    return f"?{urlencode(pairs)}" if pairs else ""


class Api:
    """The daemon behind an endpoint, at the newest API version that both sides know."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str] | None = None) -> None:
        self.endpoint = endpoint
        self.version = os.environ.get("DOCKER_API_VERSION", NEWEST_API).removeprefix("v")
        self.headers = {"User-Agent": f"pyd/{VERSION}", "Accept-Encoding": "identity", **(headers or {})}
        self._client = httpx.Client(transport=SocketTransport(endpoint), timeout=None, trust_env=False,
                                    base_url="http://localhost", headers=self.headers)  # fmt: skip

    def path(self, path: str, query: Query | None = None) -> str:
        return f"/v{self.version}{path}{encode_query(query)}"

    def _learn_version(self, error: ApiError) -> bool:
        """An older daemon names its newest version when it refuses ours: take that and ask again."""
        match = _TOO_NEW.search(error.detail)
        if error.status != 400 or match is None or match[1] == self.version:
            return False
        self.version = match[1]
        return True

    @contextlib.contextmanager
    def stream(self, method: str, path: str, *, query: Query | None = None, json: Any = None,
               content: Any = None, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:  # fmt: skip
        """The answer with its body still to be read; ApiError for a status of 400 and more."""
        while True:
            try:
                manager = self._client.stream(method, self.path(path, query), json=json, content=content,
                                              headers=headers)  # fmt: skip
                with manager as response:
                    if response.status_code < 400:
                        yield response
                        return
                    error = ApiError.of(response.status_code, response.read())
            except (httpx.ConnectError, httpx.RemoteProtocolError) as broken:
                raise ConnectionFailed(f"error during connect: {self.endpoint.url}: {broken}") from None
            except httpx.ReadError as broken:
                raise ClientError(str(broken)) from None
            if not self._learn_version(error):
                raise error

    def request(self, method: str, path: str, *, query: Query | None = None, json: Any = None,
                content: Any = None, headers: Mapping[str, str] | None = None) -> httpx.Response:  # fmt: skip
        """The whole answer, body read."""
        with self.stream(method, path, query=query, json=json, content=content, headers=headers) as response:
            response.read()
            return response

    def json(self, method: str, path: str, *, query: Query | None = None, json: Any = None,
             headers: Mapping[str, str] | None = None) -> Any:  # fmt: skip
        """The answer's JSON document."""
        response = self.request(method, path, query=query, json=json, headers=headers)
        return json_format.loads(response.content) if response.content.strip() else None

    def messages(self, method: str, path: str, *, query: Query | None = None, content: Any = None,
                 headers: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:  # fmt: skip
        """A stream of JSON documents, one a line or run together (pull, events, stats ...)."""
        with self.stream(method, path, query=query, content=content, headers=headers) as response:
            yield from split_documents(response.iter_bytes())

    def hijack(self, path: str, *, query: Query | None = None, json: Any = None) -> RawStream:
        """POST and take the connection over: what is written after goes to the container, and back."""
        from client.hijack import open_stream

        while True:
            try:
                return open_stream(self.endpoint, self.path(path, query), json, self.headers)
            except ApiError as error:
                if not self._learn_version(error):
                    raise


def split_documents(chunks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """JSON documents out of arbitrary chunks; they need not be one a line."""
    decoder = json_format.JSONDecoder()
    pending = b""
    for chunk in chunks:
        pending += chunk
        *lines, pending = pending.split(b"\n")
        for line in lines:
            yield from _documents(decoder, line)
    yield from _documents(decoder, pending)


def _documents(decoder: json_format.JSONDecoder, line: bytes) -> Iterator[dict[str, Any]]:
    text = line.decode(errors="replace").strip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].lstrip()

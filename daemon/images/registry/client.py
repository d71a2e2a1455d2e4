"""One repository on one endpoint: manifests and blobs, both ways.

A `Repository` holds a connection pool and what the registry's challenge taught; make one, `ping()` it,
use it for a whole pull or push, `close()` it. Errors are RegistryError; transport errors carry the text
that a Docker user knows (`Get "http://..": dial tcp ..: connect: connection refused`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from daemon.images.manifests import ACCEPTED, LARGEST_MANIFEST
from daemon.images.model import AuthConfig
from daemon.images.registry import trust
from daemon.images.registry.auth import Authorizer, Tokens, challenges
from daemon.images.registry.endpoints import Endpoint
from daemon.images.registry.errors import RegistryError, refusal, status_line
from daemon.images.registry.transport import transport_error

USER_AGENT = "docker/28.5.2 (pyd)"
LARGEST_CONFIG = 8 << 20
UPLOAD_PIECE = 256 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `answer` bounds the wait for an answer's head, `silence` a body in which nothing comes."""

    connect: float = 30.0
    answer: float = 30.0
    silence: float = 60.0


@dataclass(frozen=True)
class Fetched:
    digest: str
    media_type: str
    body: bytes


class Repository:
    """`path` on `endpoint`, with the actions ("pull", or "push,pull") that tokens are asked for."""

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        auth: AuthConfig,
        *,
        actions: str = "pull",
        tokens: Tokens | None = None,
        timeouts: Timeouts | None = None,
    ):
        self.endpoint, self.path = endpoint, path
        self._timeouts = timeouts or Timeouts()
        limits = self._timeouts
        self._http = httpx.AsyncClient(
            verify=trust.context(endpoint),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(limits.answer, connect=limits.connect, pool=None),
            trust_env=not trust.is_loopback(endpoint),
            follow_redirects=False,
        )
        scope = f"repository:{path}:{actions}" if path else ""
        self._auth = Authorizer(self._http, auth, scope, tokens or Tokens())

    async def close(self) -> None:
        await self._http.aclose()

    # --- the protocol's base -----------------------------------------------------------------------

    async def ping(self) -> None:
        """GET /v2/: whether this is a registry, and which credentials it wants."""
        answer = await self._plain("GET", f"{self.endpoint.url}/v2/")
        await answer.aread()
        self._auth.learn(challenges(answer.headers.get_list("www-authenticate")))
        if answer.status_code not in (200, 401) and not self.endpoint.mirror:
            raise RegistryError(
                "status", f"received unexpected HTTP status: {status_line(answer.status_code)}"
            )

    async def login(self) -> None:
        """Proves the credentials: GET /v2/ with them."""
        await self.ping()
        url = f"{self.endpoint.url}/v2/"
        try:
            await self._auth.header()
        except RegistryError as error:  # the token server knows better what is wrong
            raise RegistryError(error.code, f'Get "{url}": {error}') from None
        answer = await self._send("GET", url)
        await answer.aread()
        if answer.status_code != 200:
            line = status_line(answer.status_code)
            raise RegistryError("status", f"login attempt to {url} failed with status: {line}")

    async def tags(self) -> list[str]:
        url: str | None = self._url("tags/list")
        names: list[str] = []
        while url:
            answer = await self._checked("GET", url)
            names += answer.json().get("tags") or []
            following = answer.links.get("next", {}).get("url")
            url = urljoin(url, following) if following else None
        return names

    # --- down --------------------------------------------------------------------------------------

    async def manifest(self, reference: str) -> Fetched:
        """By tag or digest; what comes by digest is verified."""
        answer = await self._checked(
            "GET",
            self._url(f"manifests/{reference}"),
            headers={"Accept": ", ".join(ACCEPTED)},
            called="GET" if ":" in reference else "HEAD",  # dockerd asks for a tag's digest first
        )
        body = answer.content
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        if ":" in reference and not _holds(body, reference):
            raise RegistryError("corrupt", f"manifest verification failed for digest {reference}")
        kind = answer.headers.get("content-type", "")
        return Fetched(reference if ":" in reference else digest, kind, body)

    async def config(self, digest: str) -> bytes:
        """A small blob, verified."""
        async with self._open("GET", self._url(f"blobs/{digest}")) as answer:
            if answer.status_code != 200:
                raise refusal(answer.status_code, await self._body(answer))
            body = await self._body(answer, LARGEST_CONFIG)
        if not _holds(body, digest):
            raise RegistryError("corrupt", f"image config verification failed for digest {digest}")
        return body

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """(offset at which the data begins, the data): a registry without ranges starts over at 0."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._open("GET", self._url(f"blobs/{digest}"), headers=headers) as answer:
            if answer.status_code not in (200, 206):
                raise refusal(answer.status_code, await self._body(answer))
            start = 0
            if answer.status_code == 206:
                match = _CONTENT_RANGE.match(answer.headers.get("content-range", ""))
                start = int(match[1]) if match else offset
            yield start, self._chunks(answer)

    async def _chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        except httpx.TransportError as error:
            raise transport_error("GET", str(answer.request.url), error) from error

    # --- up ----------------------------------------------------------------------------------------

    async def size_of(self, digest: str) -> int | None:
        """Size of a blob that the repository has, else None."""
        answer = await self._send("HEAD", self._url(f"blobs/{digest}"))
        await answer.aread()
        if answer.status_code in (301, 302, 303, 307, 308):
            return 0
        if answer.status_code == 200:
            return int(answer.headers.get("content-length") or 0)
        if answer.status_code == 404:
            return None
        raise refusal(answer.status_code, answer.content)

    async def mount(self, digest: str, source: str) -> str | None:
        """Cross-repository mount; None when it worked, else where an upload may go on."""
        self._auth.also(f"repository:{source}:pull")
        url = self._url(f"blobs/uploads/?mount={digest}&from={source}")
        answer = await self._send("POST", url)
        await answer.aread()
        if answer.status_code == 201:
            return None
        if answer.status_code == 202:
            return self._location(answer)
        raise refusal(answer.status_code, answer.content)

    async def upload(
        self, digest: str, file: Path, location: str | None, progress: Callable[[int], None]
    ) -> None:
        """Sends a blob: POST for a session, PATCH with the data, PUT with the digest."""
        if location is None:
            answer = await self._checked("POST", self._url("blobs/uploads/"), expected=(202,))
            location = self._location(answer)
        size = await asyncio.to_thread(os.path.getsize, file)
        answer = await self._checked(
            "PATCH",
            location,
            expected=(202, 201, 204),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
                "Content-Range": f"0-{max(size - 1, 0)}",
            },
            content=lambda: _pieces(file, progress),
        )
        location = str(httpx.URL(self._location(answer)).copy_merge_params({"digest": digest}))
        await self._checked("PUT", location, expected=(201, 204), headers={"Content-Length": "0"})

    async def put_blob(self, data: bytes, digest: str) -> None:
        """A small blob (the configuration) in one request, unless it is there."""
        if await self.size_of(digest) is not None:
            return
        answer = await self._checked("POST", self._url("blobs/uploads/"), expected=(202,))
        location = str(httpx.URL(self._location(answer)).copy_merge_params({"digest": digest}))
        headers = {"Content-Type": "application/octet-stream"}
        await self._checked("PUT", location, expected=(201, 204), headers=headers, content=lambda: data)

    async def put_manifest(self, reference: str, body: bytes, media_type: str) -> None:
        await self._checked(
            "PUT",
            self._url(f"manifests/{reference}"),
            expected=(201, 202, 200),
            headers={"Content-Type": media_type},
            content=lambda: body,
        )

    # --- requests ----------------------------------------------------------------------------------

    def _url(self, rest: str) -> str:
        return f"{self.endpoint.url}/v2/{self.path}/{rest}"

    def _location(self, answer: httpx.Response) -> str:
        location = answer.headers.get("location")
        if not location:
            raise RegistryError("status", "the registry gave no upload location")
        return str(urljoin(str(answer.request.url), location))

    async def _checked(
        self, method: str, url: str, *, expected: tuple[int, ...] = (200,), **options: Any
    ) -> httpx.Response:
        answer = await self._send(method, url, **options)
        await self._body(answer)
        if answer.status_code not in expected:
            offered = " ".join(answer.headers.get_list("www-authenticate"))
            raise refusal(answer.status_code, answer.content, offered)
        return answer

    async def _body(self, answer: httpx.Response, limit: int = LARGEST_MANIFEST) -> bytes:
        """Reads an answer whole, but not more than a document may have."""
        if hasattr(answer, "_content"):
            return answer.content
        parts, total = [], 0
        try:
            async for part in answer.aiter_raw():
                total += len(part)
                if total > limit:
                    raise RegistryError(
                        "corrupt", f"the answer of {answer.request.url} exceeds {limit} bytes"
                    )
                parts.append(part)
        except httpx.TransportError as error:
            raise transport_error(answer.request.method, str(answer.request.url), error) from error
        finally:
            await answer.aclose()
        answer._content = b"".join(parts)
        return answer._content

    @asynccontextmanager
    async def _open(self, method: str, url: str, **options: Any) -> AsyncIterator[httpx.Response]:
        answer = await self._send(method, url, **options)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        """With authorization; once more with new credentials after a 401; redirects lose them elsewhere."""
        content = options.pop("content", None)
        headers = options.pop("headers", {})
        called = options.pop("called", method)
        for attempt in (1, 2):
            authorization = await self._authorization(called, url)
            extra = {"Authorization": authorization} if authorization else {}
            body = content() if content else None
            answer = await self._plain(method, url, headers={**headers, **extra}, content=body)
            if answer.status_code != 401 or attempt == 2:
                return await self._follow(answer, headers)
            await answer.aclose()
            self._auth.learn(challenges(answer.headers.get_list("www-authenticate")))
            self._auth.reject()
        raise AssertionError("unreachable")

    async def _authorization(self, method: str, url: str) -> str | None:
        try:
            return await self._auth.header()
        except httpx.TransportError as error:
            raise transport_error("Get", self._auth.realm, error) from error
        except RegistryError as error:
            if error.code == "credentials":
                raise RegistryError(error.code, f'{method.capitalize()} "{url}": {error}') from None
            raise

    async def _follow(self, answer: httpx.Response, headers: dict[str, str]) -> httpx.Response:
        """GET redirects to a blob's real place (object stores); at most five, without our credentials."""
        for _ in range(5):
            if answer.status_code not in (301, 302, 303, 307, 308) or answer.request.method != "GET":
                return answer
            target = urljoin(str(answer.request.url), answer.headers.get("location", ""))
            await answer.aclose()
            answer = await self._plain("GET", target, headers=headers)
        raise RegistryError("status", f'Get "{answer.request.url}": stopped after 5 redirects')

    async def _plain(self, method: str, url: str, **options: Any) -> httpx.Response:
        timeouts = self._timeouts
        timeout = httpx.Timeout(timeouts.silence, connect=timeouts.connect, pool=None)
        request = self._http.build_request(method, url, timeout=timeout, **options)
        try:
            return await self._http.send(request, stream=True)
        except (httpx.TransportError, httpx.InvalidURL, ssl.SSLError) as error:
            raise transport_error(method, url, error) from error


def _holds(body: bytes, digest: str) -> bool:
    algorithm, _, encoded = digest.partition(":")
    return hashlib.new(algorithm, body).hexdigest() == encoded


async def _pieces(file: Path, progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    sent = 0
    with file.open("rb", buffering=0) as source:
        while piece := source.read(UPLOAD_PIECE):
            yield piece
            sent += len(piece)
            progress(sent)

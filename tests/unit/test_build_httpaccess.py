"""What a URL is asked for with."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from daemon.build.sources.httpaccess import headers
from storage.errors import InvalidArgument, NotFound

URL = "https://files.example.org:8443/a?b"


class Client:
    def __init__(self, **secrets: bytes) -> None:
        self.secrets = secrets

    async def secret(self, id: str) -> bytes | None:
        return self.secrets.get(id)


async def asked(secrets: Mapping[str, bytes], **attributes: str) -> dict[str, str]:
    return await headers([Client(**secrets)], URL, attributes)  # type: ignore[list-item]


async def test_secrets_of_the_host() -> None:
    assert await asked({}) == {}
    header, token = "HTTP_AUTH_HEADER_files.example.org", "HTTP_AUTH_TOKEN_files.example.org"
    assert await asked({header: b"Basic x"}) == {"Authorization": "Basic x"}
    assert await asked({header: b"Basic x", token: b"t"}) == {"Authorization": "Bearer t"}
    assert await asked({"HTTP_AUTH_TOKEN_example.org": b"t"}) == {}


async def test_a_secret_that_the_source_names() -> None:
    named = {"http.authheadersecret": "mine"}
    both = {"mine": b"Basic m", "HTTP_AUTH_TOKEN_files.example.org": b"t"}
    assert await asked(both, **named) == {"Authorization": "Basic m"}
    with pytest.raises(NotFound, match="failed to retrieve HTTP auth secret mine"):
        await asked({}, **named)


async def test_headers_that_may_be_named() -> None:
    found = await asked(
        {}, **{"http.header.accept": "a/b", "http.header.User-Agent": "me", "http.header.cookie": "c"}
    )
    assert found == {"Accept": "a/b", "User-Agent": "me"}
    with pytest.raises(InvalidArgument, match="invalid header field value"):
        await asked({}, **{"http.header.accept": "a\r\nCookie: c"})
    with pytest.raises(InvalidArgument, match="Authorization"):
        await asked({"HTTP_AUTH_TOKEN_files.example.org": b"t\nx: y"})

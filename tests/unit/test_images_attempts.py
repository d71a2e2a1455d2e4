"""Which endpoints of a registry are tried, with registries that a fake knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from daemon.images import reference
from daemon.images.attempts import Attempts
from daemon.images.registry.endpoints import Endpoint
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Registries

TLS, PLAIN, MIRROR = "https://r.invalid", "http://r.invalid", "http://mirror.invalid"


class Fake:
    """`refusing`: URLs to the code of the error that opening them gives."""

    def __init__(self, refusing: dict[str, str], urls: Sequence[str] = (TLS, PLAIN)) -> None:
        self._refusing, self._urls = refusing, urls
        self.asked: list[str] = []

    async def endpoints(self, domain: str, **_: Any) -> list[Endpoint]:
        return [Endpoint(url) for url in self._urls]

    async def open(self, endpoint: Endpoint, *_: Any) -> str:
        self.asked.append(endpoint.url)
        if code := self._refusing.get(endpoint.url):
            raise RegistryError(code, f"{code} of {endpoint.url}")
        return endpoint.url


def attempts(fake: Fake) -> Attempts:
    return Attempts(cast(Registries, fake), reference.parse("r.invalid/a"), None, push=False)


@pytest.mark.parametrize(
    ("refusing", "opened", "asked"),
    [
        ({}, [TLS], [TLS]),
        ({TLS: "transport"}, [PLAIN], [TLS, PLAIN]),
        ({TLS: "UNAUTHORIZED"}, [], [TLS]),
        ({TLS: "status"}, [], [TLS]),
        ({TLS: "transport", PLAIN: "DENIED"}, [], [TLS, PLAIN]),
    ],
)
async def test_plain_http_only_where_https_gives_no_answer(
    refusing: dict[str, str], opened: list[str], asked: list[str]
) -> None:
    """Whoever goes on after a session (its transfer failed) is not sent to the same host in the open either."""
    fake = Fake(refusing)
    assert [str(session) async for session in attempts(fake)] == opened
    assert fake.asked == asked


async def test_a_mirror_that_refuses_leaves_the_registry() -> None:
    fake = Fake({MIRROR: "DENIED"}, [MIRROR, TLS, PLAIN])
    assert [str(session) async for session in attempts(fake)] == [TLS]


async def test_the_last_error_is_told() -> None:
    tried = attempts(Fake({TLS: "transport", PLAIN: "DENIED"}))
    assert [str(session) async for session in tried] == []
    assert str(tried.error) == f"DENIED of {PLAIN}"
    tried.failed(RegistryError("corrupt", "not what it should be"))
    assert tried.error.code == "corrupt"

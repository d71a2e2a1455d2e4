"""A repository's endpoints (registry/endpoints.py), tried one after the other until one serves.

Plain HTTP is tried of a host only whose HTTPS gave no answer at all: whoever answers there, if only with a refusal,
is not asked again in the open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from daemon.images.model import AuthConfig
from daemon.images.reference import Reference
from daemon.images.registry.endpoints import Endpoint
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Registries, Session


class Attempts:
    """Iterates over sessions with the endpoints that answer; each is the caller's, to be released.

    A caller whose session then fails says so by failed() and may go on with the next.
    """

    def __init__(
        self,
        registries: Registries,
        reference: Reference,
        auth: AuthConfig | None,
        *,
        push: bool,
        insecure: Sequence[str] = (),
    ) -> None:
        self._registries, self._reference, self._auth, self._push = registries, reference, auth, push
        self._insecure = insecure
        self._left: Iterator[Endpoint] | None = None
        self._secure: set[str] = set()
        """Hosts that speak HTTPS."""
        self._error: RegistryError | None = None

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Session:
        if self._left is None:
            found = await self._registries.endpoints(
                self._reference.domain, push=self._push, insecure=self._insecure
            )
            self._left = iter(found)
        for endpoint in self._left:
            if endpoint.plain and endpoint.host in self._secure:
                continue
            try:
                session = await self._open(endpoint)
            except RegistryError as error:
                self._error = error
                self._answered(endpoint, error.code != "transport")
            else:
                self._answered(endpoint, True)
                return session
        raise StopAsyncIteration

    async def _open(self, endpoint: Endpoint) -> Session:
        actions = "pull,push" if self._push else "pull"
        return await self._registries.open(endpoint, self._reference, self._auth, actions)

    def _answered(self, endpoint: Endpoint, answered: bool) -> None:
        if answered and not endpoint.plain:
            self._secure.add(endpoint.host)

    def failed(self, error: RegistryError) -> None:
        self._error = error

    @property
    def error(self) -> RegistryError:
        """The last attempt's."""
        return self._error or RegistryError("transport", f"no endpoint for {self._reference.domain}")

"""docker login (POST /auth) and docker manifest's questions (GET /distribution/{name}/json)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from daemon.images import manifests
from daemon.images.manifests import Index, Manifest
from daemon.images.model import AuthConfig, Json
from daemon.images.platforms import Platform
from daemon.images.pull import not_found
from daemon.images.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN, Reference
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Document, Registries, Session
from storage.errors import Internal, InvalidArgument, Unauthenticated

Use = Callable[[Session], Awaitable[Document | None]]


async def login(registries: Registries, auth: AuthConfig) -> Json:
    """Proves credentials against the registry's base; dockerd's texts for what may go wrong."""
    domain = _domain(auth.server_address)
    try:
        await _with_session(registries, domain, None, auth, "login", _nothing)
    except RegistryError as error:
        if error.code.isupper() or error.code == "credentials":
            raise Unauthenticated(str(error)) from error
        raise Internal(str(error)) from error
    return {"Status": "Login Succeeded", "IdentityToken": ""}


def _domain(address: str) -> str:
    """`https://index.docker.io/v1/`, `127.0.0.1:5000`, `http://host/`: the host and its port."""
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    if host in ("", LEGACY_DOMAIN, DEFAULT_DOMAIN, "registry-1.docker.io"):
        return DEFAULT_DOMAIN
    return host


async def distribution(registries: Registries, name: Reference, auth: AuthConfig | None) -> Json:
    """A manifest's descriptor and platforms, straight from the registry."""
    wanted = name.with_default_tag()

    configs: list[Json] = []

    async def ask(session: Session) -> Document:
        document = await session.manifest(wanted.digest or wanted.tag)
        decoded = manifests.decode(document.body, document.media_type, str(wanted))
        if isinstance(decoded, Manifest):
            configs.append(json.loads(await session.config(decoded.config.digest)))
        return document

    try:
        document = await _with_session(registries, wanted.domain, wanted, auth, "pull", ask)
    except RegistryError as error:
        raise not_found(error, wanted) from error
    assert document is not None
    decoded = manifests.decode(document.body, document.media_type, str(wanted))
    entries = [each for _, each in decoded.entries] if isinstance(decoded, Index) else []
    shown = [*entries, *(Platform.of(config) for config in configs)]
    return {
        "Descriptor": {
            "mediaType": document.media_type,
            "digest": document.digest,
            "size": len(document.body),
        },
        "Platforms": [
            {
                "architecture": each.architecture,
                "os": each.os,
                **({"variant": each.variant} if each.variant else {}),
            }
            for each in shown
        ],
    }


async def _nothing(session: Session) -> None:
    return None


async def _with_session(
    registries: Registries,
    domain: str,
    name: Reference | None,
    auth: AuthConfig | None,
    actions: str,
    use: Use,
) -> Document | None:
    """The first endpoint that answers."""
    failed: RegistryError | None = None
    with registries.worker.held():
        for endpoint in await registries.endpoints(domain):
            try:
                session = await registries.open(endpoint, name, auth, actions)
            except RegistryError as error:
                failed = error
                if error.code != "transport":
                    break
                continue
            try:
                return await use(session)
            finally:
                await session.release()
    if failed is None:
        raise InvalidArgument(f"no endpoints found for {domain}")
    raise failed

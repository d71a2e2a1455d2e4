"""A conversation with one repository, led by the worker process on the daemon's behalf."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from daemon.images.manifests import Descriptor
from daemon.images.model import AuthConfig, Json
from daemon.images.reference import Reference
from daemon.images.registry.endpoints import Endpoint
from daemon.images.registry.errors import RegistryError
from daemon.images.transfer.parent import Progress, Worker
from storage.errors import PydError


@dataclass(frozen=True)
class Patience:
    """How long a registry may take, in seconds."""

    connect: float = 30.0
    answer: float = 30.0
    silence: float = 60.0
    pause: float = 5.0
    """First pause before a broken download is taken up again."""


@dataclass(frozen=True)
class Document:
    """A manifest as it came."""

    digest: str
    media_type: str
    body: bytes


class Session:
    """Reference-counted: layer jobs may outlive the pull that opened it."""

    def __init__(self, worker: Worker, number: int, endpoint: Endpoint, patience: Patience):
        self.endpoint = endpoint
        self._worker, self._number, self._patience = worker, number, patience
        self._users = 1
        self._held = worker.held()
        self._held.__enter__()

    def acquire(self) -> None:
        self._users += 1

    async def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            try:
                with suppress(PydError, RegistryError):
                    await self._call("close")
            finally:
                self._held.__exit__(None, None, None)

    async def _call(self, op: str, progress: Progress | None = None, **arguments: Any) -> Any:
        return await self._worker.call(op, progress=progress, session=self._number, **arguments)

    async def tags(self) -> list[str]:
        names: list[str] = await self._call("tags")
        return names

    async def manifest(self, reference: str) -> Document:
        answer = await self._call("manifest", reference=reference)
        return Document(answer["digest"], answer["media_type"], base64.b64decode(answer["body"]))

    async def config(self, digest: str) -> bytes:
        return base64.b64decode(await self._call("config", digest=digest))

    async def layer(self, layer: Descriptor, directory: str, progress: Progress) -> Json:
        answer: Json = await self._call(
            "layer",
            progress,
            digest=layer.digest,
            size=layer.size,
            directory=directory,
            pause=self._patience.pause,
        )
        return answer

    async def has_blob(self, digest: str) -> bool:
        return await self._call("has_blob", digest=digest) is not None

    async def mount(self, digest: str, source: str) -> str | None:
        location: str | None = await self._call("mount", digest=digest, source=source)
        return location

    async def upload(self, digest: str, location: str | None, progress: Progress) -> None:
        await self._call("upload", progress, digest=digest, location=location)

    async def put_blob(self, digest: str, body: bytes) -> None:
        await self._call("put_blob", digest=digest, body=base64.b64encode(body).decode())

    async def put_manifest(self, reference: str, body: bytes, media_type: str) -> None:
        encoded = base64.b64encode(body).decode()
        await self._call("put_manifest", reference=reference, body=encoded, media_type=media_type)


class Registries:
    """Opens sessions as the daemon's configuration has it."""

    def __init__(
        self,
        worker: Worker,
        insecure: Sequence[str],
        mirrors: Sequence[str],
        patience: Patience | None = None,
    ):
        self.worker = worker
        self.patience = patience or Patience()
        self._insecure, self._mirrors = list(insecure), list(mirrors)
        self._numbers = itertools.count(1)
        """Of sessions. Never used again, so one that died with its worker cannot mean another's."""

    def reconfigure(self, insecure: Sequence[str], mirrors: Sequence[str]) -> None:
        """For sessions opened from here on."""
        self._insecure, self._mirrors = list(insecure), list(mirrors)

    async def endpoints(
        self, domain: str, *, push: bool = False, insecure: Sequence[str] = ()
    ) -> list[Endpoint]:
        """`insecure`: registries beside those of the configuration that need no TLS, or none that is valid."""
        lax = [*self._insecure, *insecure]
        found = await self.worker.call(
            "endpoints", domain=domain, insecure=lax, mirrors=self._mirrors, push=push
        )
        return [Endpoint(**fields) for fields in found]

    async def open(
        self, endpoint: Endpoint, reference: Reference | None, auth: AuthConfig | None, actions: str
    ) -> Session:
        """Pings the endpoint; actions are "pull", "pull,push" or, without a reference, "login"."""
        limits = self.patience
        with self.worker.held():
            number = next(self._numbers)
            await self.worker.call(
                "open",
                session=number,
                endpoint=asdict(endpoint),
                path=reference.path if reference else "",
                auth=(auth or AuthConfig()).fields(),
                actions=actions,
                timeouts={"connect": limits.connect, "answer": limits.answer, "silence": limits.silence},
            )
            return Session(self.worker, number, endpoint, limits)

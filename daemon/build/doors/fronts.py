"""A front end at work in a build: the client itself, or one that runs as an image. It asks, and returns once.

Ref           a tree that it has a plan of              FrontResult   what it gives in the end
Front         one of them: what it was given, its containers, its result
ImageDoor     serves one that runs as an image; the API has it
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from daemon.build.graph import Output
from storage.errors import InvalidArgument

if TYPE_CHECKING:
    from socket import socket

    from daemon.build.doors.bridge import Bridge
    from daemon.build.doors.containers import Containers
    from daemon.build.proto import ops_pb2 as pb


@dataclass(frozen=True)
class Ref:
    """A tree that a front end made a plan of. `id` empty: scratch."""

    id: str
    output: Output | None = None
    scans: Mapping[str, Output | None] = field(default_factory=dict)
    """Trees besides it that an SBOM is to tell of."""


@dataclass(frozen=True)
class FrontResult:
    """What a front end gives: one reference, or one for each platform; and words about them."""

    ref: Ref | None = None
    refs: Mapping[str, Ref] | None = None
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def each(self) -> list[tuple[str, Ref | None]]:
        """(platform's ID, reference); the ID of the only one is empty."""
        return [("", self.ref)] if self.refs is None else list(self.refs.items())


class Failed(InvalidArgument):
    """A front end failed; `returned` is its gRPC status as it came, to go back as it is."""

    def __init__(self, message: str, returned: Any) -> None:
        super().__init__(message)
        self.returned = returned


class UnsupportedSubrequest(InvalidArgument):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"unsupported request {name}")


class UnsupportedCap(InvalidArgument):
    """`forward`: unless the front end that a file names can do it."""

    def __init__(self, name: str, *, forward: bool = False) -> None:
        self.name, self.forward = name, forward
        super().__init__(f"unsupported frontend capability {name}")


class Front:
    """`inputs`: definitions that it was given."""

    def __init__(self, bridge: Bridge, inputs: Mapping[str, pb.Definition]) -> None:
        self.bridge, self.inputs = bridge, inputs
        self._containers: Containers | None = None
        self._returned: asyncio.Future[FrontResult] = asyncio.get_running_loop().create_future()
        self._returned.add_done_callback(lambda done: done.cancelled() or done.exception())

    def give(self, result: FrontResult) -> None:
        """It is done: what is exported."""
        if not self._returned.done():
            self._returned.set_result(result)

    def fail(self, message: str, returned: Any) -> None:
        if not self._returned.done():
            self._returned.set_exception(Failed(message, returned))

    async def returned(self) -> FrontResult:
        """Waits for what it gives. Failed, when it says so."""
        return await asyncio.shield(self._returned)

    @property
    def result(self) -> FrontResult | None:
        """None: it has given none yet. Failed, when it says so."""
        return self._returned.result() if self._returned.done() else None

    @property
    def containers(self) -> Containers:
        if self._containers is None:
            self._containers = self.bridge.containers()
        return self._containers

    async def leave(self) -> None:
        """Nothing is waited for any longer, and its containers are gone."""
        self._returned.cancel()
        if self._containers is not None:
            await self._containers.close()


class ImageDoor(Protocol):
    """How a front end that runs as an image reaches the engine."""

    async def serve(self, front: Front, connection: socket) -> None:
        """Answers its calls (LLBBridge) on a connected socket, which is taken over, until it ends."""
        ...

    def workers(self) -> str:
        """The JSON of its environment variable BUILDKIT_WORKERS."""
        ...

"""What pyd does not do yet, said clearly: builds and compose. docker's own client is the way meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from client.errors import ClientError
from client.options import Command, Parsed
from client.session import Session


def _not_yet(what: str, instead: str) -> Callable[[Session, Parsed], int]:
    def refuse(session: Session, parsed: Parsed) -> int:
        raise ClientError(f"pyd: {what} is not supported by this client yet; use {instead}")

    return refuse


_BUILD = _not_yet("building images", "'docker build' with DOCKER_HOST set to this daemon, once it builds")
COMMANDS = (
    Command(("build", "image build", "builder build"), "PATH | URL | -", "Build an image from a Dockerfile (not yet)",
            _BUILD, interspersed=False),
    Command(("builder prune",), "", "Remove the build cache (not yet)", _not_yet("the build cache", "'pyd system df'"),
            interspersed=False),
    Command(("buildx",), "COMMAND", "Build with BuildKit (not yet)", _BUILD, interspersed=False),
    Command(("compose",), "COMMAND", "Run applications of several containers (not yet)",
            _not_yet("compose", "'docker compose' with DOCKER_HOST set to this daemon"), interspersed=False),
)  # fmt: skip

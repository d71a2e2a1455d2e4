"""API versions: `/v1.24/` to `/v1.51/` and no version at all are the same routes.

An ASGI middleware takes the prefix off before routing and leaves the version in `scope["pyd.version"]`
as a pair of numbers, where handlers compare it. What it refuses, and in which form, follows moby's
daemon/server/middleware/version.go and server.go (plain text for a client below 1.24).
"""

from __future__ import annotations

import re

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_body

Version = tuple[int, ...]
MINIMUM = (1, 24)
CURRENT = (1, 51)
PREFIX = re.compile(r"/v([0-9.]+)(/.*)", re.DOTALL)


def text(version: Version) -> str:
    return ".".join(map(str, version))


def parse(version: str) -> Version:
    """Go's versions.compare reads "1.24" by its numbers and takes what is no number as 0."""
    return tuple(int(part) if part else 0 for part in version.split("."))


def refusal(version: str, parsed: Version) -> str | None:
    """Why a client of this version cannot be served, in dockerd's words; None if it can."""
    if parsed < MINIMUM:
        return (
            f"client version {version} is too old. Minimum supported API version is {text(MINIMUM)}, "
            "please upgrade your client to a newer version"
        )
    if parsed > CURRENT:
        return f"client version {version} is too new. Maximum supported API version is {text(CURRENT)}"
    return None


class VersionMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["pyd.version"] = CURRENT
        found = PREFIX.fullmatch(scope["path"]) if scope["path"].startswith("/v") else None
        if found:
            version = parse(found[1])
            refused = refusal(found[1], version)
            if refused:
                await self._refuse(refused, version)(scope, receive, send)
                return
            scope["pyd.version"] = version
            scope["path"] = found[2]
            scope["raw_path"] = found[2].encode()
        await self.app(scope, receive, send)

    @staticmethod
    def _refuse(message: str, version: Version) -> Response:
        if version < MINIMUM:
            headers = {"X-Content-Type-Options": "nosniff"}
            return PlainTextResponse(message + "\n", 400, headers)
        return Response(error_body(message), 400, media_type="application/json")

"""The daemon itself: ping, version, info, events, disk usage, registry login."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from api.models import answers, bodies
from api.operation import GET, HEAD, POST, Call, Resource, answer
from api.query import FILTERS, several, string
from api.streams import Stream, json_line, map_stream
from daemon.images.model import AuthConfig
from storage.errors import InvalidArgument

RESOURCE = Resource("System")
operation = RESOURCE.operation

NO_CACHE = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
TIMESTAMP = re.compile(r"([+-]?[0-9]{1,18})(?:\.([0-9]{1,18}))?\Z")
USAGE_TYPES = ("container", "image", "volume", "build-cache")


@operation(GET, "/_ping", "SystemPing", produces="text/plain", returns=str)
async def ping(call: Call) -> Response:
    """Is the server there, and which API does it speak?"""
    return Response(b"OK", 200, _ping_headers(call), "text/plain")


@operation(HEAD, "/_ping", "SystemPingHead", produces="text/plain")
async def ping_head(call: Call) -> Response:
    """The headers of a ping."""
    return Response(b"", 200, _ping_headers(call), "text/plain")


def _ping_headers(call: Call) -> dict[str, str]:
    """Those of the engine that not every answer has anyway (api.server.State)."""
    own = call.engine.system.ping_headers()
    return {**NO_CACHE, "Swarm": "inactive", "Builder-Version": own.get("Builder-Version", "1")}


@operation(GET, "/version", "SystemVersion", returns=answers.SystemVersion)
async def version(call: Call) -> Response:
    """Versions of the daemon and its parts."""
    return answer(call.engine.system.version())


@operation(GET, "/info", "SystemInfo", returns=answers.SystemInfo)
async def info(call: Call) -> Response:
    """What the daemon is and has."""
    found = await call.engine.system.info()
    if call.version < (1, 50):
        found.pop("DiscoveredDevices", None)
        found |= {"BridgeNfIptables": True, "BridgeNfIp6tables": True}
    if call.version < (1, 49):
        found.pop("FirewallBackend", None)
    if call.version < (1, 42):
        found["KernelMemory"] = False
    return answer(found)


@operation(
    GET, "/system/df", "SystemDataUsage", query=(several("type"),), returns=answers.DiskUsage, errors=(400,)
)
async def disk_usage(call: Call) -> Response:
    """Space used by images, containers, volumes and the build cache."""
    kinds = call.query.several("type") if call.version >= (1, 42) else []
    for kind in kinds:
        if kind not in USAGE_TYPES:
            raise InvalidArgument(f"unknown object type: {kind}")
    usage = await call.engine.system.disk_usage(tuple(kinds or USAGE_TYPES))
    if call.version < (1, 44):
        for image in usage["Images"] or ():
            image["VirtualSize"] = image["Size"]
    if call.version < (1, 42):
        usage["BuilderSize"] = 0
    return answer(usage)


@operation(
    GET,
    "/events",
    "SystemEvents",
    query=(string("since", "Unix time, with a fraction."), string("until", "Unix time."), FILTERS),
    returns=answers.EventMessage,
    errors=(400,),
)
async def events(call: Call) -> Response:
    """What happens, as JSON lines; past events from `since`, live ones until `until` or for ever."""
    since, until = timestamp(call.query.string("since")), timestamp(call.query.string("until"))
    if since is not None and until is not None and until < since:
        first, last = call.query.string("since"), call.query.string("until")
        raise InvalidArgument(f"`since` time ({first}) cannot be after `until` time ({last})")
    if since is None and until is not None and until < time.time_ns():
        since = until  # nothing lies between: the stream is empty and ends
    filters = call.query.filters()
    source = call.engine.events.subscribe(since=since, until=until, filters=filters)
    if call.version < (1, 46):
        source = _without_image_create(source)
    return Stream(map_stream(source, json_line), media_type="application/json")


async def _without_image_create(source: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Events of images being created came with API 1.46."""
    async for event in source:
        if (event["Type"], event["Action"]) != ("image", "create"):
            yield event


def timestamp(value: str) -> int | None:
    """Nanoseconds of `SECONDS[.FRACTION]`; empty is None (moby api/types/time.ParseTimestamps)."""
    if not value:
        return None
    found = TIMESTAMP.match(value)
    if not found:
        raise InvalidArgument(f'strconv.ParseInt: parsing "{value}": invalid syntax')
    return int(found[1]) * 10**9 + int((found[2] or "").ljust(9, "0")[:9])


@operation(
    POST, "/auth", "SystemAuth", body=bodies.AuthConfig, returns=answers.AuthenticateOK, errors=(400, 401)
)
async def auth(call: Call) -> Response:
    """Checks credentials against a registry."""
    fields = await call.json(bodies.AuthConfig, "AuthConfig")
    return answer(await call.unless_gone(call.engine.images.login(AuthConfig.of(fields))))

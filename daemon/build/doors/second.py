"""POST /build?version=2: BuildKit's builder behind the older endpoint, as docker's Go SDK uses it.

The parameters become an order to the gateway; what the build tells goes out as `moby.buildkit.trace` lines, the image's
ID as `moby.image.id`. Without a session the body is the context.

Source: moby daemon/internal/builder-next/builder.go, api/server/router/build.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from daemon.build.doors.gateway import Gateway, Order
from daemon.build.doors.telling import Teller
from daemon.build.outcome import ExporterRequest
from daemon.build.request import BuildRequest
from storage.errors import InvalidArgument

if TYPE_CHECKING:
    from daemon.images.streams import Say

SESSION = "client-session"
"""The `remote` of a context that the session has."""
_NETWORKS = {"": "", "default": "", "bridge": "", "none": "none", "host": "host"}


def order(request: BuildRequest, session: str, outputs: Sequence[Mapping[str, Any]]) -> Order:
    """InvalidArgument for what BuildKit has no word for."""
    if len(outputs) > 1:
        raise InvalidArgument("multiple outputs not supported")
    attrs = {
        "filename": request.dockerfile,
        "target": request.target,
        "platform": request.platform,
        "context": "" if request.remote == SESSION else request.remote,
        "cache-from": ",".join(request.cache_from),
        "image-resolve-mode": "pull" if request.pull else "default",
        "add-hosts": ",".join(host.replace(":", "=", 1) for host in request.extra_hosts),
    }
    attrs = {name: value for name, value in attrs.items() if value}
    attrs |= {f"build-arg:{name}": value for name, value in request.arguments.items() if value is not None}
    attrs |= {f"label:{name}": value for name, value in request.labels.items()}
    if request.no_cache:
        attrs["no-cache"] = ""
    if request.network not in _NETWORKS:
        raise InvalidArgument(f"network mode {request.network!r} not supported by buildkit")
    network = _NETWORKS[request.network]
    if network:
        attrs["force-network-mode"] = network
    return Order(
        ref=request.build_id or secrets.token_hex(12),
        session=session,
        frontend="dockerfile.v0",
        attrs=attrs | _limits(request.host),
        exporters=(_exporter(request, outputs),),
        cache_imports=tuple(("registry", {"ref": name}) for name in request.cache_from),
        entitlements=frozenset(("network.host",) if network == "host" else ()),
    )


def _exporter(request: BuildRequest, outputs: Sequence[Mapping[str, Any]]) -> ExporterRequest:
    wanted = outputs[0] if outputs else {}
    kind = str(wanted.get("Type") or "moby")
    attrs = {str(name): str(value) for name, value in (wanted.get("Attrs") or {}).items()}
    if kind in ("moby", "image") and request.tags:
        attrs["name"] = ",".join(request.tags)
    return ExporterRequest(0, kind, attrs)


def _limits(host: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    if host.get("ShmSize"):
        found["shm-size"] = str(host["ShmSize"])
    if host.get("CgroupParent"):
        found["cgroup-parent"] = str(host["CgroupParent"])
    limits = host.get("Ulimits") or []
    if limits:
        found["ulimit"] = ",".join(f"{each['Name']}={each['Soft']}:{each['Hard']}" for each in limits)
    return found


async def build(gateway: Gateway, wanted: Order, body: AsyncIterator[bytes] | None, say: Say) -> None:
    """Says what happens, and in the end the image's ID."""
    solving = asyncio.ensure_future(gateway.solve(wanted, body))
    telling = asyncio.ensure_future(_tell(gateway, wanted.ref, say))
    try:
        answer = await solving
        await telling
    finally:
        for task in (solving, telling):
            task.cancel()
        await asyncio.gather(solving, telling, return_exceptions=True)
    digest = answer.get("containerimage.config.digest") or answer.get("containerimage.digest")
    if digest:
        say({"id": "moby.image.id", "aux": {"ID": digest}})


async def _tell(gateway: Gateway, ref: str, say: Say) -> None:
    bridge = await gateway.find(ref)
    teller = Teller()
    async for changed in bridge.job.feed.read(0.03):
        for message in teller.tell(changed):
            aux = base64.b64encode(message.SerializeToString()).decode()
            say({"id": "moby.buildkit.trace", "aux": aux})

"""How a container is shown: one row of `ps`, the whole of `inspect`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Any

from daemon.clock import SECOND, now_ns, rfc3339
from daemon.containers import defaults, links
from daemon.containers.context import Context
from daemon.containers.logs.options import log_path
from daemon.containers.model import Container


def human_duration(seconds: float) -> str:
    """Docker's units.HumanDuration: `5 seconds`, `About a minute`, `3 weeks`."""
    count = int(seconds)
    if count < 1:
        return "Less than a second"
    if count == 1:
        return "1 second"
    if count < 60:
        return f"{count} seconds"
    minutes = count // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, size, name in ((48, 1, "hours"), (24 * 7 * 2, 24, "days"), (24 * 30 * 2, 168, "weeks")):
        if hours < limit:
            return f"{hours // size} {name}"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def status_text(container: Container) -> str:
    """The STATUS column."""
    state, now = container.state, now_ns()
    if state.status in ("running", "paused"):
        text = f"Up {human_duration((now - state.started_at) / SECOND)}"
        if state.paused:
            return f"{text} (Paused)"
        if container.health:
            shown = "health: starting" if container.health.status == "starting" else container.health.status
            return f"{text} ({shown})"
        return text
    if state.restarting:
        return f"Restarting ({state.exit_code}) {human_duration((now - state.finished_at) / SECOND)} ago"
    if state.dead:
        return "Dead"
    if state.status == "removing":
        return "Removal In Progress"
    if not container.had_start:
        return "Created"
    if not state.finished_at:
        return ""
    return f"Exited ({state.exit_code}) {human_duration((now - state.finished_at) / SECOND)} ago"


def command_text(container: Container) -> str:
    words = [f"'{a}'" if " " in a else a for a in container.args]
    return " ".join([container.path, *words])


def ports(container: Container) -> list[dict[str, Any]]:
    """`Ports` of a list row, from the sandbox's port map."""
    rows: list[dict[str, Any]] = []
    for key, bindings in (container.network.get("Ports") or {}).items():
        number, _, protocol = key.partition("/")
        base = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        if not bindings:
            rows.append(base)
        for binding in bindings or []:
            rows.append({"IP": binding["HostIp"]} | base | {"PublicPort": int(binding["HostPort"])})
    return sorted(rows, key=lambda r: (r["PrivatePort"], r.get("PublicPort", 0), _address(r.get("IP"))))


def _address(text: str | None) -> tuple[int, int]:
    if not text:
        return (0, 0)
    address = ipaddress.ip_address(text)
    return (address.version, int(address))


def networks(ctx: Context, container: Container) -> dict[str, Any]:
    """`Networks`: as they are while it runs, as they were asked for otherwise."""
    running = container.network.get("Networks")
    if running:
        return dict(running)
    shown: dict[str, Any] = {}
    for name, asked in container.endpoints.items():
        shown[name] = defaults.endpoint(asked)
    return shown


def row(
    ctx: Context, container: Container, sizes: tuple[int, int] | None, further_names: Sequence[str] = ()
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "Id": container.id,
        "Names": [f"/{container.name}", *further_names],
        "Image": shown_image(ctx, container),
        "ImageID": container.image_id,
        "Command": command_text(container),
        "Created": container.created // SECOND,
        "Ports": ports(container),
        "Labels": container.labels,
        "State": container.state.status,
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": container.network_mode},
        "NetworkSettings": {"Networks": networks(ctx, container)},
        "Mounts": [point.as_docker() for point in container.mounts if point.type != "tmpfs"],
    }
    if container.host.get("Annotations"):
        result["HostConfig"]["Annotations"] = container.host["Annotations"]
    if sizes:
        named = {"SizeRw": sizes[0], "SizeRootFs": sizes[1]}
        result |= {name: size for name, size in named.items() if size}
    return result


def shown_image(ctx: Context, container: Container) -> str:
    """The user's reference, or the ID once that name means another image."""
    return container.image if ctx.images.means(container.image, container.image_id) else container.image_id


async def sizes(ctx: Context, container: Container) -> tuple[int, int]:
    """Bytes written in the container's own layer, and of the whole tree."""

    def measure() -> tuple[int, int]:
        own, *parents = ctx.snapshots.chain(container.id)
        size = ctx.snapshots.usage(own).size
        return size, size + sum(ctx.snapshots.usage(parent).size for parent in parents)

    return await asyncio.to_thread(measure)


async def inspect(ctx: Context, ref: str, *, size: bool) -> dict[str, Any]:
    container = ctx.registry.find(ref)
    directory = ctx.config.container_dir(container.id)
    state = container.state.as_docker()
    if container.health:
        state["Health"] = container.health.as_docker()
    has_etc = (directory / "hosts").exists()
    result: dict[str, Any] = {
        "Id": container.id,
        "Created": rfc3339(container.created),
        "Path": container.path,
        "Args": container.args,
        "State": state,
        "Image": container.image_id,
        "ResolvConfPath": str(directory / "resolv.conf") if has_etc else "",
        "HostnamePath": str(directory / "hostname") if has_etc else "",
        "HostsPath": str(directory / "hosts") if has_etc else "",
        "LogPath": log_path(container, ctx.config) if container.had_start else "",
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": "overlay2",
        "Platform": container.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": sorted(container.execs) or None,
        "HostConfig": {**container.host, "Links": links.shown(container, ctx.registry)},
        "GraphDriver": _graph_driver(ctx, container),
    }
    if size:
        result["SizeRw"], result["SizeRootFs"] = await sizes(ctx, container)
    result |= {
        "Mounts": [point.as_docker() for point in container.mounts if point.type != "tmpfs"],
        "Config": container.config,
        "NetworkSettings": _network_settings(ctx, container),
    }
    return result


def _graph_driver(ctx: Context, container: Container) -> dict[str, Any]:
    mount = ctx.snapshots.overlay(container.id)
    data = {
        "ID": container.id,
        "LowerDir": ":".join(str(path) for path in mount.lower),
        "MergedDir": str(ctx.config.bundle(container.id) / "rootfs"),
        "UpperDir": str(mount.upper),
        "WorkDir": str(mount.work),
    }
    return {"Data": data, "Name": "overlay2"}


_NO_NETWORK: dict[str, Any] = {
    "Bridge": "",
    "SandboxID": "",
    "SandboxKey": "",
    "Ports": {},
    "HairpinMode": False,
    "LinkLocalIPv6Address": "",
    "LinkLocalIPv6PrefixLen": 0,
    "SecondaryIPAddresses": None,
    "SecondaryIPv6Addresses": None,
    "EndpointID": "",
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "MacAddress": "",
}


def _network_settings(ctx: Context, container: Container) -> dict[str, Any]:
    return {**_NO_NETWORK, **container.network, "Networks": networks(ctx, container)}

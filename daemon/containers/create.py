"""`create`: from a request to a container record with its snapshot; nothing runs yet."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from daemon import scaffold
from daemon.clock import now_ns
from daemon.containers import (
    ability,
    defaults,
    links,
    merge,
    mounts,
    names,
    populate,
    refusals,
    validate,
    volumemounts,
)
from daemon.containers.context import Context
from daemon.containers.logs import drivers
from daemon.containers.model import Container
from daemon.containers.spec import devices, security
from daemon.containers.wire import Config, CreateRequest, EndpointSettings, HostConfig
from daemon.images import platforms
from daemon.images.model import Image
from daemon.runtime.capabilities import NUMBERS as CAPABILITIES
from storage.errors import InvalidArgument, NotFound

_NOT_CONFIG = ("HostConfig", "NetworkingConfig")


async def create(
    ctx: Context,
    name: str | None,
    request: CreateRequest,
    platform: str | None,
    *,
    recursive_read_only: bool = True,
) -> dict[str, Any]:
    """Docker's `{"Id", "Warnings"}`. Raises InvalidArgument, NotFound (image), Conflict (name).

    Without `recursive_read_only`, a read-only bind leaves what is mounted below its source writable.
    """
    asked: HostConfig = request.get("HostConfig") or HostConfig()
    config = Config(**{k: v for k, v in request.items() if k not in _NOT_CONFIG})  # type: ignore[typeddict-item]
    image = _image(ctx, config, platform)
    if platform and image:
        _check_platform(image, config.get("Image", ""), platform)
    warnings = validate.check(config, asked, frozenset(CAPABILITIES))
    warnings += refusals.check(config, asked, ctx.registry, limits=ctx.snapshots.limits)
    warnings += _warnings(asked)
    asked, discarded = ability.kept(asked)
    warnings += discarded
    _check_runtime(ctx, asked)
    merged = merge.merged(config, image.container_config if image else {})
    argv = merge.command_line(merged)
    host = defaults.host_config(asked, ctx.config, cgroups_v2=ctx.cgroups_v2)
    host["Links"] = links.resolved(host, ctx.registry)
    drivers.check_create(host["LogConfig"]["Type"], host["LogConfig"].get("Config") or {})
    container = Container(
        id=names.new_id(),
        name=names.checked(name) if name else _free_name(ctx),
        created=now_ns(),
        image_id=image.id if image else "",
        image=config.get("Image", ""),
        config=defaults.config(merged),
        host=host,
        endpoints=_endpoints(ctx, host, request),
        layers=tuple(reversed(image.chain_ids[-1:])) if image else (),
        path=argv[0],
        args=argv[1:],
        runtime=host["Runtime"],
    )
    if not container.config.get("Hostname") and not container.network_mode.startswith(("host", "container:")):
        container.config["Hostname"] = container.short_id
    ctx.runtime.expect()  # a start follows most creates
    await _make(ctx, container, recursive_read_only=recursive_read_only)
    return {"Id": container.id, "Warnings": warnings}


def _image(ctx: Context, config: Config, platform: str | None) -> Image | None:
    ref = config.get("Image") or ""
    if not ref:
        raise InvalidArgument("no image specified: Image is empty")
    return ctx.images.resolve(ref, platforms.parse(platform) if platform else None)


def _check_platform(image: Image, ref: str, platform: str) -> None:
    wanted = platforms.parse(platform)
    if not platforms.satisfies(wanted, image.config):
        own = platforms.Platform.of(image.config)
        raise NotFound(
            f"image with reference {ref} was found but its platform ({own}) does not match the specified "
            f"platform ({wanted})"
        )


def _warnings(asked: HostConfig) -> list[str]:
    options = security.parse(asked.get("SecurityOpt"))
    found = []
    if options.labels and options.labels != ("disable",):
        found.append("SELinux is not used by this engine; --security-opt label has no effect.")
    if options.apparmor not in ("", "unconfined") and not _apparmor():
        found.append("AppArmor is not enabled on this system; --security-opt apparmor has no effect.")
    devices.user_devices(HostConfig(Devices=[]))
    return found


def _apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def _check_runtime(ctx: Context, asked: HostConfig) -> None:
    runtime = asked.get("Runtime") or ctx.config.default_runtime
    if runtime not in ctx.config.known_runtimes():
        raise InvalidArgument(f"unknown or invalid runtime name: {runtime}")


def _free_name(ctx: Context) -> str:
    while True:
        name = names.random_name()
        try:
            ctx.registry.find(name)
        except NotFound:
            return name
        except InvalidArgument:
            continue


def _endpoints(ctx: Context, host: HostConfig, request: CreateRequest) -> dict[str, EndpointSettings]:
    """What is asked of each network, the one of NetworkMode first. Raises NotFound, InvalidArgument."""
    mode = host["NetworkMode"]
    if mode.startswith("container:") or request.get("NetworkDisabled"):
        return {}
    asked = dict((request.get("NetworkingConfig") or {}).get("EndpointsConfig") or {})
    first = asked.pop(mode, None) or (asked.pop("default", None) if mode == "bridge" else None)
    chosen = {mode: EndpointSettings(**(first or {}))}
    mac = request.get("MacAddress")
    if mac and not chosen[mode].get("MacAddress"):
        chosen[mode]["MacAddress"] = mac
    for name, settings in asked.items():
        chosen[name] = EndpointSettings(**(settings or {}))
    for name, settings in chosen.items():
        refusals.check_mac(name, settings.get("MacAddress") or "")
        with contextlib.suppress(
            NotFound
        ):  # it may be there at start; the client takes 404 for a missing image
            ctx.networks.check(name, settings)
    return chosen


async def _make(ctx: Context, container: Container, *, recursive_read_only: bool) -> None:
    ctx.registry.reserve(container.name, container.id)
    prepared = False
    try:
        limit = refusals.storage_limit(container.host)
        ctx.snapshots.prepare(container.id, container.layers[0] if container.layers else None, limit=limit)
        prepared = True
        (ctx.snapshots.layer_dir(container.id) / scaffold.MARK).touch(mode=0o755)
        container.mounts = await mounts.settle(container, ctx.registry, ctx.volumes)
        if not recursive_read_only:
            mounts.read_only_not_recursive(container.mounts)
        volumemounts.settle_images(ctx, container)
        ctx.config.container_dir(container.id).mkdir(mode=0o710, parents=True)
        await populate.volumes(ctx, container)
        await ctx.registry.add(container)
    except BaseException:
        ctx.registry.release(container.name, container.id)
        await _undo(ctx, container, prepared)
        raise
    ctx.publish(container, "create")


async def _undo(ctx: Context, container: Container, prepared: bool) -> None:
    if prepared:
        ctx.snapshots.remove(container.id)
    directory = ctx.config.container_dir(container.id)
    if directory.exists():
        await asyncio.to_thread(directory.rmdir)
    for name in ctx.volumes.made_for(container.id):
        await ctx.volumes.remove(name, force=True)

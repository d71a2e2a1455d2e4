"""Which networks a container is in: asked for at `create`, changed by `network connect` and `disconnect`.

`Container.endpoints` is what is asked for and survives restarts of the container; the network service holds
what is real while it runs. A running container's /etc files follow in place, since they are bound into it.
Rules, texts and statuses are moby's (daemon/container_operations.go), observed against 28.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from daemon.containers import links
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.surroundings import hostname_of
from daemon.containers.wire import EndpointSettings
from daemon.network.model import AttachRequest, EtcFiles
from storage.errors import Conflict, Internal, InvalidArgument, NotFound


def request(container: Container, network: str, *, first: bool) -> AttachRequest:
    """What the network service is asked for; the first network carries the published ports."""
    return AttachRequest(
        network=network,
        container_name=container.name,
        hostname=container.config.get("Hostname") or "",
        domainname=container.config.get("Domainname") or "",
        endpoint=container.endpoints[network],
        bindings=(container.host.get("PortBindings") or {}) if first else {},
        exposed=tuple(container.config.get("ExposedPorts") or ()) if first else (),
        publish_all=bool(container.host.get("PublishAllPorts")) and first,
    )


async def connect(ctx: Context, ref: str, network: str, settings: EndpointSettings) -> None:
    """Raises NotFound, InvalidArgument (modes that exclude each other), Forbidden (in it already)."""
    container = _find(ctx, ref)
    async with container.lock:
        _check_not_removed(container)
        if container.state.alive:
            await _connect_running(ctx, container, network, settings)
        else:
            _note(ctx, container, network, settings)
        await ctx.registry.save(container)


async def disconnect(ctx: Context, ref: str, network: str, *, force: bool) -> None:
    """Raises NotFound, InvalidArgument (host mode), Internal (not connected: dockerd's status)."""
    container = _find(ctx, ref)
    async with container.lock:
        try:
            name = _name(ctx, network)
        except NotFound:
            if container.state.alive and not force:
                raise
            name = network
            _forget(container, name)
        else:
            if container.state.alive:
                await _disconnect_running(ctx, container, name)
            else:
                _check_not_removed(container)
                _forget(container, name)
        await ctx.registry.save(container)


def _find(ctx: Context, ref: str) -> Container:
    if not ref:
        raise InvalidArgument('invalid name or ID supplied: ""')
    return ctx.registry.find(ref)


def _name(ctx: Context, network: str) -> str:
    return str(ctx.networks.inspect(network)["Name"])


def _check_not_removed(container: Container) -> None:
    if container.removing or container.state.dead:
        raise Conflict(
            f"container {container.id} is marked for removal and cannot be connected or disconnected"
        )


# -- running


async def _connect_running(
    ctx: Context, container: Container, network: str, settings: EndpointSettings
) -> None:
    name = _name(ctx, network)
    if container.network_mode.startswith("container:"):
        _check_modes(container, name)
    _check_endpoint(ctx, name, settings)
    before = etc_files(ctx, container, hostname_of(container, ctx.registry))
    asked = container.endpoints.get(name)
    container.endpoints[name] = settings
    try:
        attachment = await ctx.networks.connect(
            container.id, request(container, name, first=len(container.endpoints) == 1)
        )
    except BaseException:
        if asked is None:
            del container.endpoints[name]
        else:
            container.endpoints[name] = asked
        raise
    container.network = attachment.settings()
    await _follow(ctx, container, before)


async def _disconnect_running(ctx: Context, container: Container, name: str) -> None:
    before = etc_files(ctx, container, hostname_of(container, ctx.registry))
    await ctx.networks.disconnect(container.id, name)
    container.endpoints.pop(name, None)
    attachment = ctx.networks.attachment(container.id)
    container.network = attachment.settings() if attachment else {}
    await _follow(ctx, container, before)


async def _follow(ctx: Context, container: Container, before: EtcFiles) -> None:
    """Bring the container's own hosts and resolv.conf up to date, keeping what it changed itself."""
    after = etc_files(ctx, container, hostname_of(container, ctx.registry))
    directory = ctx.config.container_dir(container.id)
    old, new = texts(before), texts(after)

    def rewrite() -> None:
        _replace(directory / "hosts", lambda text: _merged(text, old["hosts"], new["hosts"]))
        _replace(
            directory / "resolv.conf",
            lambda text: new["resolv.conf"] if text == old["resolv.conf"] else text,
        )

    await asyncio.to_thread(rewrite)


def _replace(path: Path, change: Callable[[str], str]) -> None:
    """Write into the same file: another one would not show through the container's bind mount."""
    text = path.read_text(errors="surrogateescape")
    changed = change(text)
    if changed != text:
        path.write_text(changed, errors="surrogateescape")


def _merged(text: str, old: str, new: str) -> str:
    """`text` without the lines that only `old` has, with those that only `new` has."""
    if text == old:
        return new
    gone = set(old.splitlines()) - set(new.splitlines())
    come = [line for line in new.splitlines() if line not in old.splitlines()]
    kept = [line for line in text.splitlines() if line not in gone]
    return "".join(f"{line}\n" for line in kept + come)


# -- not running: what the next start shall do


def _note(ctx: Context, container: Container, network: str, settings: EndpointSettings) -> None:
    """A network that does not exist (yet) is noted by the name given, as dockerd does; start will tell."""
    name = network
    try:
        name = _name(ctx, network)
    except NotFound:
        pass
    else:
        _check_modes(container, name)
        _check_endpoint(ctx, name, settings)
    container.endpoints[name] = settings


def _check_endpoint(ctx: Context, name: str, settings: EndpointSettings) -> None:
    try:
        ctx.networks.check(name, settings)
    except InvalidArgument as error:  # create names the network before its text, connect does not
        raise InvalidArgument(str(error).removeprefix(f"invalid config for network {name}: ")) from None


def _check_modes(container: Container, name: str) -> None:
    others = [each for each in container.endpoints if each != name]
    if name == "host" and container.network_mode != "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if container.network_mode.startswith("container:") or "host" in others:
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be connected to any "
            "other network"
        )
    if others and (name == "none" or "none" in others):
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) "
            "mode"
        )


def _forget(container: Container, name: str) -> None:
    if name not in container.endpoints:
        raise Internal(f"container {container.id} is not connected to the network {name}")
    del container.endpoints[name]


# -- /etc


def etc_files(ctx: Context, container: Container, hostname: str) -> EtcFiles:
    """hostname, hosts and resolv.conf for the container as it is attached now."""
    return ctx.networks.etc_files(
        container.id,
        hostname=hostname,
        domainname=container.config.get("Domainname") or "",
        host_config=container.host,
        links=_links(ctx, container),
    )


def texts(files: EtcFiles) -> dict[str, str]:
    return {"hostname": files.hostname, "hosts": files.hosts, "resolv.conf": files.resolv_conf}


def _links(ctx: Context, container: Container) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for other, alias in links.of(container, ctx.registry):
        if not other.state.alive:
            raise Conflict(
                f"Cannot link to a non running container: /{other.name} AS /{container.name}/{alias}"
            )
        found.append((other.id, [alias, other.short_id, other.name]))
    return found

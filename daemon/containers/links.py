"""`--link` on the default bridge: aliases of other containers, and what a container is told of them.

A link is kept in HostConfig.Links as `CHILD-ID:ALIAS` (so a rename of the child changes nothing) and shown
as Docker shows it, `/child:/parent/alias`. `/parent/alias` is a further name of the child. Variables and
their order are moby's (daemon/links/links.go).
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.containers.registry import Registry
from daemon.containers.wire import HostConfig
from storage.errors import InvalidArgument, NotFound


def resolved(host: HostConfig, registry: Registry) -> list[str] | None:
    """Links of a create request as they are kept. Raises InvalidArgument, naming the one not found."""
    asked = host.get("Links")
    if not asked:
        return asked
    kept = []
    for link in asked:
        ref, _, alias = link.partition(":")
        if not ref or ":" in alias:
            raise InvalidArgument(f"bad format for links: {link}")
        try:
            child = registry.find(ref)
        except NotFound as error:
            raise InvalidArgument(f"could not get container for {ref}: {error}") from None
        if child.network_mode == "host":
            raise InvalidArgument("conflicting options: host type networking can't be used with links")
        kept.append(f"{child.id}:{alias or child.name}")
    return kept


def of(container: Container, registry: Registry) -> Iterator[tuple[Container, str]]:
    """(child, alias) of each link whose child still exists."""
    for link in container.host.get("Links") or []:
        ref, _, alias = link.partition(":")
        child = registry.by_id(ref)
        if child is not None:
            yield child, alias.rpartition("/")[2]


def shown(container: Container, registry: Registry) -> list[str] | None:
    """HostConfig.Links of `inspect`."""
    links = [f"/{child.name}:/{container.name}/{alias}" for child, alias in of(container, registry)]
    return sorted(links) or None


def aliases(registry: Registry) -> dict[str, list[str]]:
    """Child ID → its further names, `/parent/alias`, of all containers."""
    found: dict[str, list[str]] = {}
    for parent in registry:
        if parent.host.get("Links"):
            for child, alias in of(parent, registry):
                found.setdefault(child.id, []).append(f"/{parent.name}/{alias}")
    return found


async def remove(ctx: Context, ref: str) -> None:
    """`rm --link`: drops `/parent/alias`, not the container. Raises NotFound, InvalidArgument."""
    parent_name, _, alias = ref.removeprefix("/").rpartition("/")
    if not parent_name:
        raise InvalidArgument("Conflict, cannot remove the default link name of the container")
    parent = ctx.registry.find(parent_name)
    async with parent.lock:
        left = [
            link
            for link in parent.host.get("Links") or []
            if link.rpartition(":")[2].rpartition("/")[2] != alias
        ]
        if len(left) == len(parent.host.get("Links") or []):
            raise NotFound(f"No such container: {ref}")
        parent.host["Links"] = left or None
        await ctx.registry.save(parent)


def environment(container: Container, registry: Registry) -> list[str]:
    """What a container on the default bridge learns of those it is linked to."""
    if container.network_mode != "bridge":
        return []
    found: list[str] = []
    for child, alias in of(container, registry):
        networks = child.network.get("Networks") or {}
        address = (networks.get("bridge") or {}).get("IPAddress") or ""
        found += _variables(f"/{container.name}/{alias}", address, child)
    return found


def _variables(name: str, address: str, child: Container) -> Iterator[str]:
    alias = name.rpartition("/")[2].upper().replace("-", "_")
    ports = sorted(_port(key) for key in child.config.get("ExposedPorts") or {})
    if ports:
        number, protocol = ports[0]
        yield f"{alias}_PORT={protocol}://{address}:{number}"
    for number, protocol in ports:
        one = f"{alias}_PORT_{number}_{protocol.upper()}"
        yield f"{one}={protocol}://{address}:{number}"
        yield f"{one}_ADDR={address}"
        yield f"{one}_PORT={number}"
        yield f"{one}_PROTO={protocol}"
    yield f"{alias}_NAME={name}"
    for entry in child.config.get("Env") or []:
        key, equals, value = entry.partition("=")
        if equals and key not in ("HOME", "PATH"):
            yield f"{alias}_ENV_{key}={value}"


def _port(key: str) -> tuple[int, str]:
    number, _, protocol = key.partition("/")
    return int(number.partition("-")[0]), protocol or "tcp"

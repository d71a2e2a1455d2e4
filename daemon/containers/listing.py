"""`ps`: which containers, in which order (moby daemon/list.go)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemon.containers import links, show
from daemon.containers.context import Context
from daemon.containers.model import Container
from daemon.labels import has_label
from storage.errors import InvalidArgument, NotFound, PydError

Filters = dict[str, list[str]]
ACCEPTED = frozenset(
    [
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ]
)
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


async def listed(
    ctx: Context, *, all: bool, limit: int, size: bool, filters: Filters
) -> list[dict[str, Any]]:
    """Rows, newest first. Raises InvalidArgument for an unknown filter or value."""
    check(filters)
    chosen = [
        c for c in sorted(ctx.registry, key=lambda c: c.created, reverse=True) if _kept(ctx, c, filters)
    ]
    wants_all = all or limit > 0 or "status" in filters or "exited" in filters
    if not wants_all:
        chosen = [c for c in chosen if c.state.running]
    if limit > 0:
        chosen = chosen[:limit]
    aliases = links.aliases(ctx.registry)
    return [
        show.row(ctx, c, await show.sizes(ctx, c) if size else None, aliases.get(c.id, ())) for c in chosen
    ]


def check(filters: Filters, accepted: frozenset[str] = ACCEPTED) -> None:
    for key in filters:
        if key not in accepted:
            raise InvalidArgument(f"invalid filter '{key}'")
    for status in filters.get("status", []):
        if status not in STATES:
            raise InvalidArgument(
                f"invalid filter 'status={status}': invalid value for state ({status}): must be one of created, "
                "running, paused, restarting, removing, exited, dead"
            )
    for health in filters.get("health", []):
        if health not in ("starting", "healthy", "unhealthy", "none"):
            raise InvalidArgument(
                f"invalid filter 'health={health}': invalid value for health ({health}): must be one of none, "
                "starting, healthy, unhealthy"
            )
    for code in filters.get("exited", []):
        if not code.lstrip("-").isdigit():
            raise InvalidArgument(
                f"invalid filter 'exited={code}': strconv.Atoi: parsing \"{code}\": invalid syntax"
            )
    for key in ("publish", "expose"):
        for port in filters.get(key, []):
            _check_port(key, port)
    for task in filters.get("is-task", []):
        if task.lower() not in ("0", "1", "true", "false"):
            raise InvalidArgument(f"invalid filter 'is-task=[{task}]'")


def _kept(ctx: Context, container: Container, filters: Filters) -> bool:
    return all(_TESTS[key](ctx, container, values) for key, values in filters.items() if values)


def has_labels(labels: dict[str, str], wanted: list[str]) -> bool:
    return all(has_label(labels, entry) for entry in wanted)


def _name(ctx: Context, container: Container, values: list[str]) -> bool:
    import re

    for value in values:
        try:
            if re.search(value, container.name) or re.search(value, f"/{container.name}"):
                return True
        except re.error:
            if value in container.name:
                return True
    return False


def _ancestor(ctx: Context, container: Container, values: list[str]) -> bool:
    for value in values:
        try:
            image = ctx.images.resolve(value)
        except PydError:
            continue
        if container.image_id == image.id:
            return True
        try:
            own = ctx.images.resolve(container.image_id)
        except PydError:
            continue
        count = len(image.diff_ids)
        if count and own.diff_ids[:count] == image.diff_ids:
            return True
    return False


def _relative(older: bool) -> Callable[[Context, Container, list[str]], bool]:
    def test(ctx: Context, container: Container, values: list[str]) -> bool:
        other = ctx.registry.find(values[-1])
        return container.created < other.created if older else container.created > other.created

    return test


def _volume(ctx: Context, container: Container, values: list[str]) -> bool:
    return any(v in (p.name, p.destination, p.source) for v in values for p in container.mounts)


def _network(ctx: Context, container: Container, values: list[str]) -> bool:
    for value in values:
        if value in container.endpoints:
            return True
        try:
            found = ctx.networks.inspect(value)
        except NotFound:
            continue
        if found["Name"] in container.endpoints or found["Id"] in container.endpoints:
            return True
    return False


def _port_filter(published: bool) -> Callable[[Context, Container, list[str]], bool]:
    def test(ctx: Context, container: Container, values: list[str]) -> bool:
        for row in show.ports(container):
            port = row.get("PublicPort") if published else row["PrivatePort"]
            if port is not None and any(_port_in(value, port, row["Type"]) for value in values):
                return True
        return False

    return test


def _check_port(key: str, spec: str) -> None:
    for number in spec.partition("/")[0].split("-"):
        if not number.isdecimal():
            raise InvalidArgument(
                f'error while looking up for {key} {spec}: strconv.ParseUint: parsing "{number}": invalid syntax'
            )


def _port_in(spec: str, port: int, protocol: str) -> bool:
    numbers, _, wanted = spec.partition("/")
    first, _, last = numbers.partition("-")
    try:
        return int(first) <= port <= int(last or first) and (wanted or "tcp") == protocol
    except ValueError:
        raise InvalidArgument(f"invalid filter: invalid port '{spec}'") from None


def _health(ctx: Context, container: Container, values: list[str]) -> bool:
    return (container.health.status if container.health else "none") in values


_TESTS: dict[str, Callable[[Context, Container, list[str]], bool]] = {
    "id": lambda ctx, c, values: any(c.id.startswith(v) for v in values),
    "name": _name,
    "label": lambda ctx, c, values: has_labels(c.labels, values),
    "exited": lambda ctx, c, values: c.had_start and not c.state.running and str(c.state.exit_code) in values,
    "status": lambda ctx, c, values: c.state.status in values,
    "ancestor": _ancestor,
    "before": _relative(True),
    "since": _relative(False),
    "volume": _volume,
    "network": _network,
    "publish": _port_filter(True),
    "expose": _port_filter(False),
    "health": _health,
    "is-task": lambda ctx, c, values: values[-1].lower() in ("0", "false"),
    "isolation": lambda ctx, c, values: True,
}

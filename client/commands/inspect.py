"""`pyd inspect` and the inspect sub-commands: a thing's JSON, or a template over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client.errors import ApiError, ClientError
from client.options import Command, Parsed
from client.render.listing import to_json, unescape
from client.session import Session, say, warn
from client.template_functions import NIL, Struct

PLAIN_FLAGS = "f|format|string||'json' or a Go template"
SIZE_FLAGS = f"{PLAIN_FLAGS}\ns|size|bool||Show sizes of containers"
NETWORK_FLAGS = f"{PLAIN_FLAGS}\nv|verbose|bool||Show more of swarm networks"
ALL_FLAGS = f"{SIZE_FLAGS}\n |type|string||Look for this type only"
IMAGE_FLAGS = f"{PLAIN_FLAGS}\n |platform|string||Inspect this platform of a multi-platform image"

_LISTS = frozenset(("Binds", "CapAdd", "CapDrop", "Cmd", "DeviceCgroupRules", "DeviceRequests", "Devices", "Dns",
                    "DnsOptions", "DnsSearch", "Entrypoint", "Env", "ExecIDs", "ExtraHosts", "GroupAdd", "Links",
                    "MaskedPaths", "Mounts", "OnBuild", "ReadonlyPaths", "RepoDigests", "RepoTags", "SecurityOpt",
                    "Ulimits", "VolumesFrom", "Aliases", "DNSNames"))  # fmt: skip
_MAPS = frozenset(("Labels", "Options", "Ports", "PortBindings", "Volumes", "ExposedPorts", "DriverOpts", "Sysctls",
                   "Networks", "Containers", "Tmpfs", "Annotations", "StorageOpt", "Data", "Config/LogConfig",
                   "Status"))  # fmt: skip
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "State": {"Health": NIL},
    "Config": {
        "Healthcheck": NIL,
        "ExposedPorts": {},
        "StopSignal": "",
        "StopTimeout": NIL,
        "MacAddress": "",
    },
    "HostConfig": {
        "Init": NIL,
        "Mounts": [],
        "Tmpfs": {},
        "Sysctls": {},
        "StorageOpt": {},
        "Annotations": {},
    },
}
"""Fields of a container that the JSON leaves out when they are empty, and that a template may still ask for."""

Getter = Callable[[Session, str, Parsed], Any]


def _container(session: Session, name: str, parsed: Parsed) -> Any:
    query = {"size": 1 if "size" in parsed.values and parsed.on("size") else None}
    return session.api.json("GET", f"/containers/{name}/json", query=query)


def _image(session: Session, name: str, parsed: Parsed) -> Any:
    return session.api.json("GET", f"/images/{name}/json")


def _network(session: Session, name: str, parsed: Parsed) -> Any:
    query = {"verbose": 1 if "verbose" in parsed.values and parsed.on("verbose") else None}
    return session.api.json("GET", f"/networks/{name}", query=query)


def _volume(session: Session, name: str, parsed: Parsed) -> Any:
    return session.api.json("GET", f"/volumes/{name}")


GETTERS: dict[str, Getter] = {
    "container": _container,
    "image": _image,
    "network": _network,
    "volume": _volume,
}


def _any(session: Session, name: str, parsed: Parsed) -> Any:
    """docker's order: container, image, network, volume; the first that is found."""
    for get in GETTERS.values():
        try:
            return get(session, name, parsed)
        except ApiError as error:
            if error.status not in (404, 503) and "invalid" not in error.detail:
                raise
    raise ClientError(f"Error: No such object: {name}")


def for_template(value: Any, key: str = "", parent: str = "") -> Any:
    """The document as Go's types would print it: records `{...}`, null lists `[]`, null maps `map[]`, else `<nil>`."""
    is_map = key in _MAPS or f"{key}/{parent}" in _MAPS
    if isinstance(value, dict):
        if not key and "HostConfig" in value:
            value = {"SizeRw": NIL, "SizeRootFs": NIL, **value}
        elif parent == ".":
            value = {
                **value,
                **{name: empty for name, empty in _LEFT_OUT.get(key, {}).items() if name not in value},
            }
        converted = {
            name: for_template(item, "" if is_map else name, key or ".") for name, item in value.items()
        }
        return converted if is_map else Struct(converted)
    if isinstance(value, list):
        return [for_template(item, "", key) for item in value]
    if value is None:
        return [] if key in _LISTS else {} if is_map else NIL
    return value


def inspect_with(get: Getter, session: Session, parsed: Parsed) -> int:
    """Print what is found, then the errors; 1 when there was any."""
    template = None
    text = parsed.text("format")
    if text and text != "json":
        from client.template_syntax import TemplateSyntaxError
        from client.templates import Template

        try:
            template = Template(unescape(text))
        except TemplateSyntaxError as error:
            raise ClientError(f"template parsing error: {error}") from None
    found, problems = [], []
    for name in parsed.arguments:
        if not name:
            problems.append("invalid reference format: an empty name")
            continue
        try:
            found.append(get(session, name, parsed))
        except ClientError as error:
            problems.append(str(error))
    if template is not None:
        _print_rendered(template.render, found)
    elif text == "json":
        say(to_json(found))
    else:
        say(to_json(found, indent=4))
    if problems:
        warn("\n".join(problems))
    return int(bool(problems))


def _print_rendered(render: Callable[[Any], str], found: list[Any]) -> None:
    if not found:
        say()
    for item in found:
        try:
            say(render(for_template(item)))
        except ClientError as error:
            say()
            raise ClientError(f"template parsing error: {error}") from None


def inspect_any(session: Session, parsed: Parsed) -> int:
    kind = parsed.text("type")
    if kind and kind not in GETTERS:
        raise ClientError(f'unknown type: "{kind}": must be one of "container", "image", "network", "volume"')
    if kind and kind != "container" and parsed.on("size"):
        raise ClientError('"size" is not supported for type "' + kind + '"')
    return inspect_with(GETTERS.get(kind, _any), session, parsed)


def _inspecting(kind: str) -> Callable[[Session, Parsed], int]:
    return lambda session, parsed: inspect_with(GETTERS[kind], session, parsed)


COMMANDS = (
    Command(("inspect",), "NAME|ID [NAME|ID...]", "Return low-level information on containers, images, networks and "
            "volumes", inspect_any, ALL_FLAGS, least=1, completes="containers"),
    Command(("container inspect",), "CONTAINER [CONTAINER...]", "Show all about one or more containers",
            _inspecting("container"), SIZE_FLAGS, least=1, completes="containers"),
    Command(("image inspect",), "IMAGE [IMAGE...]", "Show all about one or more images", _inspecting("image"),
            IMAGE_FLAGS, least=1, completes="images"),
    Command(("network inspect",), "NETWORK [NETWORK...]", "Show all about one or more networks",
            _inspecting("network"), NETWORK_FLAGS, least=1, completes="networks"),
    Command(("volume inspect",), "VOLUME [VOLUME...]", "Show all about one or more volumes", _inspecting("volume"),
            PLAIN_FLAGS, least=1, completes="volumes"),
)  # fmt: skip

"""Every command's name and the module that has it; the table that keeps start-up from importing all of them.

A name is one or two words. `docker`'s top-level names are aliases of names under a noun (`ps` is `container ls`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.options import Command

GROUPS: dict[str, str] = {
    "builder": "Manage builds",
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "network": "Manage networks",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}

_MODULES: dict[str, str] = {
    "run": "run, container run",
    "create": "create, container create",
    "start": "start, container start",
    "lifecycle": "stop, container stop, restart, container restart, kill, container kill, pause, container pause, "
    "unpause, container unpause, wait, container wait, rename, container rename",
    "remove": "rm, container rm, container remove, container prune",
    "ps": "ps, container ls, container list, container ps",
    "logs": "logs, container logs",
    "attach": "attach, container attach",
    "exec": "exec, container exec",
    "inspect": "inspect, container inspect, image inspect, network inspect, volume inspect",
    "top": "top, container top",
    "stats": "stats, container stats",
    "port": "port, container port",
    "update": "update, container update",
    "diff": "diff, container diff",
    "copy": "cp, container cp",
    "export": "export, container export, commit, container commit",
    "images": "images, image ls, image list",
    "imagefiles": "load, image load, save, image save, import, image import",
    "imagetags": "tag, image tag, rmi, image rm, image remove, image prune, history, image history",
    "pull": "pull, image pull, push, image push",
    "login": "login, logout",
    "search": "search",
    "version": "version",
    "info": "info, system info",
    "events": "events, system events",
    "system": "system df, system prune",
    "network": "network ls, network list, network create, network rm, network remove, network prune, "
    "network connect, network disconnect",
    "volume": "volume ls, volume list, volume create, volume rm, volume remove, volume prune, volume update",
    "context": "context ls, context list, context show, context use, context inspect, context create, context rm, "
    "context remove",
    "build": "build, image build, builder build, builder prune, buildx, compose",
    "completion": "completion",
}

COMMON = (
    "run",
    "exec",
    "ps",
    "build",
    "pull",
    "push",
    "images",
    "login",
    "logout",
    "search",
    "version",
    "info",
)
HIDDEN = frozenset(("container list", "container ps", "container remove", "image list", "image remove",
                    "network list", "network remove", "volume list", "volume remove", "context list",
                    "context remove", "completion", "buildx", "compose"))  # fmt: skip

NAMES: dict[str, str] = {name: module for module, names in _MODULES.items() for name in names.split(", ")}


def command(name: str) -> Command:
    """Import the module that has this command and hand the command out."""
    module = import_module(f"client.commands.{NAMES[name]}")
    for entry in module.COMMANDS:
        if name in entry.names:
            return entry  # type: ignore[no-any-return]
    raise KeyError(name)

"""Where and how a container logs: HostConfig.LogConfig as the keeper's LogSpec."""

from __future__ import annotations

import re

from daemon.config import DaemonConfig
from daemon.containers.model import Container
from daemon.runtime.client import LogSpec


def log_path(container: Container, config: DaemonConfig) -> str:
    """The file of the drivers that pyd can read back; empty for the others."""
    directory = config.container_dir(container.id)
    match _driver(container):
        case "json-file":
            return str(directory / f"{container.id}-json.log")
        case "local":
            return str(directory / "local-logs" / "container.log")
        case _:
            return ""


def _driver(container: Container) -> str:
    return (container.host.get("LogConfig") or {}).get("Type") or "json-file"


def log_spec(container: Container, config: DaemonConfig) -> LogSpec:
    options = dict((container.host.get("LogConfig") or {}).get("Config") or {})
    for name, value in attributes(container, options).items():
        options[f"attrs:{name}"] = value
    return LogSpec(_driver(container), log_path(container, config), options)


def attributes(container: Container, options: dict[str, str]) -> dict[str, str]:
    """Extra attributes of each line: log-opts labels, labels-regex, env, env-regex, tag."""
    chosen: dict[str, str] = {}
    labels = {k for k in (options.get("labels") or "").split(",") if k}
    pattern = options.get("labels-regex")
    for name, value in container.labels.items():
        if name in labels or (pattern and re.match(pattern, name)):
            chosen[name] = value
    wanted = {k for k in (options.get("env") or "").split(",") if k}
    pattern = options.get("env-regex")
    for entry in container.config.get("Env") or []:
        name, _, value = entry.partition("=")
        if name in wanted or (pattern and re.match(pattern, name)):
            chosen[name] = value
    if options.get("tag"):
        chosen["tag"] = _tag(options["tag"], container)
    return chosen


def _tag(template: str, container: Container) -> str:
    known = {
        "ID": container.short_id,
        "FullID": container.id,
        "Name": container.name,
        "ImageID": container.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": container.image_id,
        "ImageName": container.image,
        "DaemonName": "pyd",
    }
    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda m: known.get(m[1], m[0]), template)

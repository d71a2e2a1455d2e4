"""`pyd ps`: the list of containers."""

from __future__ import annotations

import json
import re
from typing import Any

from client.options import Command, Parsed
from client.render.listing import check_template, show
from client.render.units import ago, ellipsis, go_time, human_size, short_id
from client.session import Session, filters_json, say

FLAGS = """
a|all|bool||Show all containers, not only running ones
f|filter|filter||Show only what fits these conditions
 |format|string||'table', 'table TEMPLATE', 'json' or a Go template
n|last|int|-1|Show the N created last, whatever their state
l|latest|bool||Show the one created last, whatever its state
 |no-trunc|bool||Do not shorten
q|quiet|bool||Show IDs only
s|size|bool||Show sizes
"""
COLUMNS = {
    "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
    "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Names": "NAMES", "Labels": "LABELS",
    "Label": "", "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
}  # fmt: skip
_DEFAULT = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def ports_text(ports: list[dict[str, Any]]) -> str:
    """Published and exposed ports, neighbours joined: `0.0.0.0:80-82->80-82/tcp, 99/udp`."""
    groups: dict[str, tuple[int, int]] = {}
    done: list[str] = []
    mapped: list[str] = []

    def form(key: str) -> str:
        first, last = groups[key]
        address, _, protocol = key.rpartition("/")
        span = f"{first}" if first == last else f"{first}-{last}"
        return f"{_join(address, span)}->{span}/{protocol}" if address else f"{span}/{protocol}"

    def order(port: dict[str, Any]) -> tuple[int, str, int, str]:
        return port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"]

    for port in sorted(ports, key=order):
        private, public, address = port["PrivatePort"], port.get("PublicPort", 0), port.get("IP", "")
        if address and public != private:
            mapped.append(f"{_join(address, public)}->{private}/{port['Type']}")
            continue
        key = f"{address}/{port['Type']}"
        if key not in groups:
            groups[key] = (private, private)
        elif private == groups[key][1] + 1:
            groups[key] = (groups[key][0], private)
        else:
            done.append(form(key))
            groups[key] = (private, private)
    return ", ".join(done + [form(key) for key in groups] + mapped)


def _join(address: str, port: object) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def image_text(container: dict[str, Any], *, short: bool) -> str:
    image = str(container.get("Image") or "")
    if not image:
        return "<no image>"
    if not short:
        return image
    if short_id(str(container.get("ImageID", ""))) == short_id(image):
        return short_id(image)
    return image.partition("@")[0] if "@sha256:" in image else image


def size_text(container: dict[str, Any]) -> str:
    own, whole = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    return human_size(own, 3) + (f" (virtual {human_size(whole, 3)})" if whole else "")


def row(container: dict[str, Any], *, short: bool) -> dict[str, Any]:
    """One container as templates see it."""
    labels: dict[str, str] = container.get("Labels") or {}
    mounts = container.get("Mounts") or []
    names = [name.removeprefix("/") for name in container.get("Names") or []]
    own = [name for name in names if "/" not in name] if short else names
    command = str(container.get("Command", ""))
    mount_names = [str(mount.get("Name") or mount.get("Source", "")) for mount in mounts]
    platform = container.get("ImageManifestDescriptor", {}).get("platform") or {}
    identifier = str(container["Id"])
    return {
        "ID": identifier[:12] if short else identifier,
        "Image": image_text(container, short=short),
        "Command": json.dumps(ellipsis(command, 20) if short else command, ensure_ascii=False),
        "CreatedAt": go_time(container["Created"]),
        "RunningFor": ago(container["Created"]),
        "Ports": ports_text(container.get("Ports") or []),
        "State": container.get("State", ""),
        "Status": container.get("Status", ""),
        "Size": size_text(container),
        "Names": ",".join(own),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "Label": lambda name: labels.get(name, ""),
        "Mounts": ",".join(ellipsis(name, 15) if short else name for name in mount_names),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Networks": ",".join(sorted((container.get("NetworkSettings") or {}).get("Networks") or {})),
        "Platform": "/".join((platform["os"], platform["architecture"])) if platform else None,
    }


def chosen_format(session: Session, parsed: Parsed, setting: str) -> str:
    """--format, or else the configuration file's (`psFormat`, `imagesFormat` ...)."""
    if parsed.text("format"):
        return parsed.text("format")
    if "quiet" in parsed.values and parsed.on("quiet"):
        return ""
    if (session.config_directory / "config.json").exists():
        return session.config.text(setting)
    return ""


def ps(session: Session, parsed: Parsed) -> int:
    text = chosen_format(session, parsed, "psFormat")
    check_template(text)
    last = 1 if parsed.on("latest") and parsed.number("last") == -1 else parsed.number("last")
    query = {
        "all": 1 if parsed.on("all") or parsed.on("latest") else None,
        "limit": last if last > 0 else None,
        "size": 1 if parsed.on("size") or re.search(r"\.Size|json\s+\.", text) else None,
        "filters": filters_json(parsed.items("filter")),
    }
    containers = session.api.json("GET", "/containers/json", query=query)
    short = not parsed.on("no-trunc")
    rows = [row(container, short=short) for container in containers]
    if parsed.on("quiet") and not text:
        for item in rows:
            say(item["ID"])
        return 0
    default = (*_DEFAULT, "Size") if parsed.on("size") else _DEFAULT
    show(rows, COLUMNS, default, text, kind="*formatter.ContainerContext")
    return 0


COMMANDS = (
    Command(
        ("ps", "container ls", "container list", "container ps"), "", "List containers", ps, FLAGS, most=0
    ),
)

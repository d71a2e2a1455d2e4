"""`pyd port`: what is published where."""

from __future__ import annotations

from typing import Any

from client.errors import ClientError
from client.options import Command, Parsed
from client.session import Session, say


def _where(binding: dict[str, str]) -> str:
    address = binding["HostIp"]
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


def port(session: Session, parsed: Parsed) -> int:
    name, *wanted = parsed.arguments
    container = session.api.json("GET", f"/containers/{name}/json")
    ports: dict[str, list[Any] | None] = container["NetworkSettings"].get("Ports") or {}
    if wanted:
        return _one(name, wanted[0], ports)
    order = sorted(ports, key=lambda key: (int(key.partition("/")[0]), key))
    for key in order:
        for binding in ports[key] or []:
            say(f"{key} -> {_where(binding)}")
    return 0


def _one(name: str, wanted: str, ports: dict[str, list[Any] | None]) -> int:
    number, _, protocol = wanted.partition("/")
    if not number.isdigit():
        raise ClientError(f"Error: invalid port '{number}'")
    key = f"{number}/{protocol or 'tcp'}"
    if not ports.get(key):
        raise ClientError(f"Error: No public port '{wanted}' published for {name}")
    for binding in ports[key] or []:
        say(_where(binding))
    return 0


COMMANDS = (
    Command(("port", "container port"), "CONTAINER [PRIVATE_PORT[/PROTO]]",
            "List port mappings or a specific mapping for the container", port, least=1, most=2,
            completes="running"),
)  # fmt: skip

"""--use-api-socket: the engine's socket in the container, and the client's credentials for its registries.

The credentials go into a file by the archive endpoint once the container is made, as docker does it
(cli/command/container/create.go): a tmpfs would not be there before the start. A container that is given
DOCKER_CONFIG is left without.
"""

from __future__ import annotations

import base64
import io
import json
import posixpath
import tarfile
from typing import Any

from client.config import ConfigFile
from client.errors import ClientError
from client.session import Session

SOCKET = "/var/run/docker.sock"
CONFIG = "/run/secrets/docker/config.json"


def mount_socket(session: Session, body: dict[str, Any]) -> bytes | None:
    """Adds the mount to the request; the tar to unpack in the container's root, if there are credentials."""
    if session.endpoint.scheme != "unix":
        raise ClientError("--use-api-socket needs an engine at a unix socket")
    mount = {"Type": "bind", "Source": session.endpoint.path, "Target": SOCKET, "BindOptions": {}}
    body["HostConfig"].setdefault("Mounts", []).append(mount)
    environment = body["Env"] or []
    credentials = known_credentials(session.config)
    if not credentials or any(entry.startswith("DOCKER_CONFIG=") for entry in environment):
        return None
    body["Env"] = [*environment, f"DOCKER_CONFIG={posixpath.dirname(CONFIG)}"]
    return config_archive(credentials)


def known_credentials(config: ConfigFile) -> dict[str, dict[str, str]]:
    """`auths` of a config.json that needs no helper, for every registry that the client has been logged in to."""
    found = {}
    for server in {*(config.data.get("auths") or {}), *(config.data.get("credHelpers") or {})}:
        known = config.find(server)
        if known.username or known.identity_token:
            pair = base64.b64encode(f"{known.username}:{known.password}".encode()).decode()
            found[server] = {"auth": pair}
            if known.identity_token:
                found[server]["identitytoken"] = known.identity_token
    return found


def config_archive(credentials: dict[str, dict[str, str]]) -> bytes:
    """A tar with CONFIG, readable by root alone."""
    text = json.dumps({"auths": credentials}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(CONFIG.lstrip("/"))
        entry.size, entry.mode = len(text), 0o600
        archive.addfile(entry, io.BytesIO(text))
    return packed.getvalue()

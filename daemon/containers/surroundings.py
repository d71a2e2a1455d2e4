"""Looking up what a container's spec depends on: users in its image, namespaces of its neighbours."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from daemon.config import DaemonConfig
from daemon.containers import rootview
from daemon.containers.model import Container
from daemon.containers.registry import Registry
from daemon.containers.spec import users
from daemon.containers.spec.build import host_hostname
from daemon.containers.spec.users import Identity
from storage.errors import Conflict, InvalidArgument
from storage.snapshots import Snapshotter

KNOWN = 256
"""Identities that are kept."""


class Users:
    """Identities by image and user; an image's passwd is read once, not at each start."""

    def __init__(self, snapshots: Snapshotter) -> None:
        self._snapshots = snapshots
        self._known: dict[tuple[str, str, tuple[str, ...]], Identity] = {}

    async def identity(self, container: Container, user: str, groups: tuple[str, ...]) -> Identity:
        """Raises InvalidArgument for names that the container's own files don't know."""
        if container.state.alive or self._own_etc(container):  # it may have changed its passwd
            return await asyncio.to_thread(self._from_container, container, user, groups)
        if container.layers:
            return await self._of_image(container.layers[0], user, groups)
        return users.resolve(user, groups, lambda path: "")

    async def _of_image(self, chain_id: str, user: str, groups: tuple[str, ...]) -> Identity:
        key = chain_id, user, groups
        found = self._known.get(key)
        if found is None:
            found = await asyncio.to_thread(self._from_image, *key)
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _own_etc(self, container: Container) -> bool:
        return os.path.lexists(self._snapshots.layer_dir(container.id) / "etc")

    def _from_container(self, container: Container, user: str, groups: tuple[str, ...]) -> Identity:
        with rootview.root_of(container, self._snapshots) as root:
            return users.resolve(user, groups, lambda path: rootview.read_text(root, path))

    def _from_image(self, chain_id: str, user: str, groups: tuple[str, ...]) -> Identity:
        root = rootview.open_tree(self._snapshots.overlay(chain_id), writable=False)
        try:
            return users.resolve(user, groups, lambda path: rootview.read_text(root, path))
        finally:
            os.close(root)


def hostname_of(container: Container, registry: Registry) -> str:
    host = container.host
    if host.get("UTSMode") == "host" or (
        container.network_mode == "host" and not container.config.get("Hostname")
    ):
        return host_hostname()
    if container.network_mode.startswith("container:"):
        return hostname_of(registry.find(container.network_mode.partition(":")[2]), registry)
    return container.config.get("Hostname") or container.short_id


def _neighbour(ref: str, registry: Registry, what: str) -> Container:
    other = registry.find(ref)
    if not other.state.alive:
        raise Conflict(f"cannot join {what} of a non running container: {other.id}")
    if other.state.restarting:
        raise Conflict(f"cannot join {what} of a restarting container: {other.id}")
    return other


def joined_namespaces(container: Container, registry: Registry, config: DaemonConfig) -> dict[str, str]:
    """OCI namespace type → `host` or a path. Raises NotFound, Conflict for a neighbour that doesn't run."""
    host = container.host
    joined: dict[str, str] = {}
    for kind, mode in (
        ("pid", host.get("PidMode")),
        ("ipc", host.get("IpcMode")),
        ("network", container.network_mode),
    ):
        if mode == "host":
            joined[kind] = "host"
        elif mode and mode.startswith("container:"):
            what = {"pid": "PID namespace", "ipc": "IPC namespace", "network": "network"}[kind]
            other = _neighbour(mode.partition(":")[2], registry, what)
            if kind == "ipc" and (other.host.get("IpcMode") or "private") not in ("shareable", "host"):
                raise InvalidArgument(
                    f"cannot join IPC of container {other.id}: non-shareable IPC (hint: use IpcMode:shareable "
                    "for the donor container)"
                )
            joined[kind] = f"/proc/{other.state.pid}/ns/{'net' if kind == 'network' else kind}"
    if host.get("UTSMode") == "host":
        joined["uts"] = "host"
    if (host.get("CgroupnsMode") or config.default_cgroupns_mode) == "host":
        joined["cgroup"] = "host"
    return joined


def shared_memory(container: Container, registry: Registry, config: DaemonConfig) -> str | None:
    """Where /dev/shm is bound from when it is not the container's own."""
    mode = container.host.get("IpcMode") or config.default_ipc_mode
    if mode == "host":
        return "/dev/shm"
    if mode == "shareable":
        return str(shm_dir(container, config))
    if mode.startswith("container:"):
        other = registry.find(mode.partition(":")[2])
        return shared_memory(other, registry, config)
    return None


def foreign_root(container: Container, config: DaemonConfig) -> Path:
    """Where the root is mounted on the host for a runtime that cannot mount it itself."""
    return config.exec_root / "rootfs" / container.id


def shm_dir(container: Container, config: DaemonConfig) -> Path:
    return config.exec_root / "shm" / container.id

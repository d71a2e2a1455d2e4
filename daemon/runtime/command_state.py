"""What `pyd-oci` knows of its containers, in --root (by default /run/pyd-oci): one directory each.

    ROOT/ID/config.json   the configuration the container was created from
    ROOT/ID/state.json    pid, the time it started (a pid alone may be used again), bundle, cgroup, creation time
    ROOT/ID/start         socket that init listens on until `start` connects; there only while "created"
    ROOT/.seccomp         compiled seccomp programs

A status is never stored but read off the kernel: created, running, paused or stopped.
"""

from __future__ import annotations

import os

from daemon.runtime.command_json import dumps, loads
from daemon.runtime.errors import SpecError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups import Cgroup
    from daemon.runtime.spec import Object

DEFAULT_ROOT = "/run/pyd-oci"
OCI_VERSION = "1.2.0"
_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")


def check_id(container: str) -> None:
    if (
        not container
        or container in (".", "..")
        or not _ALLOWED.issuperset(container)
        or len(container) > 1024
    ):
        raise StateError(f"invalid container id {container!r}: letters, digits and _ + . - only")


def load_config(path: str) -> tuple[bytes, Object]:
    """A configuration as it is in the file, and parsed; errors name the file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise StateError(f"JSON specification file {path} not found") from None
    try:
        config = loads(data)
    except ValueError as error:
        raise SpecError(path, f"is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise SpecError(path, "must be an object")
    return data, config


def read_config(path: str) -> Object:
    return load_config(path)[1]


def process_start(pid: int) -> int:
    """Field 22 of /proc/PID/stat, 0 when there is no such process or it is a zombie (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Container:
    """One container's directory and what its state file says."""

    __slots__ = ("bundle", "cgroup_path", "created", "directory", "id", "pid", "start_time")

    def __init__(self, root: str, container: str) -> None:
        check_id(container)
        self.id = container
        self.directory = f"{root}/{container}"
        self.pid = self.start_time = 0
        self.bundle = self.cgroup_path = self.created = ""

    @property
    def start_socket(self) -> str:
        return f"{self.directory}/start"

    def claim(self, root: str) -> None:
        """Make the directory; StateError when the id is taken."""
        os.makedirs(root, 0o711, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise StateError(f"container with given ID already exists: {self.id}") from None

    def save(self) -> None:
        """Written aside and renamed: a reader sees all of it or none."""
        state = {
            "id": self.id,
            "pid": self.pid,
            "startTime": self.start_time,
            "bundle": self.bundle,
            "cgroup": self.cgroup_path,
            "created": self.created,
        }
        aside = f"{self.directory}/state.json.new"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, dumps(state).encode())
        finally:
            os.close(fd)
        os.rename(aside, f"{self.directory}/state.json")

    def load(self) -> Container:
        try:
            with open(f"{self.directory}/state.json", "rb") as file:
                state = loads(file.read())
        except FileNotFoundError:
            raise StateError(f"container {self.id!r} does not exist") from None
        self.pid, self.start_time = state["pid"], state["startTime"]
        self.bundle, self.cgroup_path, self.created = state["bundle"], state["cgroup"], state["created"]
        return self

    def config(self) -> Object:
        return read_config(f"{self.directory}/config.json")

    def cgroup(self) -> Cgroup:
        from daemon import cgroups

        return cgroups.open_cgroup(cgroups.detect(), self.cgroup_path)

    def alive(self) -> bool:
        return self.pid > 0 and process_start(self.pid) == self.start_time

    def status(self) -> str:
        if not self.alive():
            return "stopped"
        if os.path.exists(self.start_socket):
            return "created"
        return "paused" if self.cgroup().frozen() else "running"

    def oci_state(self, status: str | None = None) -> dict[str, Any]:
        """The state as the specification (runtime.md) and runc show it."""
        status = status or self.status()
        config = self.config()
        state: dict[str, Any] = {
            "ociVersion": config.get("ociVersion") or OCI_VERSION,
            "id": self.id,
            "pid": self.pid if status != "stopped" else 0,
            "status": status,
            "bundle": self.bundle,
            "rootfs": os.path.normpath(
                os.path.join(self.bundle, (config.get("root") or {}).get("path") or "")
            ),
            "created": self.created,
            "owner": "",
        }
        if config.get("annotations"):
            state["annotations"] = config["annotations"]
        return state

    def pidfd(self) -> int:
        """A pidfd of the living init; StateError when it is gone (checked after opening, so never another's)."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise StateError("container not running") from None
        if not self.alive():
            os.close(fd)
            raise StateError("container not running")
        return fd

    def forget(self) -> None:
        for name in os.listdir(self.directory):
            os.unlink(f"{self.directory}/{name}")
        os.rmdir(self.directory)


def all_containers(root: str) -> list[Container]:
    containers = []
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            containers.append(Container(root, name).load())
        except (StateError, NotADirectoryError):
            continue  # half made, being removed, or not a container's
    return containers


def now() -> str:
    """RFC 3339 with microseconds, in UTC."""
    import time

    seconds = time.time()
    fraction = f"{seconds % 1:.6f}"[1:]
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"

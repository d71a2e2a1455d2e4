"""A container as the engine holds it: what was asked (config), what is (state), and its lock.

    created ──start──► running ◄─pause/unpause─► paused
       │                 │ exit
       │                 ├────► exited ──start──► running
       │                 └────► restarting ──back-off──► running
       └──remove──► removing ──► (gone) | dead (removal failed)

A `Container` is changed only while its lock is held and only by `daemon.containers` verbs; every
change that must outlive the daemon goes through `Registry.save` in one transaction.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Any

from daemon.clock import rfc3339
from daemon.containers.wire import Config, EndpointSettings, HostConfig


@dataclass
class State:
    """What Docker shows as `State`. Times are nanoseconds since the epoch, 0 for never."""

    status: str = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0
    dead: bool = False

    @property
    def running(self) -> bool:
        """True while there is a process or one is about to be restarted, as Docker's `Running`."""
        return self.status in ("running", "paused", "restarting")

    @property
    def alive(self) -> bool:
        return self.status in ("running", "paused")

    @property
    def paused(self) -> bool:
        return self.status == "paused"

    @property
    def restarting(self) -> bool:
        return self.status == "restarting"

    def started(self, pid: int, at: int) -> None:
        self.status, self.pid, self.started_at = "running", pid, at
        self.exit_code, self.error, self.oom_killed, self.finished_at = 0, "", False, self.finished_at

    def exited(self, code: int, at: int, *, oom_killed: bool, restarting: bool) -> None:
        self.status = "restarting" if restarting else "exited"
        self.pid, self.exit_code, self.finished_at = 0, code, at
        self.oom_killed = oom_killed

    def start_failed(self, code: int, error: str) -> None:
        if self.status == "restarting":
            self.status = "exited"
        self.pid, self.exit_code, self.error = 0, code, error

    def as_docker(self) -> dict[str, Any]:
        return {
            "Status": self.status,
            "Running": self.running,
            "Paused": self.paused,
            "Restarting": self.restarting,
            "OOMKilled": self.oom_killed,
            "Dead": self.dead,
            "Pid": self.pid,
            "ExitCode": self.exit_code,
            "Error": self.error,
            "StartedAt": rfc3339(self.started_at),
            "FinishedAt": rfc3339(self.finished_at),
        }


@dataclass
class MountPoint:
    """A bind, volume or tmpfs in the container; Docker's `Mounts` entry."""

    type: str
    source: str
    destination: str
    name: str = ""
    driver: str = ""
    mode: str = ""
    writable: bool = True
    propagation: str = ""
    anonymous: bool = False
    copy_up: bool = False
    recursive_read_only: bool = False
    non_recursive: bool = False
    subpath: str = ""
    options: list[str] = field(default_factory=list)
    driver_options: dict[str, str] | None = None
    """For making the volume, as its labels."""
    labels: dict[str, str] | None = None

    def as_docker(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"Type": self.type}
        if self.name:
            shown["Name"] = self.name
        shown |= {"Source": self.source, "Destination": self.destination}
        if self.driver:
            shown["Driver"] = self.driver
        return shown | {"Mode": self.mode, "RW": self.writable, "Propagation": self.propagation}


@dataclass
class Health:
    """Results of the health check; `log` holds Docker's last five entries."""

    status: str = "starting"
    failing_streak: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    def as_docker(self) -> dict[str, Any]:
        return {"Status": self.status, "FailingStreak": self.failing_streak, "Log": self.log}


@dataclass
class Container:
    id: str
    name: str
    created: int
    image_id: str
    image: str
    """The reference as the user gave it."""
    config: Config
    host: HostConfig
    endpoints: dict[str, EndpointSettings]
    """What the user asked of each network, by name."""
    layers: tuple[str, ...]
    """Chain ID of the image's topmost layer, or nothing for an empty image."""
    path: str
    args: list[str]
    platform: str = "linux"
    mounts: list[MountPoint] = field(default_factory=list)
    state: State = field(default_factory=State)
    restart_count: int = 0
    stopped_by_user: bool = False
    restarts_off: bool = False
    """Told to stop: no policy applies until a user starts it, or until another daemon looks after it."""
    health: Health | None = None
    network: dict[str, Any] = field(default_factory=dict)
    """NetworkSettings of the running sandbox as the network service filled it; empty when stopped."""
    runtime: str = "pyd"
    seccomp: str = ""
    execs: set[str] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)
    exit_waiters: list[asyncio.Future[dict[str, Any]]] = field(default_factory=list, repr=False)
    removal_waiters: list[asyncio.Future[dict[str, Any]]] = field(default_factory=list, repr=False)
    removing: bool = False
    had_start: bool = False

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def tty(self) -> bool:
        return bool(self.config.get("Tty"))

    @property
    def open_stdin(self) -> bool:
        return bool(self.config.get("OpenStdin"))

    @property
    def network_mode(self) -> str:
        return self.host.get("NetworkMode") or "bridge"

    @property
    def labels(self) -> dict[str, str]:
        return self.config.get("Labels") or {}

    def event_attributes(self, **more: str) -> dict[str, str]:
        return {**self.labels, "image": self.image, "name": self.name, **more}

    def to_record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "image_id": self.image_id,
            "image": self.image,
            "config": self.config,
            "host": self.host,
            "endpoints": self.endpoints,
            "layers": list(self.layers),
            "path": self.path,
            "args": self.args,
            "platform": self.platform,
            "mounts": [asdict(m) for m in self.mounts],
            "state": asdict(self.state),
            "restart_count": self.restart_count,
            "stopped_by_user": self.stopped_by_user,
            "health": asdict(self.health) if self.health else None,
            "network": self.network,
            "runtime": self.runtime,
            "had_start": self.had_start,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Container:
        fields = dict(record)
        health = fields.pop("health")
        return cls(
            **fields
            | {
                "layers": tuple(fields["layers"]),
                "mounts": [MountPoint(**m) for m in fields["mounts"]],
                "state": State(**fields["state"]),
                "health": Health(**health) if health else None,
            }
        )

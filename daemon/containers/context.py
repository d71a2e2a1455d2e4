"""What every container verb works with: the services and the registry, passed as one value."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from daemon.config import DaemonConfig
from daemon.containers.model import Container
from daemon.containers.registry import Registry
from daemon.containers.surroundings import Users
from daemon.events import EventLog
from daemon.images.service import ImageService
from daemon.network.service import NetworkService
from daemon.runtime.client import RuntimeClient
from daemon.volumes.service import Volumes
from storage.snapshots import Snapshotter


@dataclass
class Context:
    config: DaemonConfig
    registry: Registry
    runtime: RuntimeClient
    snapshots: Snapshotter
    images: ImageService
    networks: NetworkService
    volumes: Volumes
    events: EventLog
    users: Users
    cgroups_v2: bool
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    closing: bool = False
    resynced: bool = False
    """Set once the first reconciliation of this daemon has acted on restart policies."""
    purge_wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, container: Container, action: str, **attributes: str) -> None:
        self.events.publish("container", action, container.id, container.event_attributes(**attributes))

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run in the background; kept referenced until done, cancelled and awaited at close."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

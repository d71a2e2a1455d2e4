"""The engine: wires the services, owns the order in which they start and stop, and reconciles.

records, content, snapshots        what is on disk
  → images, volumes, networks      what is named
    → runtime                      what runs (supervisor and keeper, which outlive us)
      → containers, execs          what ties them together
        → reconcile                records against the kernel, the same after a crash, a kill, a reboot
"""

from __future__ import annotations

import asyncio
import logging

from daemon.build.service import Builds
from daemon.cgroups import detect
from daemon.config import DaemonConfig
from daemon.containers import exits, probe, stop
from daemon.containers.context import Context
from daemon.containers.execs import Execs
from daemon.containers.model import Container
from daemon.containers.reconcile import reconcile
from daemon.containers.registry import Registry
from daemon.containers.service import Containers
from daemon.containers.surroundings import Users
from daemon.events import EventLog
from daemon.images.model import ImageUse
from daemon.images.service import ImageService
from daemon.network.service import NetworkService
from daemon.runtime.client import ExitEvent, RuntimeClient, RuntimeState
from daemon.system import System, reload_attributes
from daemon.volumes.service import Volumes
from storage.content import ContentStore
from storage.records import Records
from storage.snapshots import OverlaySnapshotter

log = logging.getLogger("pyd.engine")


class Engine:
    """All that the API serves. Make one with `open`; `close` leaves containers running."""

    def __init__(self, config: DaemonConfig) -> None:
        for directory in (config.data_root, config.exec_root):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.config = config
        self.records = Records(config.database)
        self.content = ContentStore(config.data_root / "content")
        self.snapshots = OverlaySnapshotter(config.data_root / "snapshots")
        self.events = EventLog(self.records)
        self.images = ImageService(self.content, self.snapshots, self.records, self.events.publish, config)
        self.volumes = Volumes(config.data_root / "volumes", self.records, self.events.publish)
        self.networks = NetworkService(config, self.records, self.events.publish)
        self.runtime = RuntimeClient(config.exec_root, cgroup_root=config.cgroup_root)
        self.registry = Registry(self.records)
        self.ctx = Context(
            config,
            self.registry,
            self.runtime,
            self.snapshots,
            self.images,
            self.networks,
            self.volumes,
            self.events,
            Users(self.snapshots),
            cgroups_v2=detect().kind == "unified",
        )
        self.containers = Containers(self.ctx)
        self.execs = Execs(self.ctx)
        self.builds = Builds(self.ctx, self.records, self.images.store)
        self.system = System(self)

    @classmethod
    async def open(cls, config: DaemonConfig) -> Engine:
        """Start everything and bring records and kernel together. Raises PydError when it can't be done."""
        engine = await asyncio.to_thread(cls, config)
        await engine._start()
        return engine

    async def _start(self) -> None:
        self.registry.load()
        self.images.in_use = self._image_uses
        self.volumes.users = self._volume_users
        self.runtime.on_exit = self._on_exit
        self.runtime.on_oom = self._on_oom
        self.runtime.on_detach = self._on_detach
        await asyncio.gather(self.images.start(), self.volumes.start(), self.runtime.connect())
        states = await self.runtime.states()
        live = {cid for cid, state in states.items() if state.exit_status is None and cid in self.registry}
        await self.networks.start(live)
        await reconcile(self.ctx, states)
        await self.builds.start()
        self.runtime.on_resync = self._on_resync
        self.ctx.spawn(self._purge(), "purge")
        self.system.started()

    async def _purge(self) -> None:
        """Space of removed snapshots comes back in the background; woken by removals."""
        while True:
            await asyncio.to_thread(self.snapshots.purge)
            await self.ctx.purge_wanted.wait()
            self.ctx.purge_wanted.clear()
            await asyncio.sleep(0.5)

    async def reload(self, config: DaemonConfig) -> None:
        """What SIGHUP may change counts from here on (api.options.RELOADABLE says what that is)."""
        self.config = self.ctx.config = config
        self.images.reload(config)
        self.events.publish("daemon", "reload", self.system.id, reload_attributes(config))

    async def close(self) -> None:
        """Stop serving; containers, their logs and their networks go on without us (unless told otherwise)."""
        self.ctx.closing = True
        if not self.config.live_restore:
            await self._stop_all()
        for task in tuple(self.ctx.tasks):
            task.cancel()
        await asyncio.gather(*self.ctx.tasks, return_exceptions=True)
        await self.builds.stop()
        await self.runtime.close()
        await self.networks.stop()
        await self.images.stop()
        await self.events.close()
        await asyncio.to_thread(self.records.close)

    async def _stop_all(self) -> None:
        """`--live-restore=false`: each gets its own stop time-out, at most the daemon's, then SIGKILL.

        Restart policies bring them back with the next daemon: their users did not stop them.
        """
        running = [c for c in self.registry if c.state.running]
        results = await asyncio.gather(*(self._stop_at_shutdown(c) for c in running), return_exceptions=True)
        for container, result in zip(running, results, strict=True):
            if isinstance(result, Exception):
                log.error("stopping %s at shutdown: %s", container.short_id, result)

    async def _stop_at_shutdown(self, container: Container) -> None:
        timeout, limit = stop.stop_timeout(container), self.config.shutdown_timeout
        if limit >= 0:
            timeout = limit if timeout < 0 else min(timeout, limit)
        number = stop.stop_signal(container)
        await stop.halt(self.ctx, container, timeout=timeout, number=number, by_user=False)
        async with container.lock:  # held by the exit's handling until all is cleaned up
            self.ctx.publish(container, "stop")

    # -- what the runtime tells us

    def _on_exit(self, event: ExitEvent) -> None:
        if event.exec_id is not None:
            if not probe.on_exit(event.exec_id, event.status) and not self.builds.on_exit(event):
                self.execs.on_exit(event)
            return
        if self.builds.on_exit(event):
            return
        self.execs.forget_running(event.id)
        self.ctx.spawn(self._exited(event), f"exit {event.id[:12]}")

    async def _exited(self, event: ExitEvent) -> None:
        try:
            await exits.handle(self.ctx, event)
        except Exception:
            log.exception("handling the exit of %s", event.id[:12])

    def _on_oom(self, container_id: str) -> None:
        container = self.registry.by_id(container_id)
        if container:
            self.ctx.publish(container, "oom")

    def _on_detach(self, container_id: str, exec_id: str | None) -> None:
        container = self.registry.by_id(container_id)
        if container:
            action = {"execID": exec_id} if exec_id else {}
            self.ctx.publish(container, "exec_detach" if exec_id else "detach", **action)

    def _on_resync(self, states: dict[str, RuntimeState]) -> None:
        self.ctx.spawn(self._resync(states), "reconcile")

    async def _resync(self, states: dict[str, RuntimeState]) -> None:
        await reconcile(self.ctx, await self.builds.adopt(states))

    # -- who uses what

    def _image_uses(self, image_id: str) -> list[ImageUse]:
        return [
            ImageUse(c.id, c.state.running)
            for c in self.registry
            if c.image_id == image_id or any(p.type == "image" and p.source == image_id for p in c.mounts)
        ]

    def _volume_users(self, name: str) -> list[str]:
        return [c.id for c in self.registry if any(p.name == name for p in c.mounts if p.type == "volume")]

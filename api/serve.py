"""`pydd`: the daemon's process, from its flags to its last goodbye.

    parse flags and file → lock the roots → open sockets → open the engine → serve
    → (SIGHUP: reload) → SIGTERM: stop serving → close the engine → remove pidfile and sockets

Sockets are opened before the engine, so a client that comes while containers are being reconciled waits
instead of being refused; they are served after it. Containers outlive this process.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from api import options, systemd
from api.listeners import Listener, open_listeners
from api.server import VERSION, Server, tls_context
from daemon.config import DaemonConfig
from storage.errors import Conflict, PydError
from storage.heap import give_back, one_heap

if TYPE_CHECKING:
    from daemon.engine import Engine

log = logging.getLogger("pyd")

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
DRAIN = 5.0
"""Seconds that running requests get at the end, before the engine's own shutdown time-out."""


class Lock:
    """One daemon per root: flock(2) on a file in each, held as long as the process lives."""

    def __init__(self, *roots: Path) -> None:
        self._descriptors: list[int] = []
        for root in roots:
            root.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._take(root)

    def _take(self, root: Path) -> None:
        held = os.open(root / "pydd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._descriptors.append(held)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise Conflict(
                f"another pydd uses {root}: give this one other --data-root and --exec-root"
            ) from None

    def release(self) -> None:
        for held in self._descriptors:
            os.close(held)
        self._descriptors.clear()


class PidFile:
    """The pidfile dockerd writes: refused while the process in it lives, removed at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        holder = self._holder()
        if holder is not None:
            raise Conflict(
                f"failed to start daemon, ensure pydd is not running or delete {path}: "
                f"process with PID {holder} is still running"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{os.getpid()}")

    def _holder(self) -> int | None:
        try:
            pid = int(self.path.read_text().strip() or 0)
        except (FileNotFoundError, ValueError):
            return None
        return pid if pid and pid != os.getpid() and Path(f"/proc/{pid}").exists() else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def set_log_level(config: DaemonConfig) -> None:
    logging.getLogger().setLevel(logging.DEBUG if config.debug else LEVELS[config.log_level])


def settle() -> None:
    """What is loaded stays: later collections skip it, and what starting left over goes to the kernel."""
    gc.collect()
    gc.freeze()
    give_back()


def _configure_logging(config: DaemonConfig) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    set_log_level(config)


def _tls(config: DaemonConfig) -> ssl.SSLContext | None:
    if not (config.tls or config.tls_verify):
        return None
    assert config.tls_cert is not None and config.tls_key is not None  # options.check
    return tls_context(config.tls_cert, config.tls_key, config.tls_ca, verify=config.tls_verify)


class Daemon:
    """The running daemon: its engine, its server, and the signals that steer them."""

    def __init__(self, settings: options.Settings, engine: Engine, server: Server) -> None:
        self._settings = settings
        self._engine = engine
        self._server = server
        self._config = settings.config
        self._stopping = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        await self._server.start()
        settle()
        systemd.notify(f"READY=1\nSTATUS=API listen on {self._server.listeners[0].address}")
        log.info("Daemon has completed initialization")
        await self._wait()
        systemd.notify("STOPPING=1")
        log.info("Processing signal, shutting down")

    async def _wait(self) -> None:
        """Until told to stop; pats systemd's watchdog meanwhile, if there is one."""
        interval = systemd.watchdog_interval()
        while not self._stopping.is_set():
            try:
                await asyncio.wait_for(self._stopping.wait(), interval)
            except TimeoutError:
                systemd.notify("WATCHDOG=1")

    def _on_hangup(self) -> None:
        task = asyncio.ensure_future(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """A file that cannot be read changes nothing: the daemon goes on as it was."""
        systemd.reloading()
        try:
            self._config = options.reloaded(self._settings, self._config)
            set_log_level(self._config)
            await self._engine.reload(self._config)
            log.info("Reloaded configuration from %s", self._settings.config_file)
        except (PydError, OSError) as error:
            log.error("configuration not reloaded: %s", error)
        finally:
            systemd.notify("READY=1")

    @property
    def shutdown_timeout(self) -> float | None:
        """-1 waits for ever, as dockerd's."""
        seconds = self._config.shutdown_timeout
        return None if seconds < 0 else seconds + DRAIN


async def serve(settings: options.Settings, listeners: Sequence[Listener]) -> None:
    """Imports are here: FastAPI's own models, which nothing uses, are left unbuilt (1.2 MB less)."""
    BaseModel.model_config["defer_build"] = True
    from api.app import create_app
    from api.frontends import FrontEnds
    from daemon.engine import Engine

    config = settings.config
    engine = await Engine.open(config)
    engine.builds.image_door = FrontEnds(engine)
    server = Server(create_app(engine), listeners, _tls(config))
    daemon = Daemon(settings, engine, server)
    try:
        await daemon.run()
    finally:
        await server.stop(DRAIN)
        try:
            await asyncio.wait_for(engine.close(), daemon.shutdown_timeout)
        except TimeoutError:
            log.error("the engine did not close within %s seconds", daemon.shutdown_timeout)


def start(settings: options.Settings) -> None:
    """Everything around the event loop; raises PydError or OSError for what stops the start."""
    config = settings.config
    lock = Lock(config.data_root, config.exec_root)
    pidfile = None
    listeners: list[Listener] = []
    try:
        pidfile = PidFile(config.pidfile) if config.pidfile else None
        listeners = open_listeners(config.hosts, tls=config.tls or config.tls_verify, group=settings.group)
        asyncio.run(serve(settings, listeners))
    finally:
        for listener in listeners:
            listener.close()
        if pidfile is not None:
            pidfile.remove()
        lock.release()


def main(arguments: Sequence[str] | None = None) -> int:
    one_heap()
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments or "-v" in arguments:
        print(f"pyd version {VERSION}")
        return 0
    try:
        settings = options.parse(arguments)
        if settings.validate_only:
            print("configuration OK")
            return 0
        _configure_logging(settings.config)
        start(settings)
    except (PydError, OSError) as error:
        print(f"pydd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A daemon with images alone behind the real API, so that image tests need nothing else of the engine.

    python -m tests.system.images_rig ROOT [--silence SECONDS] [--pause SECONDS] [--mirror URL]

serves ROOT/d.sock until it is terminated. In use: images whose IDs stand in ROOT/in-use.json
({"sha256:..": [["container id", running]]}), so that conflicts can be tested without containers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from daemon.images.model import ImageUse
from daemon.images.service import ImageService
from daemon.images.sessions import Patience
from storage.content import ContentStore
from storage.records import Records
from storage.snapshots import OverlaySnapshotter

REPOSITORY = Path(__file__).parents[2]


class System:
    def ping_headers(self) -> dict[str, str]:
        return {}

    def version(self) -> dict[str, Any]:
        return {"Version": "test", "ApiVersion": "1.51", "MinAPIVersion": "1.24", "Os": "linux"}

    async def info(self) -> dict[str, Any]:
        return {"ID": "rig", "IndexServerAddress": "https://index.docker.io/v1/", "OSType": "linux"}


class Engine:
    def __init__(self, root: Path, patience: Patience, mirrors: Sequence[str]):
        self.system = System()
        self._root = root
        config = DaemonConfig(data_root=root, exec_root=root / "run", registry_mirrors=tuple(mirrors))
        self.images = make_service(root, config, patience, self._record)
        self.images.in_use = self._in_use

    def _record(self, kind: str, action: str, id: str, attributes: dict[str, str]) -> None:
        with (self._root / "events").open("a") as file:
            file.write(json.dumps([kind, action, id, attributes]) + "\n")

    def _in_use(self, image_id: str) -> list[ImageUse]:
        try:
            uses = json.loads((self._root / "in-use.json").read_text())
        except FileNotFoundError:
            return []
        return [ImageUse(container, running) for container, running in uses.get(image_id, ())]


def make_service(root: Path, config: DaemonConfig, patience: Patience, events: Any) -> ImageService:
    root.mkdir(parents=True, exist_ok=True)
    content = ContentStore(root / "content")
    snapshots = OverlaySnapshotter(root / "snapshots")
    return ImageService(content, snapshots, Records(root / "pyd.db"), events, config, patience=patience)


async def serve(root: Path, patience: Patience, mirrors: Sequence[str]) -> None:
    from api.app import create_app
    from api.listeners import open_unix
    from api.server import Server

    engine = Engine(root, patience, mirrors)
    await engine.images.start()
    server = Server(create_app(engine), [open_unix(root / "d.sock", None)])
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await server.stop(1)
    await engine.images.stop()


class Rig:
    """The process, and the stock docker client against it."""

    def __init__(self, root: Path, *options: str):
        self.root, self._options = root, options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-m", "tests.system.images_rig", str(self.root), *self._options]
        (self.root / "d.sock").unlink(missing_ok=True)
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, stderr=log, stdout=log, env={**os.environ, **environment}
            )
        deadline = time.monotonic() + 15
        while not (self.root / "d.sock").exists():
            assert self.process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline, "the rig does not come up"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """docker COMMAND; not checked."""
        arguments = ["docker", "--config", str(self.root / "client"), "-H", f"unix://{self.root}/d.sock"]
        return subprocess.run(
            [*arguments, *command], capture_output=True, text=True, timeout=60, check=False, **options
        )

    def docker(self, *command: str, **options: Any) -> str:
        result = self.run(*command, **options)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        return result.stdout

    def fails(self, *command: str, **options: Any) -> str:
        result = self.run(*command, **options)
        assert result.returncode != 0, (command, result.stdout)
        return result.stderr.strip()

    def events(self) -> list[list[Any]]:
        return [json.loads(line) for line in (self.root / "events").read_text().splitlines()]

    def leftovers(self) -> list[str]:
        """What only an operation under way may have on disk."""
        found = [str(path) for path in (self.root / "content" / "ingest").iterdir()]
        found += [str(path) for path in (self.root / "tmp").glob("*")]
        return found


@contextlib.contextmanager
def rig(root: Path, *options: str) -> Iterator[Rig]:
    root.mkdir(parents=True, exist_ok=True)
    made = Rig(root, *options)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--silence", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=5.0)
    parser.add_argument("--mirror", action="append", default=[])
    given = parser.parse_args()
    patience = Patience(answer=given.silence, silence=given.silence, pause=given.pause)
    asyncio.run(serve(given.root, patience, given.mirror))


if __name__ == "__main__":
    main()

"""The two sides: a pydd of our own, and the dockerd that is given. Both are driven by docker's client."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.measure import Action, family
from tests.system.host import ENVIRONMENT, REPOSITORY, Host

IMAGE = "pyd-benchmark:latest"
LABEL = "pyd.benchmark"
"""Marks our containers on the peer, which may have others."""


class Engine:
    """One side. Containers that it makes carry LABEL and are removed by `clean`."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=url.removeprefix("unix://")),
            base_url="http://docker",
            timeout=120,
        )

    def command(self, *arguments: str) -> list[str]:
        return ["docker", "-H", self.url, *arguments]

    def docker(self, *arguments: str, timeout: float = 300) -> str:
        result = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=timeout,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"{self.name}: docker {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def timed(self, *arguments: str) -> Action:
        return lambda: self.docker(*arguments)

    def create(self, *command: str, **host: object) -> str:
        """A container by the API itself, whose cost is the engine's alone; its ID."""
        body = {"Image": IMAGE, "Cmd": command, "Labels": {LABEL: ""}, "HostConfig": host}
        answer = self.http.post("/containers/create", json=body)
        answer.raise_for_status()
        return str(answer.json()["Id"])

    def start(self, container: str) -> None:
        self.http.post(f"/containers/{container}/start").raise_for_status()

    def run_many(self, count: int, at_once: int) -> None:
        """`count` sleeping containers on the default bridge, created and started `at_once` at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda _: self.start(self.create("sleep", "100000")), range(count)))

    def clean(self) -> None:
        ids = self.docker("ps", "-aq", "--filter", f"label={LABEL}").split()
        with ThreadPoolExecutor(10) as pool:
            removals = pool.map(lambda name: self.http.delete(f"/containers/{name}?force=1&v=1"), ids)
            for removal in removals:
                removal.raise_for_status()

    def processes(self) -> list[int]:
        """The engine's own processes; containers' are not among them."""
        raise NotImplementedError


class Pyd(Engine):
    def __init__(self, host: Host) -> None:
        super().__init__("pyd", host.url)
        self.host = host

    def processes(self) -> list[int]:
        assert self.host.process
        supervisor = self.host.supervisor_pids()
        ours = family([self.host.process.pid])
        keepers = [pid for pid in family(supervisor) if b"keeper.py" in _command(pid)]
        return sorted({*ours, *supervisor, *keepers})


class Peer(Engine):
    def __init__(self, url: str) -> None:
        super().__init__("dockerd", url)

    def processes(self) -> list[int]:
        """dockerd (who listens), containerd and the shims below it or beside it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(self.url.removeprefix("unix://"))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = int(struct.unpack("3i", credentials)[0])
        below = [child for child in family([pid]) if _is_engine(child)]
        root = Path(f"/proc/{pid}/root").resolve()
        shims = [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if b"containerd-shim" in _command(int(entry.name)) and (entry / "root").resolve() == root
        ]
        return sorted({*below, *shims})


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _is_engine(pid: int) -> bool:
    return any(word in _command(pid) for word in (b"dockerd", b"containerd", b"docker-proxy"))


@contextmanager
def pyd(directory: Path, tar: Path) -> Iterator[Pyd]:
    """A pydd with private roots, and the image. Undone at the end."""
    host = Host(directory)
    host.start()
    try:
        engine = Pyd(host)
        engine.docker("import", str(tar), IMAGE)
        yield engine
    finally:
        host.undo()


@contextmanager
def peer(url: str | None, tar: Path) -> Iterator[Peer | None]:
    """The dockerd at `url`, with the image; what we make there is removed at the end."""
    if not url:
        yield None
        return
    engine = Peer(url)
    engine.docker("import", str(tar), IMAGE)
    try:
        yield engine
    finally:
        engine.clean()
        engine.docker("rmi", "-f", IMAGE)


def pyd_command(engine: Pyd, *arguments: str) -> Action:
    command = [str(Path(sys.executable).parent / "pyd"), "-H", engine.url, *arguments]
    return lambda: subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT, cwd=REPOSITORY)

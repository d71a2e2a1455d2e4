# ruff: noqa: ASYNC240 - tests may look into small directories
"""A supervisor of its own with real containers, for the tests of supervisor and keeper."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import time
import uuid
from pathlib import Path
from typing import Any

from daemon.runtime.client import ExitEvent, LogSpec, RuntimeClient, RuntimePath, Started

BUSYBOX = Path("/usr/bin/busybox")
APPLETS = ("sh cat echo true sleep dd stty seq md5sum env id ls head kill tty printf grep").split()  # noqa: SIM905


def make_rootfs(root: Path) -> Path:
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    return root


def spec(
    root: Path, args: list[str], cgroup: str, *, tty: bool = False, host_pid: bool = False
) -> dict[str, Any]:
    kinds = ["mount", "ipc", "uts", "network"] + ([] if host_pid else ["pid"])
    return {
        "ociVersion": "1.0.2",
        "process": process(args, tty=tty),
        "root": {"path": str(root)},
        "hostname": "rig",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "cgroupsPath": cgroup,
            "resources": {},
        },
    }


def process(args: list[str], *, tty: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "terminal": tty,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        **more,
    }


class Rig:
    """One client with its exec root; `run` starts a container, `exit_of` waits for its end."""

    def __init__(self, base: Path, rootfs: Path) -> None:
        self.base = base
        self.rootfs = rootfs
        self.exec_root = base / "run"
        self.cgroup = f"pydrig{uuid.uuid4().hex[:8]}"
        self.exits: dict[tuple[str, str | None], asyncio.Future[ExitEvent]] = {}
        self.all_exits: list[ExitEvent] = []
        self.detached: list[tuple[str, str | None]] = []
        self.ooms: list[str] = []
        self.client = self.new_client()

    def new_client(self) -> RuntimeClient:
        client = RuntimeClient(self.exec_root, cgroup_root=self.cgroup)
        client.on_exit = self._on_exit
        client.on_detach = lambda container, exec_id: self.detached.append((container, exec_id))
        client.on_oom = self.ooms.append
        return client

    def _future(self, key: tuple[str, str | None]) -> asyncio.Future[ExitEvent]:
        return self.exits.setdefault(key, asyncio.get_running_loop().create_future())

    def _on_exit(self, event: ExitEvent) -> None:
        self.all_exits.append(event)
        future = self._future((event.id, event.exec_id))
        if not future.done():
            future.set_result(event)

    async def exit_of(self, container: str, exec_id: str | None = None, *, within: float = 20) -> ExitEvent:
        return await asyncio.wait_for(asyncio.shield(self._future((container, exec_id))), within)

    def log(self, container: str) -> Path:
        return self.base / f"{container}-json.log"

    def logged(self, container: str, stream: str = "stdout") -> str:
        lines = [json.loads(line) for line in self.log(container).read_text().splitlines()]
        return "".join(line["log"] for line in lines if line["stream"] == stream)

    def bundle(self, container: str, config: dict[str, Any]) -> Path:
        bundle = self.exec_root / "containers" / container
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    async def run(
        self,
        container: str,
        *args: str,
        tty: bool = False,
        stdin: bool = False,
        once: bool = True,
        log: LogSpec | str | None = "json",
        runtime: str | None = None,
        host_pid: bool = False,
        size: tuple[int, int] | None = None,
        change: dict[str, Any] | None = None,
        namespaces: tuple[str, ...] = (),
        overlay: dict[str, Any] | None = None,
    ) -> Started:
        config = spec(self.rootfs, list(args), f"/{self.cgroup}/{container}", tty=tty, host_pid=host_pid)
        config["linux"]["resources"] = change or {}
        config["linux"]["namespaces"] += [{"type": kind} for kind in namespaces]
        if overlay:
            config["root"] = {"path": "rootfs", "overlay": overlay}
        self.exits.pop((container, None), None)
        return await self.client.start(
            container,
            self.bundle(container, config),
            log=LogSpec("json-file", str(self.log(container))) if isinstance(log, str) else log,
            open_stdin=stdin,
            stdin_once=once,
            tty=tty,
            console_size=size,
            runtime=None if runtime is None else RuntimePath(runtime),
        )

    async def exec(
        self, container: str, exec_id: str, *args: str, tty: bool = False, stdin: bool = False
    ) -> Started:
        return await self.client.exec(
            container, exec_id, process(list(args), tty=tty), open_stdin=stdin, tty=tty
        )

    async def attach(
        self,
        container: str,
        exec_id: str | None = None,
        *,
        tty: bool = False,
        stdin: bool = True,
        **more: Any,
    ) -> Attached:
        ours, theirs = socket.socketpair()
        await self.client.attach(
            container,
            theirs,
            exec_id=exec_id,
            stdin=stdin,
            stdout=True,
            stderr=True,
            tty=tty,
            framed=not tty,
            **more,
        )
        theirs.close()
        ours.setblocking(False)
        return Attached(ours)

    def pid_of(self, name: str) -> int:
        """The pid of "supervisor" or "keeper", found by our exec root or the listening socket."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if not any(word.endswith(f"runtime/{name}.py".encode()) for word in words):
                continue
            if name == "supervisor" and str(self.exec_root).encode() in words:
                return int(entry.name)
            if name == "keeper" and self._listens(int(entry.name)):
                return int(entry.name)
        raise LookupError(name)

    def _listens(self, pid: int) -> bool:
        sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        inodes = {words[6] for words in sockets if words[-1] == str(self.exec_root / "keeper.sock")}
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            return False
        return any(f"socket:[{inode}]" in links for inode in inodes)

    def kill(self, name: str) -> int:
        pid = self.pid_of(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def close(self) -> None:
        for container, state in (await self.client.states()).items():
            if state.status != "stopped":
                if state.status == "paused":
                    await self.client.resume(container)
                await self.client.kill(container, 9)
                await self.exit_of(container)
            await self.client.delete(container)
        await self.client.shutdown()
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            if (hierarchy / self.cgroup).is_dir():
                (hierarchy / self.cgroup).rmdir()


class Attached:
    """The far end of an attached client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.raw = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)

    async def until(self, mark: bytes, *, within: float = 10) -> bytes:
        """Reads until the raw bytes so far contain `mark`."""
        deadline = time.monotonic() + within
        while mark not in self.raw:
            data = await asyncio.wait_for(self.read(), max(0.01, deadline - time.monotonic()))
            if not data:
                raise EOFError(self.raw)
            self.raw += data
        return self.raw

    async def more(self, count: int, *, within: float = 10) -> None:
        """Reads until `count` more bytes have come."""
        async with asyncio.timeout(within):
            target = len(self.raw) + count
            while len(self.raw) < target:
                data = await self.read()
                if not data:
                    raise EOFError(self.raw)
                self.raw += data

    async def end(self, *, within: float = 20) -> bytes:
        """Reads to the end and returns everything."""

        async def everything() -> bytes:
            parts = [self.raw]
            while data := await self.read():
                parts.append(data)
            return b"".join(parts)

        self.raw = await asyncio.wait_for(everything(), within)
        return self.raw

    async def frames(self) -> dict[int, bytes]:
        """All output to the end, by stream."""
        return unframe(await self.end())

    def close(self) -> None:
        self.sock.close()


def unframe(raw: bytes) -> dict[int, bytes]:
    streams: dict[int, list[bytes]] = {1: [], 2: []}
    position = 0
    while position < len(raw):
        stream, size = struct.unpack_from(">BxxxI", raw, position)
        position += 8
        streams[stream].append(raw[position : position + size])
        assert len(streams[stream][-1]) == size, "the last frame is cut"
        position += size
    return {stream: b"".join(parts) for stream, parts in streams.items()}

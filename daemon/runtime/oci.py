# ruff: noqa: ASYNC230 - small files on a tmpfs
"""Foreign OCI runtimes (runc, crun, ...) driven through their command line, without ever waiting for them.

The commands are those every OCI runtime shares with runc: `create start exec kill pause resume update
delete`. `create` returns when the container is set up; its init then is an orphan and falls to the
supervisor, the subreaper, which so becomes its parent. Errors are read from `--log` (JSON lines).
"""

from __future__ import annotations

import json
import os
import socket

from daemon.runtime import protocol
from daemon.runtime.exits import decode
from daemon.runtime.loop import IN
from daemon.runtime.records import remove_tree
from daemon.runtime.tasks import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.runtime.children import Children
    from daemon.runtime.launch import Stdio
    from daemon.runtime.loop import Loop


class ForeignFailure(Exception):
    """The runtime refused; the text is its own. `exit_code` as Docker derives it from the text."""

    @property
    def exit_code(self) -> int:
        text = str(self).lower()
        if "executable file not found" in text or "no such file or directory" in text:
            return 127
        return 126 if "permission denied" in text or "is a directory" in text else 128


class Console:
    """The socket a runtime sends a tty's master to (`--console-socket`)."""

    def __init__(self, loop: Loop, folder: str) -> None:
        self._loop = loop
        self.path = os.path.join(folder, "tty.sock")
        self._own_folder = ""
        if len(os.fsencode(self.path)) > 107:  # the runtime must be able to name it (unix(7))
            self._own_folder = f"/tmp/pyd-{os.urandom(8).hex()}"
            os.mkdir(self._own_folder, 0o700)
            self.path = os.path.join(self._own_folder, "tty.sock")
        self.master = Future()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(self.path)
        self._sock.listen(1)
        self._sock.setblocking(False)
        loop.add(self._sock.fileno(), IN, self._accept)

    def _accept(self, events: int) -> None:
        try:
            peer, _ = self._sock.accept()
        except BlockingIOError:
            return
        peer.setblocking(False)
        self._loop.add(peer.fileno(), IN, lambda events: self._receive(peer))

    def _receive(self, peer: socket.socket) -> None:
        self._loop.remove(peer.fileno())
        try:
            _, fds, _ = protocol.receive_packet(peer, 4096, 1)
        except OSError:
            fds = []
        peer.close()
        if fds and not self.master.done:
            self.master.set(fds[0])
        else:
            protocol.close_all(fds)

    def close(self) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()
        if self._own_folder:
            remove_tree(self._own_folder)


class ForeignRuntime:
    """One command; `root` is where it keeps its state of our containers."""

    def __init__(self, loop: Loop, children: Children, argv: list[str], exec_root: str) -> None:
        self._loop = loop
        self._children = children
        self._argv = argv
        self._root = os.path.join(exec_root, "runtimes", os.path.basename(argv[0]))
        self._scratch = os.path.join(exec_root, "runtimes", "scratch")
        os.makedirs(self._scratch, mode=0o700, exist_ok=True)

    async def _run(self, folder: str, arguments: list[str], stdio: Stdio | None = None) -> None:
        log = os.path.join(folder, "log.json")
        argv = [*self._argv, "--root", self._root, "--log", log, "--log-format", "json", *arguments]
        ends = None if stdio is None else (stdio.stdin, stdio.stdout, stdio.stderr)
        pid = self._children.spawn(argv, ends)
        status = decode(await self._children.exited(pid))
        if status:
            raise ForeignFailure(_reason(log) or f"{arguments[0]} ended with status {status}")

    async def _detached(
        self, arguments: list[str], container_id: str, tail: list[str], stdio: Stdio | None
    ) -> tuple[int, int]:
        """Runs a command that leaves a process behind: (its pid, the tty's master or -1)."""
        folder = self._folder()
        console = Console(self._loop, folder) if stdio is None else None
        pid_file = os.path.join(folder, "pid")
        options = ["--pid-file", pid_file] + (["--console-socket", console.path] if console else [])
        try:
            await self._run(folder, [*arguments, *options, container_id, *tail], stdio)
            with open(pid_file) as file:
                pid = int(file.read())
            return pid, await console.master if console else -1
        finally:
            if console:
                console.close()
            remove_tree(folder)

    def _folder(self) -> str:
        folder = os.path.join(self._scratch, os.urandom(8).hex())
        os.mkdir(folder, 0o700)
        return folder

    async def create(self, container_id: str, bundle: str, stdio: Stdio | None) -> tuple[int, int]:
        return await self._detached(["create", "--bundle", bundle], container_id, [], stdio)

    async def exec(self, container_id: str, process: dict[str, Any], stdio: Stdio | None) -> tuple[int, int]:
        folder = self._folder()
        try:
            path = os.path.join(folder, "process.json")
            with open(path, "w") as file:
                json.dump(process, file)
            return await self._detached(["exec", "--detach", "--process", path], container_id, [], stdio)
        finally:
            remove_tree(folder)

    async def call(self, *arguments: str) -> None:
        """Any other command, e.g. ("start", id) or ("delete", "--force", id)."""
        folder = self._folder()
        try:
            await self._run(folder, list(arguments))
        finally:
            remove_tree(folder)

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        folder = self._folder()
        try:
            path = os.path.join(folder, "resources.json")
            with open(path, "w") as file:
                json.dump(resources, file)
            await self._run(folder, ["update", "--resources", path, container_id])
        finally:
            remove_tree(folder)


def _reason(log: str) -> str:
    """The last error of a runtime's JSON log."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [json.loads(line) for line in file if line.startswith("{")]
    except (OSError, ValueError):
        return ""
    errors = [str(line.get("msg", "")) for line in lines if line.get("level") in ("error", "fatal")]
    return errors[-1] if errors else ""

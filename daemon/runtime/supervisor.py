"""pyd-supervisor: parent of every container, one warm single-threaded process that outlives the daemon.

Model
    It listens at `exec_root/supervisor.sock` (protocol.py) and serves RuntimeClient (client.py). Beside it
    runs the keeper, which holds all stdio. What is where:

        lifecycle.py   what is done with containers       starting.py   from request to execve
        recovery.py    after a kill -9 of its predecessor records.py    the files it remembers by
        children.py    reaping, blocking work in a fork   oci.py        foreign runtimes
        keeperlink.py  the keeper                         exits.py      how a process ended

    It never waits: requests are coroutines on an epoll loop (tasks.py, loop.py). Only the standard library
    is imported, all of it before the garbage collector is frozen, so that its clones share its memory.

Run as `python -I -S supervisor.py --exec-root DIR --cgroup-root NAME [--detach]`: by the daemon with
`--detach` (forks once more and leaves the session), or by systemd (Type=notify: says READY=1). A lock on
`exec_root/supervisor.lock` makes a second one exit at once.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from daemon.cgroups import detect, open_cgroup
from daemon.runtime import hardening, protocol, spawning  # noqa: F401 - spawning: loaded before the first start
from daemon.runtime.children import Children
from daemon.runtime.control import Control
from daemon.runtime.keeper import option, raise_descriptor_limit
from daemon.runtime.keeperlink import KeeperLink, KeeperLost
from daemon.runtime.lifecycle import Lifecycle
from daemon.runtime.loop import Loop, report
from daemon.runtime.recovery import Recovery
from daemon.runtime.server import RequestError, Server
from daemon.runtime.syscalls import PR_SET_CHILD_SUBREAPER, prctl
from daemon.runtime.tasks import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.protocol import Connection, Message


class Supervisor:
    def __init__(self, exec_root: str, cgroup_root: str) -> None:
        self.loop = Loop()
        children = Children(self.loop)
        layout = detect()
        open_cgroup(layout, cgroup_root)  # imports what this layout needs before memory is frozen
        self._path = os.path.join(exec_root, "supervisor.sock")
        self._server: Server | None = None
        self._keeper = KeeperLink(self.loop, children, os.path.join(exec_root, "keeper.sock"))
        self._life = Lifecycle(
            self.loop,
            exec_root=exec_root,
            cgroup_root=cgroup_root,
            layout=layout,
            children=children,
            keeper=self._keeper,
            publish=self._publish,
        )
        self._control = Control(self._life)
        self._recovery = Recovery(self._life)
        children.on_terminate = lambda: start(self._terminate())
        self._keeper.on_held = self._recovery.held
        self._keeper.on_stdin_closed = self._stdin_closed
        self._keeper.on_restart = self._recovery.keeper_restarted

    def run(self) -> None:
        start(self._begin())
        self.loop.run()

    async def _begin(self) -> None:
        """Nobody is served before the past is settled."""
        try:
            await self._keeper.connect()
            await self._recovery.run()
            self._server = Server(self.loop, protocol.listen(self._path), self._serve)
        except BaseException:
            self.loop.stop()
            raise
        notify("READY=1")

    def _publish(self, message: Message) -> None:
        if self._server is not None:
            self._server.publish("daemon", message)

    def _stdin_closed(self, container_id: str, exec_id: str | None) -> None:
        container = self._life.containers.get(container_id)
        member = container.member(exec_id) if container else None
        if member is not None:
            member.drop("stdin")

    # -- requests ------------------------------------------------------------------------------------------

    def _serve(self, connection: Connection, message: Message, fds: list[int]) -> None:
        start(self._answer(connection, message, fds))

    async def _answer(self, connection: Connection, message: Message, fds: list[int]) -> None:
        try:
            reply = await self._operate(message, fds)
        except RequestError as error:
            reply = error.reply()
        except Exception as error:  # whatever it is, the client waits for an answer
            report()
            reply = RequestError("internal", f"{type(error).__name__}: {error}").reply()
        finally:
            protocol.close_all(fds)
        if "seq" in message and self._server is not None:
            self._server.send(connection, {"seq": message["seq"], **reply})

    async def _operate(self, message: Message, fds: list[int]) -> Message:
        life = self._life
        op = message.get("op")
        if op == "start":
            return await life.start(message, fds[0] if fds else None)
        if op in ("exec", "delete"):
            return await getattr(life, op)(message)  # type: ignore[no-any-return]
        if op in ("kill", "pause", "resume", "update", "resize"):
            return await getattr(self._control, op)(message)  # type: ignore[no-any-return]
        if op == "states":
            known = life.containers.items()
            return {"states": {name: c.public() for name, c in known if c.phase != "starting"}}
        if op == "ack":
            life.acknowledge(message["id"], message["exec_id"])
            return {}
        if op == "cgroup":
            return {"path": life.find(message["id"]).cgroup_path}
        if op == "hello":
            return {"pid": os.getpid(), "keeper": self._keeper.pid}
        if op == "expect":
            life.spares.expect()
            return {}
        if op == "prepare":
            life.prepare(message)
            return {}
        if op == "shutdown":
            return await self._shut_down()
        raise RequestError("refused", f"unknown operation {op!r}")

    async def _terminate(self) -> None:
        """SIGTERM: containers go on with the keeper; where there are none, it is not needed either."""
        try:
            await self._shut_down()
        except (RequestError, KeeperLost):
            self.loop.stop()

    async def _shut_down(self) -> Message:
        running = [name for name, c in self._life.containers.items() if c.phase != "stopped"]
        if running:
            raise RequestError("refused", f"{len(running)} containers are running")
        await self._keeper.stop()
        self._life.spares.end()
        self.loop.defer(self.loop.stop)
        return {}


def notify(state: str) -> None:
    """sd_notify(3): one datagram to $NOTIFY_SOCKET, where there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            print(f"pyd-supervisor: cannot notify {path}: {error.strerror}", file=sys.stderr, flush=True)


def lock(exec_root: str) -> int | None:
    """The lock every supervisor of this root holds; None when another has it.

    A POSIX record lock: unlike flock's it is not inherited, so clones of a killed supervisor don't keep it."""
    fd = os.open(os.path.join(exec_root, "supervisor.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(fd)
        return None
    return fd


def main(arguments: list[str]) -> None:
    if "--detach" in arguments and os.fork():
        os._exit(0)
    hardening.harden([sys.executable, *(word for word in sys.orig_argv[1:] if word != "--detach")])
    exec_root = option(arguments, "--exec-root") or "/run/pyd"
    cgroup_root = option(arguments, "--cgroup-root") or "pyd"
    os.makedirs(exec_root, mode=0o711, exist_ok=True)
    held = lock(exec_root)
    if held is None:
        print("pyd-supervisor: another one runs here", file=sys.stderr, flush=True)
        return
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = Supervisor(exec_root, cgroup_root)
    raise_descriptor_limit()
    gc.collect()
    gc.freeze()
    supervisor.run()


if __name__ == "__main__":
    main(sys.argv[1:])

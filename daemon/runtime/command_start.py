"""`pyd-oci create`, `start` and `run`.

While the child builds its root on one processor, this process writes the state file on another.
"""

from __future__ import annotations

import _socket
import os

from daemon.runtime import command_console as console
from daemon.runtime import hardening, launch, seccomp, spawning
from daemon.runtime.command_arguments import UsageError
from daemon.runtime.command_state import Container, load_config, now, process_start
from daemon.runtime.errors import LaunchError, RuntimeFailure, SpecError, StateError
from daemon.runtime.spec import get_object, get_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.cgroups import Cgroup
    from daemon.runtime.command import Context
    from daemon.runtime.command_arguments import Arguments
    from daemon.runtime.launch import Child, Plan
    from daemon.runtime.spec import Object

_START_TIMEOUT = 60.0


class Making:
    """One container being made, with what has to be undone when that fails."""

    def __init__(self, context: Context, arguments: Arguments) -> None:
        self.container = Container(context.root, arguments.container())
        self.bundle = os.path.abspath(arguments.text("bundle", "."))
        self.arguments = arguments
        self.data, self.spec = load_config(f"{self.bundle}/config.json")
        seccomp.use_cache_directory(f"{context.root}/.seccomp")
        self.plan: Plan = launch.prepare(
            self.spec,
            self.bundle,
            pivot=not arguments.flag("no-pivot"),
            keyring=self.container.id,
            new_keyring=not arguments.flag("no-new-keyring"),
        )
        linux = get_object(self.spec, "linux", "linux")
        self.container.bundle = self.bundle
        self.container.cgroup_path = cgroup_path(linux, self.container.id)
        self.resources = get_object(linux, "resources", "linux.resources")
        self.cgroup: Cgroup | None = None
        self.child: Child | None = None
        self.master = -1
        self.container.claim(context.root)

    def spawn(self, *, listener: _socket.socket | None) -> Child:
        cgroup = self.container.cgroup()
        cgroup.create(self.resources)
        self.cgroup = cgroup
        stdio = None if self.plan.process.terminal else launch.Stdio(0, 1, 2)
        self.child = launch.spawn(
            self.plan,
            stdio,
            cgroup=cgroup,
            listener=listener,
            preserve_fds=preserved(self.arguments),
        )
        self.container.pid = self.child.pid
        self.container.start_time = process_start(self.child.pid)
        self.container.created = now()
        with open(f"{self.container.directory}/config.json", "wb") as file:
            file.write(self.data)
        self.container.save()
        return self.child

    def wait_for(self, wanted: str) -> None:
        """Until init reports `wanted`; serves its console and hooks on the way."""
        assert self.child is not None
        self.child.sync.setblocking(True)
        while True:
            report = wait_progress(self.child)
            if report.kind == "console":
                self.master = report.fd
            elif report.kind == "hooks":
                self._run_hooks("prestart", "createRuntime", status="creating")
                launch.go(self.child)
            elif report.kind == "error":
                assert report.error is not None
                raise report.error
            elif report.kind == wanted:
                return

    def _run_hooks(self, *kinds: str, status: str) -> None:
        hooks = self.plan.hooks
        if hooks is None:
            return
        hooks.state = self.container.oci_state(status)
        for kind in kinds:
            hooks.run(kind, pid=self.container.pid, status=status)

    def started(self) -> None:
        """poststart hooks: a failing one is told, the container goes on (runtime.md, "Lifecycle")."""
        run_hooks_leniently(self.container, self.plan.hooks, "poststart", "running")

    def write_pid_file(self) -> None:
        write_pid_file(self.arguments.text("pid-file"), self.container.pid)

    def undo(self) -> None:
        if self.child is not None:
            spawning.discard(self.child)
        if self.cgroup is not None:
            self.cgroup.kill()
            self.cgroup.delete()
        self.container.forget()


def create(context: Context, arguments: Arguments) -> int:
    hardening.harden()
    making = Making(context, arguments)
    try:
        if making.plan.process.terminal and not arguments.text("console-socket"):
            raise UsageError("a container with a terminal needs --console-socket")
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        listener.bind(making.container.start_socket)
        listener.listen(1)
        making.spawn(listener=listener)
        making.wait_for("ready")
        if making.master >= 0:
            console.send_master(arguments.text("console-socket"), making.master)
        making.write_pid_file()
    except BaseException:
        making.undo()
        raise
    return 0


def start(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container()).load()
    status = container.status()
    if status != "created":
        raise StateError(f"cannot start a container that is {status}")
    sync = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sync.connect(container.start_socket)
    except (FileNotFoundError, ConnectionRefusedError):
        raise StateError("cannot start a container that is being started already") from None
    os.unlink(container.start_socket)
    child = launch.Child(container.pid, -1, sync)
    report = wait_progress(child)
    if report.error is not None:
        raise report.error
    _poststart(container)
    return 0


def run(context: Context, arguments: Arguments) -> int:
    hardening.harden()
    making = Making(context, arguments)
    detach, socket_path = arguments.flag("detach"), arguments.text("console-socket")
    terminal = making.plan.process.terminal
    try:
        if terminal and detach and not socket_path:
            raise UsageError("a detached container with a terminal needs --console-socket")
        if socket_path and not (terminal and detach):
            raise UsageError("--console-socket is for a detached container with a terminal")
        signals = None if detach else console.Signals()
        child = making.spawn(listener=None)
        making.wait_for("started")
        if socket_path:
            console.send_master(socket_path, making.master)
        making.write_pid_file()
        making.started()
    except BaseException:
        making.undo()
        raise
    if signals is None:
        return 0
    code = signals.follow(child, making.master)
    if not arguments.flag("keep"):
        remove(making.container, making.plan.hooks)
    return code


def remove(container: Container, hooks: object = None) -> None:
    """Kill what is left of a stopped container and forget it; poststop hooks come last."""
    cgroup = container.cgroup()
    cgroup.kill()
    cgroup.delete()
    state = None
    if hooks is not None:
        state = container.oci_state("stopped")
    container.forget()
    if state is not None:
        _run_leniently(hooks, state, "poststop", "stopped")


def run_hooks_leniently(container: Container, hooks: object, kind: str, status: str) -> None:
    if hooks is not None:
        _run_leniently(hooks, container.oci_state(status), kind, status)


def _run_leniently(hooks: object, state: Object, kind: str, status: str) -> None:
    from daemon.runtime.hooks import Hooks

    assert isinstance(hooks, Hooks)
    hooks.state = state
    try:
        hooks.run(kind, pid=state["pid"], status=status)
    except LaunchError as error:
        os.write(2, f"warning: {error}\n".encode())


def _poststart(container: Container) -> None:
    config = container.config()
    if config.get("hooks"):
        from daemon.runtime import hooks

        run_hooks_leniently(container, hooks.plan(config), "poststart", "running")


def wait_progress(child: Child) -> launch.Progress:
    """Block until the child has something to say."""
    from select import poll

    ready = poll()
    ready.register(child.sync.fileno(), 1)  # POLLIN
    while True:
        ready.poll()
        report = launch.progress(child)
        if report is not None:
            return report


def cgroup_path(linux: Object, container: str) -> str:
    """The cgroup of a container, relative to the hierarchies' roots (config-linux.md, "Cgroups Path")."""
    path = get_string(linux, "cgroupsPath", "linux.cgroupsPath")
    if ":" in path and "/" not in path:
        raise SpecError("linux.cgroupsPath", f"{path!r} is systemd's form; only paths are supported")
    return path.strip("/") or container


def preserved(arguments: Arguments) -> int:
    """--preserve-fds and socket activation's LISTEN_FDS (sd_listen_fds(3)): as many from 3 on are kept."""
    count = arguments.number("preserve-fds", 0) + int(os.environ.get("LISTEN_FDS") or 0)
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise RuntimeFailure(f"file descriptor {fd} is to be preserved but is not open") from None
    return count


def write_pid_file(path: str, pid: int) -> None:
    """Written aside and renamed: who waits for the file reads a whole number."""
    if not path:
        return
    directory, _, name = path.rpartition("/")
    aside = f"{directory or '.'}/.{name}.{os.getpid()}"
    with open(aside, "w") as file:
        file.write(str(pid))
    os.rename(aside, path)

"""`pyd-oci exec`: a further process in a running container."""

from __future__ import annotations

from daemon.runtime import command_console as console
from daemon.runtime import hardening, launch, seccomp, spawning
from daemon.runtime.capabilities import NUMBERS
from daemon.runtime.command_arguments import UsageError
from daemon.runtime.command_start import preserved, wait_progress, write_pid_file
from daemon.runtime.command_state import Container, read_config
from daemon.runtime.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.command import Context
    from daemon.runtime.command_arguments import Arguments
    from daemon.runtime.launch import Child
    from daemon.runtime.spec import Object

_SETS = ("bounding", "effective", "permitted")


def exec_(context: Context, arguments: Arguments) -> int:
    hardening.harden()
    container = Container(context.root, arguments.container(more=-1)).load()
    _check_status(container, arguments)
    spec = container.config()
    process = _process(spec, arguments)
    terminal, detach = bool(process.get("terminal")), arguments.flag("detach")
    socket_path = arguments.text("console-socket")
    if terminal and detach and not socket_path:
        raise UsageError("a detached process with a terminal needs --console-socket")
    if socket_path and not (terminal and detach):
        raise UsageError("--console-socket is for a detached process with a terminal")
    seccomp.use_cache_directory(f"{context.root}/.seccomp")
    plan = launch.prepare_exec(process, spec, container.id)
    signals = None if detach else console.Signals()
    child = launch.spawn_exec(
        plan,
        None if terminal else launch.Stdio(0, 1, 2),
        init_pidfd=container.pidfd(),
        cgroup=container.cgroup(),
        preserve_fds=preserved(arguments),
    )
    try:
        master = _wait_started(child)
        if socket_path:
            console.send_master(socket_path, master)
        write_pid_file(arguments.text("pid-file"), child.pid)
    except BaseException:
        spawning.discard(child)
        raise
    return 0 if signals is None else signals.follow(child, master)


def _check_status(container: Container, arguments: Arguments) -> None:
    status = container.status()
    if status == "stopped":
        raise StateError("cannot exec in a stopped container")
    if status == "paused" and not arguments.flag("ignore-paused"):
        raise StateError("cannot exec in a paused container (use --ignore-paused to override)")


def _wait_started(child: Child) -> int:
    """The pty's master, or -1; raises what kept the process from starting."""
    master = -1
    while True:
        report = wait_progress(child)
        if report.kind == "console":
            master = report.fd
        elif report.error is not None:
            raise report.error
        elif report.kind == "started":
            return master


def _process(spec: Object, arguments: Arguments) -> Object:
    """From --process, or the container's own process changed by the options."""
    if path := arguments.text("process"):
        return read_config(path)
    command = arguments.rest[1:]
    if not command:
        raise UsageError("a program to run is needed")
    process: Object = {**spec["process"], "args": command, "terminal": arguments.flag("tty")}
    process.pop("consoleSize", None)
    process["env"] = [*(process.get("env") or []), *arguments.texts("env")]
    if cwd := arguments.text("cwd"):
        process["cwd"] = cwd
    if profile := arguments.text("apparmor"):
        process["apparmorProfile"] = profile
    if arguments.flag("no-new-privs"):
        process["noNewPrivileges"] = True
    process["user"] = _user(process.get("user") or {}, arguments)
    _add_capabilities(process, arguments.texts("cap"))
    return process


def _user(user: Object, arguments: Arguments) -> Object:
    """--user UID[:GID] and --additional-gids; numbers only, as in runc."""
    result = dict(user)
    try:
        if text := arguments.text("user"):
            uid, colon, gid = text.partition(":")
            result["uid"] = int(uid)
            if colon:
                result["gid"] = int(gid)
        if groups := arguments.texts("additional-gids"):
            result["additionalGids"] = [*(result.get("additionalGids") or []), *map(int, groups)]
    except ValueError as error:
        raise UsageError(f"--user and --additional-gids take numbers: {error}") from None
    return result


def _add_capabilities(process: Object, names: list[str]) -> None:
    """--cap adds to the bounding, effective and permitted sets; never to the inheritable one (CVE-2022-29162)."""
    if not names:
        return
    for name in names:
        if name not in NUMBERS:
            raise UsageError(f"unknown capability {name!r}")
    sets = dict(process.get("capabilities") or {})
    for kind in _SETS:
        sets[kind] = [*(sets.get(kind) or []), *names]
    process["capabilities"] = sets

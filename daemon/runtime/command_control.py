"""`pyd-oci kill`, `delete`, `pause`, `resume` and `update`."""

from __future__ import annotations

import os

from daemon.runtime.command_arguments import UsageError
from daemon.runtime.command_state import Container, read_config
from daemon.runtime.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from daemon.runtime.command import Context
    from daemon.runtime.command_arguments import Arguments
    from daemon.runtime.spec import Object
else:
    import _signal

_SIGKILL = 9
_KILL_WAIT = 10.0


def signal_number(text: str) -> int:
    """9, KILL, SIGKILL, RTMIN+3 ..."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit():
        number = int(name)
    else:
        base, plus, offset = name.partition("+")
        found = getattr(_signal, f"SIG{base}", None)
        if not isinstance(found, int) or base.startswith("_") or (plus and not offset.isdigit()):
            raise UsageError(f"unknown signal {text!r}")
        number = int(found) + (int(offset) if plus else 0)
    if not 1 <= number <= 64:
        raise UsageError(f"unknown signal {text!r}")
    return number


def kill(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container(more=1)).load()
    number = signal_number(arguments.rest[1] if len(arguments.rest) > 1 else "TERM")
    if arguments.flag("all"):
        container.cgroup().kill(number)
        return 0
    pidfd = container.pidfd()
    try:
        _signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)
    if number == _SIGKILL and container.cgroup().frozen():
        container.cgroup().thaw()  # v1 delivers even SIGKILL only once the cgroup is thawed
    return 0


def delete(context: Context, arguments: Arguments) -> int:
    try:
        container = Container(context.root, arguments.container()).load()
    except StateError:
        if arguments.flag("force"):
            return 0
        raise
    status = container.status()
    if status != "stopped":
        if status != "created" and not arguments.flag("force"):
            raise StateError(f"cannot delete container {container.id} that is not stopped: {status}")
        _kill_and_wait(container)
    from daemon.runtime import command_start

    hooks = None
    if container.config().get("hooks"):
        from daemon.runtime import hooks as hooks_module

        hooks = hooks_module.plan(container.config())
    command_start.remove(container, hooks)
    return 0


def _kill_and_wait(container: Container) -> None:
    from select import poll

    try:
        pidfd = container.pidfd()
    except StateError:
        return
    try:
        container.cgroup().kill()
        try:  # noqa: SIM105  (contextlib is not imported here: it costs 3 ms)
            _signal.pidfd_send_signal(pidfd, _SIGKILL)
        except ProcessLookupError:
            pass
        ready = poll()
        ready.register(pidfd, 1)  # POLLIN
        if not ready.poll(int(_KILL_WAIT * 1000)):
            raise StateError(f"container init {container.pid} still running after SIGKILL")
    finally:
        os.close(pidfd)


def pause(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container()).load()
    status = container.status()
    if status not in ("running", "created"):
        raise StateError(f"cannot pause a container that is {status}")
    container.cgroup().freeze()
    return 0


def resume(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container()).load()
    if container.status() != "paused":
        raise StateError("cannot resume a container that is not paused")
    container.cgroup().thaw()
    return 0


# Option -> where its number goes in linux.resources.
_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-share": ("cpu", "shares"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def update(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container()).load()
    if not container.alive():
        raise StateError("container not running")
    container.cgroup().update(_resources(arguments))
    return 0


def _resources(arguments: Arguments) -> Object:
    if path := arguments.text("resources"):
        return read_config("/dev/stdin" if path == "-" else path)
    resources: Object = {}
    for option, (group, key) in _NUMBERS.items():
        if text := arguments.text(option):
            resources.setdefault(group, {})[key] = _amount(option, text)
    for option, (group, key) in _TEXTS.items():
        if text := arguments.text(option):
            resources.setdefault(group, {})[key] = text
    if not resources:
        raise UsageError("nothing to update: give limits as options or --resources FILE")
    return resources


def _amount(option: str, text: str) -> int:
    """A number, of bytes with a unit where it is about memory: 512m, 1g, -1."""
    digits, unit = text, 1
    if option.startswith("memory") and text and text[-1].lower() in _UNITS:
        digits, unit = text[:-1], _UNITS[text[-1].lower()]
    try:
        return int(digits) * unit
    except ValueError:
        raise UsageError(f"--{option}: {text!r} is not a number") from None

"""OCI lifecycle hooks: programs run at fixed points with the container's state on standard input (config.md)."""

from __future__ import annotations

import os
import select

from daemon.runtime.errors import LaunchError, SpecError
from daemon.runtime.spec import get_int, get_object, get_objects, get_path, get_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daemon.runtime.spec import Object

# Where each kind runs: in the runtime's namespaces (by the parent) or in the container's (by init).
IN_RUNTIME = ("prestart", "createRuntime", "poststart", "poststop")
IN_CONTAINER = ("createContainer", "startContainer")
BEFORE_PIVOT = ("prestart", "createRuntime")


class Hook:
    __slots__ = ("arguments", "environment", "path", "timeout")

    def __init__(self, entry: Object, field: str) -> None:
        self.path = get_path(entry, "path", f"{field}.path")
        self.arguments = get_strings(entry, "args", f"{field}.args") or [self.path]
        self.environment = dict(
            entry.partition("=")[::2] for entry in get_strings(entry, "env", f"{field}.env") if "=" in entry
        )
        seconds = get_int(entry, "timeout", f"{field}.timeout", default=0, low=0)
        if entry.get("timeout") is not None and seconds == 0:
            raise SpecError(f"{field}.timeout", "must be greater than zero")
        self.timeout = seconds * 1000 if seconds else None

    def run(self, kind: str, state: bytes) -> None:
        """Raises LaunchError when the program cannot be run, fails or takes too long."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, reader, 0)]
            pid = os.posix_spawn(self.path, self.arguments, self.environment, file_actions=actions)
        except OSError as error:
            os.close(writer)
            raise self._failed(kind, os.strerror(error.errno or 0).lower()) from None
        finally:
            os.close(reader)
        try:
            os.write(writer, state)
        except BrokenPipeError:
            pass  # a hook need not read its input
        finally:
            os.close(writer)
        self._wait(kind, pid)

    def _wait(self, kind: str, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            finished = bool(poll.poll(self.timeout))
            if not finished:
                os.kill(pid, 9)
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(pidfd)
        if not finished:
            raise self._failed(kind, f"did not finish within {(self.timeout or 0) // 1000} s")
        if code := os.waitstatus_to_exitcode(status):
            raise self._failed(kind, f"exit status {code}")

    def _failed(self, kind: str, problem: str) -> LaunchError:
        return LaunchError(f"error running {kind} hook {self.path}: {problem}", stage="hooks")


class Hooks:
    """All hooks of one container. `state` is filled in with status and pid at each point."""

    __slots__ = ("by_kind", "state")

    def __init__(self, entries: Object) -> None:
        self.by_kind: dict[str, list[Hook]] = {}
        for kind in IN_RUNTIME + IN_CONTAINER:
            self.by_kind[kind] = [
                Hook(entry, f"hooks.{kind}[{index}]")
                for index, entry in enumerate(get_objects(entries, kind, f"hooks.{kind}"))
            ]
        self.state: Object = {}

    def has(self, *kinds: str) -> bool:
        return any(self.by_kind[kind] for kind in kinds)

    def run(self, kind: str, *, pid: int, status: str) -> None:
        """Run the hooks of a kind in order; the first failure ends it."""
        if not self.by_kind[kind]:
            return
        state = {**self.state, "pid": pid, "status": status}
        if status == "stopped":
            del state["pid"]
        text = _dump(state).encode()
        for hook in self.by_kind[kind]:
            hook.run(kind, text)


def _dump(state: Object) -> str:
    import json  # hooks are rare; a start without them does not pay for the import

    return json.dumps(state)


def plan(spec: Object) -> Hooks | None:
    entries = get_object(spec, "hooks", "hooks")
    if not any(entries.values()):
        return None
    import json  # noqa: F401  (here, so that nothing is imported after the clone)

    return Hooks(entries)

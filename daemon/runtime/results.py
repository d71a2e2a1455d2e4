"""What calls to the runtime give back and raise; `client.py` is where they come from.

RuntimeCallError
├── LaunchFailed     the process could not be started; `exit_code` is what Docker reports (125-128)
├── NotRunning       there is no such living process
├── Refused          wrong state: paused, already started, unknown option ...
└── Unavailable      the supervisor died under the request or cannot be started; whether the request was
                     carried out is told by the states (a start: running, or nothing of it is left)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class RuntimeCallError(Exception):
    """Base of what a call to the runtime raises; `str(error)` is the user's message."""


class LaunchFailed(RuntimeCallError):
    """The process was not started; nothing of it is left. `exit_code`: 127 not found, 126 not executable,
    128 other start errors, 125 set-up errors."""

    def __init__(self, message: str, exit_code: int = 128) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NotRunning(RuntimeCallError):
    """No such process lives."""


class Refused(RuntimeCallError):
    """The state or an argument rules the operation out."""


class Unavailable(RuntimeCallError):
    """The supervisor died under the request, or does not start."""


@dataclass(frozen=True, slots=True)
class LogSpec:
    """Where a container's output is logged. `options` are Docker's log options (max-size, max-file,
    compress, labels, tag ...) with `attrs:NAME` entries for what goes into every line's `attrs`."""

    driver: str
    path: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """A client that waits for a replay (`RuntimeClient.attach` with `replay`). Its stream begins where the log file
    `inode` has `size` bytes; `number` names it to `let_loose`."""

    number: int
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class RuntimePath:
    """A foreign OCI runtime: its command (`/usr/sbin/runc`) and arguments before the sub-command."""

    path: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    pid: int
    started_at_ns: int


@dataclass(frozen=True, slots=True)
class ExitEvent:
    """A process ended. `status` is 0-255, or 128 + signal; 255 too where it cannot be known (the
    supervisor died, and the kernel is older than 6.15)."""

    id: str
    exec_id: str | None
    pid: int
    status: int
    oom_killed: bool
    finished_at_ns: int


@dataclass(frozen=True, slots=True)
class ExecState:
    pid: int
    running: bool
    exit_status: int | None
    started_at_ns: int
    finished_at_ns: int | None


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """`status` is "running", "paused" or "stopped"."""

    pid: int
    status: str
    exit_status: int | None
    started_at_ns: int
    finished_at_ns: int | None
    oom_killed: bool
    execs: dict[str, ExecState]


_ERRORS: dict[str, type[RuntimeCallError]] = {"not_running": NotRunning, "refused": Refused}


def failure(error: dict[str, Any]) -> RuntimeCallError:
    if error["kind"] == "launch":
        return LaunchFailed(error["message"], int(error.get("exit_code", 128)))
    return _ERRORS.get(error["kind"], RuntimeCallError)(error["message"])


def state_of(raw: dict[str, Any]) -> RuntimeState:
    execs = {
        name: ExecState(
            pid=e["pid"],
            running=e["exit_status"] is None,
            exit_status=e["exit_status"],
            started_at_ns=e["started_at_ns"],
            finished_at_ns=e["finished_at_ns"],
        )
        for name, e in raw["execs"].items()
    }
    return RuntimeState(
        pid=raw["pid"],
        status=raw["status"],
        exit_status=raw["exit_status"],
        started_at_ns=raw["started_at_ns"],
        finished_at_ns=raw["finished_at_ns"],
        oom_killed=raw["oom_killed"],
        execs=execs,
    )

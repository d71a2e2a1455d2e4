"""`pyd-oci`: the runtime as a command, with runc's sub-commands, options and exit codes.

    pyd-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND ...

Each start pays for the interpreter, so that this is written for a quick start: no module is imported before the
command that needs it, and none that costs more than it saves (see command_json, command_arguments).
The process is replaced at its beginning by one whose executable cannot be written to (hardening.py), for
those commands that start a container.
"""

from __future__ import annotations

import os
import sys

from daemon.runtime.command_arguments import Arguments, Options, UsageError, parse
from daemon.runtime.command_state import DEFAULT_ROOT
from daemon.runtime.errors import LaunchError, RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "0.1.0"

_CREATE = ("bundle", "console-socket", "pid-file", "preserve-fds")
_CREATE_FLAGS = ("no-new-keyring", "no-pivot")
_BUNDLE = {"b": "bundle"}
_RESOURCES = (
    *("blkio-weight", "cpu-burst", "cpu-idle", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime"),
    *("cpu-share", "cpuset-cpus", "cpuset-mems", "memory", "memory-reservation", "memory-swap", "pids-limit"),
    "resources",
)

# Name -> (module, options, one line of help).
COMMANDS: dict[str, tuple[str, Options, str]] = {
    "create": (
        "start",
        Options(flags=_CREATE_FLAGS, values=_CREATE, aliases=_BUNDLE),
        "create a container; its program waits for `start`",
    ),
    "delete": ("control", Options(flags=("force",), aliases={"f": "force"}), "remove a stopped container"),
    "events": (
        "info",
        Options(flags=("stats",), values=("interval",)),
        "print statistics as JSON lines, once with --stats",
    ),
    "exec": (
        "exec",
        Options(
            flags=("detach", "ignore-paused", "no-new-privs", "tty"),
            values=("apparmor", "console-socket", "cwd", "pid-file", "preserve-fds", "process", "user"),
            lists=("additional-gids", "cap", "env"),
            aliases={
                "c": "cap", "d": "detach", "e": "env", "g": "additional-gids", "p": "process", "t": "tty",
                "u": "user",
            },
        ),
        "run a program in a running container",
    ),
    "features": ("info", Options(), "print what this runtime supports, as JSON"),
    "kill": ("control", Options(flags=("all",), aliases={"a": "all"}), "send a signal (SIGTERM) to a container"),
    "list": (
        "info",
        Options(flags=("quiet",), values=("format",), aliases={"f": "format", "q": "quiet"}),
        "list containers",
    ),
    "pause": ("control", Options(), "stop all of a container's processes"),
    "ps": ("info", Options(values=("format",), aliases={"f": "format"}), "list a container's processes"),
    "resume": ("control", Options(), "undo `pause`"),
    "run": (
        "start",
        Options(
            flags=(*_CREATE_FLAGS, "detach", "keep", "no-subreaper"),
            values=_CREATE,
            aliases={**_BUNDLE, "d": "detach"},
        ),
        "create and start a container, and wait for it",
    ),
    "spec": (
        "info",
        Options(flags=("rootless",), values=("bundle",), aliases=_BUNDLE),
        "write a config.json to start from",
    ),
    "start": ("start", Options(), "start the program of a created container"),
    "state": ("info", Options(), "print a container's state as JSON"),
    "update": ("control", Options(values=_RESOURCES, aliases={"r": "resources"}), "change a container's limits"),
}  # fmt: skip
_GLOBAL = Options(
    flags=("debug", "help", "systemd-cgroup", "version"),
    values=("criu", "log", "log-format", "root", "rootless"),
    aliases={"h": "help", "v": "version"},
)


class Context:
    """The global options, for the commands."""

    __slots__ = ("name", "root")

    def __init__(self, root: str, name: str) -> None:
        self.root, self.name = root, name


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options = parse(arguments, _GLOBAL)
    except UsageError as error:
        return _fail(Arguments(), str(error), 1)
    if options.flag("version"):
        print(f"pyd-oci version {VERSION}\nspec: 1.2.0")
        return 0
    if options.flag("help") or not options.rest:
        _help()
        return 0 if options.flag("help") else 1
    name = options.rest[0]
    if options.rest[1:2] in (["--help"], ["-h"]) and name in COMMANDS:
        _help_for(name)
        return 0
    try:
        return _dispatch(name, options)
    except UsageError as error:
        return _fail(options, f"{name}: {error}", 1)
    except LaunchError as error:
        text = f"pyd-oci {name} failed: unable to start container process: {error}"
        return _fail(
            options, text, error.exit_code if name in ("exec", "run") and error.exit_code < 128 else 1
        )
    except RuntimeFailure as error:
        return _fail(options, str(error), 1)
    except OSError as error:
        return _fail(options, f"{name}: {str(error).lower()}", 1)
    except Exception as error:
        if type(error).__name__ != "CgroupError":  # not imported for the sake of an except clause
            raise
        return _fail(options, str(error), 1)


def _dispatch(name: str, options: Arguments) -> int:
    if name not in COMMANDS:
        raise UsageError(f"no such command; there are {', '.join(COMMANDS)}")
    if options.flag("systemd-cgroup"):
        raise UsageError("--systemd-cgroup is not supported: cgroups are managed directly (cgroupfs)")
    if options.text("rootless") not in ("", "auto", "false"):
        raise UsageError("--rootless is not supported: pyd-oci runs as root")
    module_name, accepted, _ = COMMANDS[name]
    arguments = parse(options.rest[1:], accepted)
    module = __import__(f"daemon.runtime.command_{module_name}", fromlist=[name])
    run: Callable[[Context, Arguments], int] = getattr(
        module, name + ("_" if name in ("exec", "list") else "")
    )
    return run(Context(os.path.abspath(options.text("root", DEFAULT_ROOT)), name), arguments)


def _fail(options: Arguments, text: str, exit_code: int) -> int:
    """The message to standard error and, as its last error, to --log in the format callers parse."""
    log = options.text("log")
    if log:
        from daemon.runtime.command_json import dumps
        from daemon.runtime.command_state import now

        line = {"level": "error", "msg": text, "time": now()}
        if options.text("log-format") == "json":
            written = dumps(line)
        else:
            written = " ".join(f"{key}={dumps(value)}" for key, value in line.items())
        try:
            with open(log, "a") as file:
                file.write(written + "\n")
        except OSError as error:
            sys.stderr.write(f"cannot write to --log {log}: {error.strerror}\n")
    sys.stderr.write(text + "\n")
    return exit_code


def _help() -> None:
    lines = [f"   {name:<10}{text}" for name, (_, _, text) in COMMANDS.items()]
    print("pyd-oci - run containers from OCI bundles\n")
    print("usage: pyd-oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND [options] ID\n")
    print("commands:\n" + "\n".join(lines))


def _help_for(name: str) -> None:
    _, options, text = COMMANDS[name]
    print(f"pyd-oci {name} - {text}\n\noptions:")
    short = {long: letter for letter, long in options.aliases.items()}
    for option in sorted(options.flags + options.values + options.lists):
        value = "" if option in options.flags else " VALUE"
        print(f"   --{option}{f', -{short[option]}' if option in short else ''}{value}")


if __name__ == "__main__":
    sys.exit(main())

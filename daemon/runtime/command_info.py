"""`pyd-oci state`, `list`, `ps`, `events`, `features` and `spec`. None of these starts anything: json is affordable."""

from __future__ import annotations

import json
import os
import sys

from daemon.runtime.command_arguments import UsageError
from daemon.runtime.command_state import OCI_VERSION, Container, all_containers
from daemon.runtime.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from daemon.cgroups import BlkioEntry, Stats
    from daemon.runtime.command import Context
    from daemon.runtime.command_arguments import Arguments

_SPEC_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def state(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container()).load()
    print(json.dumps(container.oci_state(), indent=2))
    return 0


def list_(context: Context, arguments: Arguments) -> int:
    containers = all_containers(context.root)
    kind = _format(arguments)
    if arguments.flag("quiet"):
        for container in containers:
            print(container.id)
    elif kind == "json":
        print(json.dumps([{**container.oci_state(), "owner": "root"} for container in containers]))
    else:
        rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        for container in containers:
            status = container.status()
            pid = str(container.pid if status != "stopped" else 0)
            rows.append((container.id, pid, status, container.bundle, container.created, "root"))
        _print_table(rows)
    return 0


def _format(arguments: Arguments) -> str:
    kind = arguments.text("format", "table")
    if kind not in ("table", "json"):
        raise UsageError(f"invalid format {kind!r}: table or json")
    return kind


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def ps(context: Context, arguments: Arguments) -> int:
    container = Container(context.root, arguments.container(more=-1)).load()
    if not container.alive():
        raise StateError("container not running")
    pids = container.cgroup().pids()
    if _format(arguments) == "json":
        print(json.dumps(pids))
        return 0
    import subprocess

    output = subprocess.run(
        ["ps", *(arguments.rest[1:] or ["-ef"])], capture_output=True, text=True, check=False
    )
    if output.returncode:
        raise StateError(f"ps: {output.stderr.strip()}")
    header, *lines = output.stdout.splitlines()
    try:
        column = header.split().index("PID")
    except ValueError:
        raise UsageError("the output of ps has no column PID") from None
    wanted = set(map(str, pids))
    print("\n".join([header, *(line for line in lines if line.split()[column] in wanted)]))
    return 0


def events(context: Context, arguments: Arguments) -> int:
    """One JSON line with --stats; otherwise one each interval until the container stops, and `oom` as it happens."""
    container = Container(context.root, arguments.container()).load()
    if not container.alive():
        raise StateError("container is not running")
    if arguments.flag("stats"):
        _print_event(container, "stats", _stats(container))
        return 0
    import select

    interval = _seconds(arguments.text("interval", "5s"))
    pidfd = container.pidfd()
    seen = container.cgroup().oom_kills()
    while not select.select([pidfd], [], [], interval)[0]:
        kills = container.cgroup().oom_kills()
        if kills > seen:
            _print_event(container, "oom", None)
        seen = kills
        _print_event(container, "stats", _stats(container))
    os.close(pidfd)
    return 0


def _seconds(text: str) -> float:
    """Go's durations of one unit: 500ms, 5s, 1m."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        digits = text.removesuffix(unit)
        if digits != text and digits.replace(".", "", 1).isdigit() and float(digits) > 0:
            return float(digits) * factor
    raise UsageError(f"--interval {text!r} is not a duration such as 5s")


def _print_event(container: Container, kind: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container.id}
    if data is not None:
        event["data"] = data
    print(json.dumps(event))
    sys.stdout.flush()


def _stats(container: Container) -> dict[str, Any]:
    """The reading in the form of `runc events` (github.com/opencontainers/runc/types)."""
    reading: Stats = container.cgroup().stats()
    memory = reading.memory
    return {
        "cpu": {
            "usage": {
                "total": reading.cpu.total_ns,
                "percpu": list(reading.cpu.per_cpu_ns),
                "kernel": reading.cpu.system_ns,
                "user": reading.cpu.user_ns,
            },
            "throttling": {
                "periods": reading.cpu.periods,
                "throttledPeriods": reading.cpu.throttled_periods,
                "throttledTime": reading.cpu.throttled_ns,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": {
                "usage": memory.usage,
                "max": memory.peak,
                "limit": memory.limit,
                "failcnt": memory.failcnt,
            },
            "swap": {"usage": memory.swap_usage, "limit": memory.swap_limit},
            "kernel": {"usage": memory.kernel_usage},
            "raw": memory.by_type,
        },
        "pids": {"current": reading.pids.current, "limit": reading.pids.limit},
        "blkio": {
            "ioServiceBytesRecursive": _entries(reading.blkio.service_bytes),
            "ioServicedRecursive": _entries(reading.blkio.serviced),
        },
    }


def _entries(entries: tuple[BlkioEntry, ...]) -> list[dict[str, Any]]:
    return [{"major": one.major, "minor": one.minor, "op": one.op, "value": one.value} for one in entries]


def features(context: Context, arguments: Arguments) -> int:
    """What the runtime supports (runtime-spec, features.md)."""
    from daemon.runtime import capabilities, mountoptions, namespaces, seccomp, seccomp_compile
    from daemon.runtime.hooks import IN_CONTAINER, IN_RUNTIME
    from daemon.runtime.process import apparmor_enabled

    options = {
        "bind",
        "rbind",
        "remount",
        *mountoptions.ATTRIBUTES,
        *mountoptions.PROPAGATION,
        *mountoptions.SUPERBLOCK,
    }
    options |= {f"r{name}" for name in mountoptions.ATTRIBUTES} | mountoptions.NO_EFFECT - {"tmpcopyup"}
    print(
        json.dumps(
            {
                "ociVersionMin": "1.0.0",
                "ociVersionMax": OCI_VERSION,
                "hooks": sorted(IN_RUNTIME + IN_CONTAINER),
                "mountOptions": sorted(options),
                "linux": {
                    "namespaces": sorted(namespaces.KINDS),
                    "capabilities": list(capabilities.NUMBERS),
                    "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
                    "seccomp": {
                        "enabled": True,
                        "actions": sorted(seccomp_compile.ACTIONS),
                        "operators": sorted(seccomp_compile.COMPARISONS),
                        "archs": sorted(seccomp_compile.ARCHITECTURES),
                        "knownFlags": sorted(seccomp.FLAGS),
                        "supportedFlags": sorted(seccomp.FLAGS),
                    },
                    "apparmor": {"enabled": apparmor_enabled()},
                    "selinux": {"enabled": False},
                    "intelRdt": {"enabled": False},
                    "mountExtensions": {"idmap": {"enabled": False}},
                },
                "annotations": {},
            },
            indent=2,
        )
    )
    return 0


def spec(context: Context, arguments: Arguments) -> int:
    """Write a config.json like `runc spec`: a shell on a terminal, few rights, a read-only root."""
    if arguments.flag("rootless"):
        raise UsageError("--rootless is not supported: pyd-oci runs as root")
    from daemon.runtime import defaults

    config = defaults.default_spec("rootfs", ["sh"], hostname="pyd-oci")
    config["ociVersion"] = OCI_VERSION
    config["root"]["readonly"] = True
    config["process"] |= {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "env": [*config["process"]["env"], "TERM=xterm"],
        "capabilities": defaults.capabilities(tuple(_SPEC_CAPABILITIES)),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }
    del config["process"]["oomScoreAdj"]
    del config["linux"]["sysctl"]
    del config["linux"]["seccomp"]
    config["linux"]["namespaces"].append({"type": "cgroup"})
    path = f"{arguments.text('bundle', '.')}/config.json"
    try:
        with open(path, "x") as file:
            json.dump(config, file, indent="\t")
            file.write("\n")
    except FileExistsError:
        raise StateError(f"file {path} exists. Remove it first") from None
    return 0

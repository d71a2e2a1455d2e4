"""What dockerd 28 gives a Linux container unless the user says otherwise, as parts of an OCI `config.json`.

The values were read off the `config.json` that a real dockerd 28.5 wrote (see tests/system/test_runtime_defaults.py).
Every function returns fresh objects that the caller may change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

OCI_VERSION = "1.2.1"

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
NAMESPACES = ("mount", "network", "uts", "pid", "ipc")
# A cgroup namespace is dockerd's default only where the host is on cgroup v2 alone.
NAMESPACES_UNIFIED = (*NAMESPACES, "cgroup")
SHM_SIZE = 64 << 20

# (type, major, minor) every container may use. /dev/fuse (10:229) is named and denied, as dockerd does.
_ALLOWED_DEVICES = (("c", 1, 5), ("c", 1, 3), ("c", 1, 9), ("c", 1, 8), ("c", 5, 0), ("c", 5, 1))


def capabilities(names: tuple[str, ...] = CAPABILITIES) -> dict[str, list[str]]:
    """`process.capabilities`. The inheritable set stays empty (CVE-2022-24769, CVE-2022-29162)."""
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def masked_paths() -> list[str]:
    """The constant list and, as dockerd does since 27, each CPU's thermal throttling where there is one."""
    throttles = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    return [*MASKED_PATHS, *sorted(map(str, throttles))]


def namespaces(*, unified: bool) -> list[dict[str, str]]:
    return [{"type": kind} for kind in (NAMESPACES_UNIFIED if unified else NAMESPACES)]


def device_rules() -> list[dict[str, Any]]:
    """`linux.resources.devices`: all denied but the common ones."""
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [
        {"allow": True, "type": kind, "major": major, "minor": minor, "access": "rwm"}
        for kind, major, minor in _ALLOWED_DEVICES
    ]
    rules.append({"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    return rules


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def mounts(*, shm_size: int = SHM_SIZE, cgroup_writable: bool = False) -> list[dict[str, Any]]:
    """`mounts`, in dockerd's order; the caller appends binds, and /dev/shm is the last of these."""
    quiet = ("nosuid", "noexec", "nodev")
    cgroup = (*(() if cgroup_writable else ("ro",)), *quiet)
    terminals = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    return [
        _mount("/proc", "proc", "proc", *quiet),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *terminals),
        _mount("/sys", "sysfs", "sysfs", *quiet, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", *cgroup),
        _mount("/dev/mqueue", "mqueue", "mqueue", *quiet),
        _mount("/dev/shm", "tmpfs", "shm", *quiet, "mode=1777", f"size={shm_size}"),
    ]


def sysctls() -> dict[str, str]:
    """For a container with a network namespace of its own: low ports and ping need no capability."""
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def default_spec(
    root: str, arguments: list[str], *, hostname: str = "", unified: bool = False
) -> dict[str, Any]:
    """A whole `config.json` for a container of Docker's defaults, to be changed by the caller."""
    from daemon.runtime.seccomp_default import default_seccomp

    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": capabilities(),
            "oomScoreAdj": 0,
        },
        "root": {"path": root},
        "hostname": hostname,
        "mounts": mounts(),
        "linux": {
            "sysctl": sysctls(),
            "resources": {"devices": device_rules()},
            "namespaces": namespaces(unified=unified),
            "seccomp": default_seccomp(set(CAPABILITIES)),
            "maskedPaths": masked_paths(),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }

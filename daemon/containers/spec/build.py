"""The OCI runtime spec of a container: Docker's defaults, then what the user asked.

Pure planning: everything that must be looked up (identity in the image's passwd, namespaces of other
containers, host devices) comes in through `Surroundings`, so the result can be tested without root.
Source of the defaults: moby oci/defaults.go and daemon/oci_linux.go.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.config import DaemonConfig
from daemon.containers.merge import environment
from daemon.containers.model import Container, MountPoint
from daemon.containers.spec import devices, resources, security
from daemon.containers.spec.users import Identity
from daemon.containers.wire import HostConfig
from storage.errors import InvalidArgument
from storage.snapshots import OverlayMount

OCI_VERSION = "1.2.0"
OCI_VERSION_FOREIGN = "1.0.2"
"""Nothing newer is used, and older releases of crun and runc refuse what they don't know."""
INIT_TARGET = "/sbin/docker-init"
ETC_FILES = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")
_DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


@dataclass(frozen=True)
class Surroundings:
    """What the spec needs to know beyond the container's own configuration."""

    root: OverlayMount
    rootfs: str
    identity: Identity
    hostname: str
    etc: dict[str, str] = field(default_factory=dict)
    """Target in the container → file on the host: hosts, hostname, resolv.conf."""
    joined: dict[str, str] = field(default_factory=dict)
    """OCI namespace type → path to join; `host` leaves the namespace out."""
    shm: str | None = None
    """Host directory to bind at /dev/shm (shared or host IPC); None gives a tmpfs of its own."""
    linked: Sequence[str] = ()
    """Variables that tell of linked containers."""
    special: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Destination → the OCI mount, where it is not simply a bind of the mount point's source."""


def build(container: Container, around: Surroundings, config: DaemonConfig) -> dict[str, Any]:
    """The `config.json`. Raises InvalidArgument naming what cannot be had."""
    host = container.host
    options = security.parse(host.get("SecurityOpt"), no_new_privileges=config.no_new_privileges)
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION if container.runtime == "pyd" else OCI_VERSION_FOREIGN,
        "process": _process(container, around, config),
        "root": {"path": around.rootfs, "readonly": bool(host.get("ReadonlyRootfs"))}
        | root(host, around.root),
        "mounts": _mounts(container, around, config, options),
        "hostname": around.hostname,
        "annotations": host.get("Annotations") or {},
        "linux": {
            "cgroupsPath": cgroups_path(container, config),
            "namespaces": _namespaces(container, around),
            "resources": resources.linux_resources(host),
            "devices": devices.linux_devices(host),
            "sysctl": _sysctls(container, around),
            "rootfsPropagation": _propagation(container.mounts),
        },
    }
    if container.config.get("Domainname"):
        spec["domainname"] = container.config["Domainname"]
    if "uts" in around.joined:
        spec.pop("hostname")
        spec.pop("domainname", None)
    security.apply(spec, host, options)
    spec["linux"] = {k: v for k, v in spec["linux"].items() if v not in ("", {}, None)}
    return spec


def root(host: HostConfig, mount: OverlayMount) -> dict[str, Any]:
    """Where the root comes from. The writable layer of a container that is removed at its end, or at the daemon's next
    start, has no reader after a power cut: it is not synced, which would make each end wait for the disk."""
    found = mount.to_spec()
    if "overlay" in found and host.get("AutoRemove"):
        found["overlay"] |= {"volatile": True}
    return found


def mount_points(container: Container) -> tuple[list[str], list[str]]:
    """Directories and files in the root that any start mounts on, save those in a mount of the user's."""
    own = [f"{point.destination.rstrip('/')}/" for point in container.mounts]

    def bare(places: tuple[str, ...]) -> list[str]:
        return [place for place in places if not f"{place}/".startswith(tuple(own))]

    return bare(("/proc", "/dev", "/sys")), bare(ETC_FILES)


def cgroups_path(container: Container, config: DaemonConfig) -> str:
    parent = container.host.get("CgroupParent") or config.cgroup_root
    return f"/{parent.strip('/')}/{container.id}"


def _process(container: Container, around: Surroundings, config: DaemonConfig) -> dict[str, Any]:
    argv = [container.path, *container.args]
    if use_init(container, config):
        argv = [INIT_TARGET, "--", *argv]
    process: dict[str, Any] = {
        "terminal": container.tty,
        "user": around.identity.as_oci(),
        "args": argv,
        "env": environment(
            container.config, hostname=around.hostname, home=around.identity.home, linked=around.linked
        ),
        "cwd": container.config.get("WorkingDir") or "/",
        "rlimits": rlimits(container, config),
        "oomScoreAdj": container.host.get("OomScoreAdj") or 0,
    }
    size = container.host.get("ConsoleSize")
    if container.tty and size and any(size):
        process["consoleSize"] = {"height": size[0], "width": size[1]}
    return process


def use_init(container: Container, config: DaemonConfig) -> bool:
    wanted = container.host.get("Init")
    return config.init if wanted is None else wanted


def init_binary() -> str:
    """A static tiny init on this machine. Raises InvalidArgument where there is none."""
    for name in ("docker-init", "tini-static", "catatonit"):
        path = shutil.which(name)
        if path:
            return path
    raise InvalidArgument(
        'exec: "docker-init": executable file not found in $PATH (package tini provides it)'
    )


def rlimits(container: Container, config: DaemonConfig) -> list[dict[str, Any]]:
    limits = dict(config.default_ulimits)
    for ulimit in container.host.get("Ulimits") or []:
        limits[ulimit.get("Name", "")] = (ulimit.get("Soft", 0), ulimit.get("Hard", 0))
    unlimited = (1 << 64) - 1
    return [
        {
            "type": f"RLIMIT_{name.upper()}",
            "soft": unlimited if soft == -1 else soft,
            "hard": unlimited if hard == -1 else hard,
        }
        for name, (soft, hard) in sorted(limits.items())
    ]


def _namespaces(container: Container, around: Surroundings) -> list[dict[str, str]]:
    chosen = [{"type": "mount"}]
    for kind in ("pid", "ipc", "uts", "network", "cgroup"):
        path = around.joined.get(kind)
        if path is None:
            chosen.append({"type": kind})
        elif path != "host":
            chosen.append({"type": kind, "path": path})
    return chosen


def _sysctls(container: Container, around: Surroundings) -> dict[str, str]:
    own_network = "network" not in around.joined
    sysctls = dict(_DEFAULT_SYSCTLS) if own_network or container.network_mode == "bridge" else {}
    if around.joined.get("network") == "host" or str(container.network_mode).startswith("container:"):
        sysctls = {}
    return sysctls | (container.host.get("Sysctls") or {})


def _propagation(points: list[MountPoint]) -> str:
    kinds = {p.propagation.removeprefix("r") for p in points}
    if "shared" in kinds:
        return "shared"
    return "rslave" if "slave" in kinds else ""


def _mounts(
    container: Container, around: Surroundings, config: DaemonConfig, options: security.SecurityOptions
) -> list[dict[str, Any]]:
    host = container.host
    privileged = bool(host.get("Privileged"))
    taken = {p.destination for p in container.mounts}
    mounts = [m for m in _default_mounts(privileged, options) if m["destination"] not in taken]
    mounts += [m for m in _shared_memory(container, around, config) if m["destination"] not in taken]
    if host.get("ReadonlyRootfs") and not privileged:
        pass  # Docker leaves /dev, /dev/shm and the like writable under --read-only
    mounts += [_user_mount(p, around) for p in container.mounts]
    writable = not host.get("ReadonlyRootfs")
    for target, source in around.etc.items():
        if target not in taken:
            access = [] if writable else ["ro"]
            mounts.append(_bind(source, target, ["rbind", "rprivate", *access]))
    if use_init(container, config):
        mounts.append(_bind(init_binary(), INIT_TARGET, ["bind", "ro"]))
    return mounts


def _default_mounts(privileged: bool, options: security.SecurityOptions) -> list[dict[str, Any]]:
    access = "rw" if privileged else "ro"
    cgroup_access = "rw" if privileged or options.writable_cgroups else "ro"
    plain = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*plain, access]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [cgroup_access, *plain],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
    ]


def _shared_memory(container: Container, around: Surroundings, config: DaemonConfig) -> list[dict[str, Any]]:
    if container.host.get("IpcMode") == "none":
        return []
    if around.shm is not None:
        return [_bind(around.shm, "/dev/shm", ["rbind", "rprivate"])]
    size = container.host.get("ShmSize") or config.default_shm_size
    options = ["nosuid", "noexec", "nodev", "mode=1777", f"size={size}"]
    return [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options}]


def _bind(source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _user_mount(point: MountPoint, around: Surroundings) -> dict[str, Any]:
    if point.type == "tmpfs":
        options = ["noexec", "nosuid", "nodev", *point.options]
        for positive in ("exec", "suid", "dev"):
            if positive in point.options:
                options = [o for o in options if o not in (f"no{positive}", positive)]
        if not point.writable:
            options.append("ro")
        return {"destination": point.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    if point.destination in around.special:
        return around.special[point.destination]
    kind = "bind" if point.non_recursive else "rbind"
    options = [kind, point.propagation or "rprivate"]
    if not point.writable:
        options.append("rro" if point.recursive_read_only else "ro")
    mount = _bind(point.source, point.destination, options)
    return mount | {"subpath": point.subpath} if point.subpath else mount


def host_hostname() -> str:
    return os.uname().nodename

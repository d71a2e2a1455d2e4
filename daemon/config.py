"""What a daemon was told at its start, and the names it derives from that.

Two daemons with different roots run side by side: every kernel object that pyd makes (cgroup parent,
bridge, firewall table, runtime directory) is named after the daemon's identity, and the identity is a
function of its roots alone, so a restarted daemon finds what its predecessor left.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

DEFAULT_DATA_ROOT = Path("/var/lib/pyd")
DEFAULT_EXEC_ROOT = Path("/run/pyd")
DEFAULT_SOCKET = "unix:///run/pyd.sock"


@dataclass(frozen=True)
class CacheRule:
    """One rule of the build cache's garbage collection: what may go, and how much may stay (bytes; 0: no limit)."""

    all: bool = False
    filters: tuple[str, ...] = ()
    """As BuildKit writes them: "type==source.local"."""
    unused_for: int = 0
    """Nanoseconds."""
    reserved: int = 0
    most: int = 0
    free: int = 0


@dataclass(frozen=True)
class BuilderConfig:
    """`builder` of the configuration file."""

    entitlements: frozenset[str] = frozenset(("network.host",))
    """What steps of builds may have when their users ask for it: network.host, security.insecure."""
    collects: bool = True
    """Whether the cache is collected by itself."""
    rules: tuple[CacheRule, ...] = ()
    """Empty: the usual ones, with the limits below."""
    reserved: int = 0
    most: int = 0
    free: int = 0


@dataclass(frozen=True)
class DaemonConfig:
    """Flags and configuration file of `pydd`, validated. Field names follow dockerd's flags."""

    data_root: Path = DEFAULT_DATA_ROOT
    exec_root: Path = DEFAULT_EXEC_ROOT
    hosts: tuple[str, ...] = (DEFAULT_SOCKET,)
    pidfile: Path | None = None
    debug: bool = False
    log_level: str = "info"
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    default_runtime: str = "pyd"
    runtimes: dict[str, str] = field(default_factory=dict)
    """Other OCI runtimes: name to path of the command. `pyd` is built in; `runc` and `crun` are found on PATH."""
    bip: str | None = None
    default_address_pools: tuple[tuple[str, int], ...] = ()
    """(base CIDR, prefix length) pairs; empty means Docker's."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    userland_proxy: bool = True
    ip_forward: bool = True
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    journald_socket: Path = Path("/run/systemd/journal/socket")
    cdi_spec_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    default_shm_size: int = 64 << 20
    default_cgroupns_mode: str = "private"
    default_ipc_mode: str = "private"
    init: bool = False
    labels: tuple[str, ...] = ()
    cgroup_parent: str | None = None
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    shutdown_timeout: int = 15
    live_restore: bool = True
    """False stops all containers when the daemon is told to end, as dockerd does unless asked otherwise."""
    builder: BuilderConfig = field(default_factory=lambda: BuilderConfig())
    seccomp_profile: Path | None = None
    no_new_privileges: bool = False
    tls: bool = False
    tls_verify: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @cached_property
    def identity(self) -> str:
        """`pyd` for the default roots, else `pyd` and eight hex digits of a hash of both roots (11 characters)."""
        if (self.data_root, self.exec_root) == (DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT):
            return "pyd"
        digest = hashlib.sha256(f"{self.data_root}\0{self.exec_root}".encode()).hexdigest()
        return f"pyd{digest[:8]}"

    @property
    def bridge(self) -> str:
        """Name of the default bridge's interface; at most 15 characters (IFNAMSIZ)."""
        return f"{self.identity}0"

    @property
    def firewall_table(self) -> str:
        return self.identity

    @property
    def cgroup_root(self) -> str:
        """Parent of every container's cgroup, relative to each hierarchy's root; no leading slash."""
        return self.cgroup_parent.strip("/") if self.cgroup_parent else self.identity

    @property
    def database(self) -> Path:
        return self.data_root / "pyd.db"

    @property
    def supervisor_socket(self) -> Path:
        return self.exec_root / "supervisor.sock"

    @property
    def keeper_socket(self) -> Path:
        return self.exec_root / "keeper.sock"

    def known_runtimes(self) -> dict[str, str]:
        """Runtime names to the path of their command; `pyd` itself has none."""
        return {"pyd": "", **{name: name for name in ("runc", "crun")}, **self.runtimes}

    def bundle(self, container_id: str) -> Path:
        """The container's OCI bundle: config.json and the runtime's state; on a tmpfs, gone with the boot."""
        return self.exec_root / "containers" / container_id

    def container_dir(self, container_id: str) -> Path:
        """The container's durable files: logs, hostname, hosts, resolv.conf."""
        return self.data_root / "containers" / container_id

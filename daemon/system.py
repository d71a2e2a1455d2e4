"""`version`, `info`, `system df`: what this engine and machine are."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import secrets
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.clock import now_ns, rfc3339
from daemon.containers import show
from daemon.containers.spec import cdi
from daemon.containers.validate import LOG_DRIVERS
from daemon.volumes.service import Volume, size_of
from storage.records import Put

if TYPE_CHECKING:
    from daemon.config import DaemonConfig
    from daemon.engine import Engine

API_VERSION = "1.51"
MIN_API_VERSION = "1.24"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def package_version() -> str:
    try:
        return importlib.metadata.version("pyd")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0"


def _os_release() -> str:
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip('"')
    except OSError:
        pass
    return "Linux"


class System:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._version = package_version()

    def started(self) -> None:
        if self._engine.records.get("engine", "id") is None:
            text = secrets.token_hex(16)
            identifier = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
            self._engine.records.write_sync([Put("engine", "id", {"id": identifier})])

    @property
    def id(self) -> str:
        """The engine's own, for as long as its data root lasts."""
        return str((self._engine.records.get("engine", "id") or {}).get("id", ""))

    @property
    def cgroups_v2(self) -> bool:
        """Whether every controller is in the one v2 tree."""
        return self._engine.ctx.cgroups_v2

    def ping_headers(self) -> dict[str, str]:
        return {
            "Api-Version": API_VERSION,
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Builder-Version": "1",
            "Server": f"pyd/{self._version} (linux)",
        }

    def version(self) -> dict[str, Any]:
        kernel, arch = os.uname().release, _ARCHITECTURES.get(platform.machine(), platform.machine())
        details = {
            "ApiVersion": API_VERSION,
            "Arch": arch,
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": kernel,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
        }
        return {
            "Platform": {"Name": "pyd"},
            "Components": [
                {"Name": "Engine", "Version": self._version, "Details": details},
                {"Name": "pyd-oci", "Version": self._version, "Details": {"GitCommit": ""}},
            ],
            "Version": self._version,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": details["GoVersion"],
            "Os": "linux",
            "Arch": arch,
            "KernelVersion": kernel,
        }

    async def info(self) -> dict[str, Any]:
        engine, config = self._engine, self._engine.config
        devices, warnings = await asyncio.to_thread(cdi.discovered, config.cdi_spec_dirs)
        return {
            "ID": self.id,
            **self._counts(),
            "Images": len(engine.images.images()),
            "Driver": "overlay2",
            "DriverStatus": [
                ["Backing Filesystem", self._backing],
                ["Supports d_type", "true"],
                ["driver-type", "io.containerd.snapshotter.v1"],  # indexes, attestations, archives of builds
            ],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "null"],
                "Authorization": None,
                "Log": list(LOG_DRIVERS),
            },
            **self._features(),
            "Debug": config.debug,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": rfc3339(now_ns()),
            "LoggingDriver": config.log_driver,
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if engine.ctx.cgroups_v2 else "1",
            "NEventsListener": engine.events.listeners,
            "KernelVersion": os.uname().release,
            "OperatingSystem": _os_release(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": platform.machine(),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": self._registry_config(),
            "NCPU": os.cpu_count() or 1,
            "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "GenericResources": None,
            "DockerRootDir": str(config.data_root),
            "HttpProxy": os.environ.get("HTTP_PROXY", ""),
            "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
            "NoProxy": os.environ.get("NO_PROXY", ""),
            "Name": os.uname().nodename,
            "Labels": list(config.labels),
            "ExperimentalBuild": False,
            "ServerVersion": self._version,
            "Runtimes": {name: {"path": path or "pyd"} for name, path in config.known_runtimes().items()},
            "DefaultRuntime": config.default_runtime,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": config.live_restore,
            "Isolation": "",
            "InitBinary": "docker-init",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": ["name=seccomp,profile=builtin"],
            "FirewallBackend": {"Driver": "nftables"},
            "CDISpecDirs": [str(path) for path in config.cdi_spec_dirs],
            "DiscoveredDevices": devices,
            "Warnings": warnings or None,
        }

    def _counts(self) -> dict[str, int]:
        states = [c.state.status for c in self._engine.registry]
        running, paused = states.count("running"), states.count("paused")
        return {
            "Containers": len(states),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(states) - running - paused,
        }

    def _features(self) -> dict[str, bool]:
        v1 = not self._engine.ctx.cgroups_v2
        names = [
            "MemoryLimit",
            "SwapLimit",
            "CpuCfsPeriod",
            "CpuCfsQuota",
            "CPUShares",
            "CPUSet",
            "PidsLimit",
        ]
        features = dict.fromkeys(names, True)
        features |= {"OomKillDisable": v1, "IPv4Forwarding": _ipv4_forwarding()}
        return features | ({"KernelMemoryTCP": True} if v1 else {})

    @cached_property
    def _backing(self) -> str:
        """File system type of the data root, from /proc/self/mountinfo's longest matching mount."""
        best, kind = "", "unknown"
        root = str(self._engine.config.data_root)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4]
            if len(point) > len(best) and (root == point or root.startswith(point.rstrip("/") + "/")):
                best, kind = point, rest.split()[0]
        return {"ext4": "extfs"}.get(kind, kind)

    def _registry_config(self) -> dict[str, Any]:
        config = self._engine.config
        mirrors = list(config.registry_mirrors)
        index = {"docker.io": {"Mirrors": mirrors, "Name": "docker.io", "Official": True, "Secure": True}}
        for name in config.insecure_registries:
            if "/" not in name:
                index[name] = {"Mirrors": [], "Name": name, "Official": False, "Secure": False}
        ranges = [name for name in config.insecure_registries if "/" in name]
        return {
            "IndexConfigs": index,
            "InsecureRegistryCIDRs": sorted({*ranges, "127.0.0.0/8", "::1/128"}),
            "Mirrors": mirrors or None,
        }

    async def disk_usage(self, types: tuple[str, ...]) -> dict[str, Any]:
        """GET /system/df."""
        engine = self._engine
        usage: dict[str, Any] = {}
        if "image" in types:
            usage |= await engine.images.disk_usage()
        if "container" in types:
            usage["Containers"] = [
                show.row(engine.ctx, c, await show.sizes(engine.ctx, c))
                for c in sorted(engine.registry, key=lambda c: c.created, reverse=True)
            ]
        if "volume" in types:
            usage["Volumes"] = [await self._volume_usage(v) for v in engine.volumes.all()]
        if "build-cache" in types:
            usage["BuildCache"] = await engine.builds.rows()
        absent = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
        return absent | usage

    async def _volume_usage(self, volume: Volume) -> dict[str, Any]:
        size = await asyncio.to_thread(size_of, Path(volume.mountpoint))
        users = len(self._engine.volumes.users(volume.name))
        return volume.as_docker() | {"UsageData": {"RefCount": users, "Size": size}}


def _ipv4_forwarding() -> bool:
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        return False


def reload_attributes(config: DaemonConfig) -> dict[str, str]:
    """Of the `reload` event, named as dockerd names them (moby daemon/reload.go)."""
    return {
        "name": os.uname().nodename,
        "debug": str(config.debug).lower(),
        "default-runtime": config.default_runtime,
        "runtimes": " ".join(sorted(config.known_runtimes())),
        "insecure-registries": json.dumps(list(config.insecure_registries)),
        "registry-mirrors": json.dumps(list(config.registry_mirrors)),
        "labels": json.dumps(list(config.labels)),
        "live-restore": str(config.live_restore).lower(),
        "max-concurrent-downloads": str(config.max_concurrent_downloads),
        "max-concurrent-uploads": str(config.max_concurrent_uploads),
        "shutdown-timeout": str(config.shutdown_timeout),
    }

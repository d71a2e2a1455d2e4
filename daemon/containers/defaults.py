"""The zero values that Docker shows in `inspect` for what a request left out (API 1.51)."""

from __future__ import annotations

from typing import Any, cast

from daemon.config import DaemonConfig
from daemon.containers.spec.resources import effective_swap
from daemon.containers.wire import Config, EndpointSettings, HostConfig, PortBinding
from daemon.images.model import BASE_CONFIG
from daemon.runtime import defaults as runtime_defaults

_OPTIONAL_CONFIG = (
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "StopTimeout",
    "Shell",
)
_HOST: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": None,
    "NetworkMode": "bridge",
    "PortBindings": None,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "",
    "Dns": None,
    "DnsOptions": None,
    "DnsSearch": None,
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 0,
    "Runtime": "",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "BlkioWeight": 0,
    "BlkioWeightDevice": None,
    "BlkioDeviceReadBps": None,
    "BlkioDeviceWriteBps": None,
    "BlkioDeviceReadIOps": None,
    "BlkioDeviceWriteIOps": None,
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": None,
    "DeviceCgroupRules": None,
    "DeviceRequests": None,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": None,
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
}
_OPTIONAL_HOST = ("Annotations", "Mounts", "StorageOpt", "Sysctls", "Tmpfs", "Init", "KernelMemory")
ENDPOINT: dict[str, Any] = {
    "IPAMConfig": None,
    "Links": None,
    "Aliases": None,
    "MacAddress": "",
    "DriverOpts": None,
    "GwPriority": 0,
    "NetworkID": "",
    "EndpointID": "",
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "DNSNames": None,
}


def config(asked: Config) -> Config:
    return cast(Config, _filled(asked, BASE_CONFIG, _OPTIONAL_CONFIG))


def endpoint(asked: EndpointSettings | None) -> EndpointSettings:
    return cast(EndpointSettings, {**ENDPOINT, **(asked or {})})


def _filled(asked: Any, zero: dict[str, Any], optional: tuple[str, ...]) -> dict[str, Any]:
    filled = {key: value if (given := asked.get(key)) is None else given for key, value in zero.items()}
    return filled | {key: asked[key] for key in optional if asked.get(key) is not None}


def host_config(asked: HostConfig, daemon: DaemonConfig, *, cgroups_v2: bool) -> HostConfig:
    """HostConfig with this daemon's defaults applied (moby adaptContainerSettings)."""
    host = cast(HostConfig, _filled(asked, _HOST, _OPTIONAL_HOST))
    if host["NetworkMode"] in ("", "default"):
        host["NetworkMode"] = "bridge"
    if host["PortBindings"]:
        host["PortBindings"] = {key: _bindings(given) for key, given in host["PortBindings"].items()}
    host["LogConfig"] = _logging(asked, daemon)
    host["ShmSize"] = host["ShmSize"] or daemon.default_shm_size
    host["Runtime"] = host["Runtime"] or daemon.default_runtime
    host["IpcMode"] = host["IpcMode"] or daemon.default_ipc_mode
    host["RestartPolicy"] = {
        "Name": host["RestartPolicy"].get("Name") or "no",
        "MaximumRetryCount": host["RestartPolicy"].get("MaximumRetryCount") or 0,
    }
    if not host["CgroupnsMode"]:
        host["CgroupnsMode"] = "private" if cgroups_v2 and not host["Privileged"] else "host"
    host["MemorySwap"] = effective_swap(host)
    if host["PidsLimit"] is not None and host["PidsLimit"] <= 0:
        host["PidsLimit"] = None
    privileged = host["Privileged"]
    unmasked = privileged or "systempaths=unconfined" in (host["SecurityOpt"] or [])
    for field, default in (
        ("MaskedPaths", runtime_defaults.masked_paths()),
        ("ReadonlyPaths", runtime_defaults.READONLY_PATHS),
    ):
        given = asked.get(field)
        host[field] = (None if unmasked else list(default)) if given is None else given  # type: ignore[literal-required]
    return host


def _bindings(given: list[PortBinding] | None) -> list[PortBinding] | None:
    if given is None:
        return None
    return [PortBinding(HostIp=one.get("HostIp") or "", HostPort=one.get("HostPort") or "") for one in given]


def _logging(asked: HostConfig, daemon: DaemonConfig) -> Any:
    """The daemon's options are defaults for its own driver only (moby daemon/logs.go mergeAndVerifyLogConfig)."""
    given = asked.get("LogConfig") or {}
    driver, options = given.get("Type") or daemon.log_driver, given.get("Config") or {}
    return {"Type": driver, "Config": ({**daemon.log_opts} if driver == daemon.log_driver else {}) | options}

"""The shapes of a container's configuration as Docker's API spells them, shared by edge and engine.

One definition serves three masters: `api` validates request bodies against these (pydantic
TypeAdapter), the engine stores them as they are, `inspect` returns them. Fields are those of API 1.51
(moby api/types/container); all are optional on the way in, and JSON null means the zero value.
"""

from __future__ import annotations

from typing import Any, TypedDict


class HealthConfig(TypedDict, total=False):
    """Times are nanoseconds; 0 inherits. Test: [], ["NONE"], ["CMD", ...] or ["CMD-SHELL", line]."""

    Test: list[str] | None
    Interval: int
    Timeout: int
    Retries: int
    StartPeriod: int
    StartInterval: int


class Config(TypedDict, total=False):
    """What belongs to the container wherever it runs; images carry one too."""

    Hostname: str
    Domainname: str
    User: str
    AttachStdin: bool
    AttachStdout: bool
    AttachStderr: bool
    ExposedPorts: dict[str, Any] | None
    Tty: bool
    OpenStdin: bool
    StdinOnce: bool
    Env: list[str] | None
    Cmd: list[str] | str | None
    Healthcheck: HealthConfig | None
    ArgsEscaped: bool
    Image: str
    Volumes: dict[str, Any] | None
    WorkingDir: str
    Entrypoint: list[str] | str | None
    NetworkDisabled: bool
    MacAddress: str
    OnBuild: list[str] | None
    Labels: dict[str, str] | None
    StopSignal: str
    StopTimeout: int | None
    Shell: list[str] | None


class LogConfig(TypedDict, total=False):
    Type: str
    Config: dict[str, str] | None


class PortBinding(TypedDict, total=False):
    HostIp: str
    HostPort: str


class RestartPolicy(TypedDict, total=False):
    Name: str
    MaximumRetryCount: int


class ThrottleDevice(TypedDict, total=False):
    Path: str
    Rate: int


class WeightDevice(TypedDict, total=False):
    Path: str
    Weight: int


class DeviceMapping(TypedDict, total=False):
    PathOnHost: str
    PathInContainer: str
    CgroupPermissions: str


class DeviceRequest(TypedDict, total=False):
    Driver: str
    Count: int
    DeviceIDs: list[str] | None
    Capabilities: list[list[str]] | None
    Options: dict[str, str] | None


class Ulimit(TypedDict, total=False):
    Name: str
    Soft: int
    Hard: int


class Resources(TypedDict, total=False):
    """Limits; bytes for memory, nanoCPUs (1e-9 of a processor) for NanoCpus, microseconds for periods."""

    CpuShares: int
    Memory: int
    NanoCpus: int
    CgroupParent: str
    BlkioWeight: int
    BlkioWeightDevice: list[WeightDevice] | None
    BlkioDeviceReadBps: list[ThrottleDevice] | None
    BlkioDeviceWriteBps: list[ThrottleDevice] | None
    BlkioDeviceReadIOps: list[ThrottleDevice] | None
    BlkioDeviceWriteIOps: list[ThrottleDevice] | None
    CpuPeriod: int
    CpuQuota: int
    CpuRealtimePeriod: int
    CpuRealtimeRuntime: int
    CpusetCpus: str
    CpusetMems: str
    Devices: list[DeviceMapping] | None
    DeviceCgroupRules: list[str] | None
    DeviceRequests: list[DeviceRequest] | None
    KernelMemory: int
    KernelMemoryTCP: int
    MemoryReservation: int
    MemorySwap: int
    MemorySwappiness: int | None
    OomKillDisable: bool | None
    PidsLimit: int | None
    Ulimits: list[Ulimit] | None
    CpuCount: int
    CpuPercent: int
    IOMaximumIOps: int
    IOMaximumBandwidth: int


class Mount(TypedDict, total=False):
    """One entry of HostConfig.Mounts (`--mount`)."""

    Type: str
    Source: str
    Target: str
    ReadOnly: bool
    Consistency: str
    BindOptions: dict[str, Any] | None
    VolumeOptions: dict[str, Any] | None
    ImageOptions: dict[str, Any] | None
    TmpfsOptions: dict[str, Any] | None


class HostConfig(Resources, total=False):
    """What ties the container to this machine."""

    Binds: list[str] | None
    ContainerIDFile: str
    LogConfig: LogConfig
    NetworkMode: str
    PortBindings: dict[str, list[PortBinding] | None] | None
    RestartPolicy: RestartPolicy
    AutoRemove: bool
    VolumeDriver: str
    VolumesFrom: list[str] | None
    ConsoleSize: list[int] | None
    Annotations: dict[str, str] | None
    Mounts: list[Mount] | None
    CapAdd: list[str] | None
    CapDrop: list[str] | None
    CgroupnsMode: str
    Dns: list[str] | None
    DnsOptions: list[str] | None
    DnsSearch: list[str] | None
    ExtraHosts: list[str] | None
    GroupAdd: list[str] | None
    IpcMode: str
    Cgroup: str
    Links: list[str] | None
    OomScoreAdj: int
    PidMode: str
    Privileged: bool
    PublishAllPorts: bool
    ReadonlyRootfs: bool
    SecurityOpt: list[str] | None
    StorageOpt: dict[str, str] | None
    Tmpfs: dict[str, str] | None
    UTSMode: str
    UsernsMode: str
    ShmSize: int
    Sysctls: dict[str, str] | None
    Runtime: str
    Isolation: str
    MaskedPaths: list[str] | None
    ReadonlyPaths: list[str] | None
    Init: bool | None


class EndpointIPAMConfig(TypedDict, total=False):
    IPv4Address: str
    IPv6Address: str
    LinkLocalIPs: list[str] | None


class EndpointSettings(TypedDict, total=False):
    IPAMConfig: EndpointIPAMConfig | None
    Links: list[str] | None
    Aliases: list[str] | None
    MacAddress: str
    DriverOpts: dict[str, str] | None
    GwPriority: int
    NetworkID: str
    EndpointID: str
    Gateway: str
    IPAddress: str
    IPPrefixLen: int
    IPv6Gateway: str
    GlobalIPv6Address: str
    GlobalIPv6PrefixLen: int
    DNSNames: list[str] | None


class NetworkingConfig(TypedDict, total=False):
    EndpointsConfig: dict[str, EndpointSettings | None] | None


class CreateRequest(Config, total=False):
    """Body of POST /containers/create: Config with two more members beside it."""

    HostConfig: HostConfig | None
    NetworkingConfig: NetworkingConfig | None

"""Answers, as openapi.yaml describes them; the engine makes them as plain dicts and nothing checks them
at run time. Field names are Docker's (moby api/swagger.yaml). A class that is not `total` may leave
fields out; objects that are Docker's own nests of settings stay `dict`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from daemon.containers.wire import Config, HostConfig

Json = dict[str, Any]


class IdResponse(TypedDict):
    Id: str


class SystemVersion(TypedDict, total=False):
    Platform: dict[str, str]
    Components: list[Json]
    Version: str
    ApiVersion: str
    MinAPIVersion: str
    GitCommit: str
    GoVersion: str
    Os: str
    Arch: str
    KernelVersion: str
    Experimental: bool
    BuildTime: str


class SystemInfo(TypedDict, total=False):
    ID: str
    Containers: int
    ContainersRunning: int
    ContainersPaused: int
    ContainersStopped: int
    Images: int
    Driver: str
    DriverStatus: list[list[str]]
    DockerRootDir: str
    Plugins: Json
    MemoryLimit: bool
    SwapLimit: bool
    CpuCfsPeriod: bool
    CpuCfsQuota: bool
    CPUShares: bool
    CPUSet: bool
    PidsLimit: bool
    OomKillDisable: bool
    IPv4Forwarding: bool
    Debug: bool
    NFd: int
    NGoroutines: int
    SystemTime: str
    LoggingDriver: str
    CgroupDriver: str
    CgroupVersion: str
    NEventsListener: int
    KernelVersion: str
    OperatingSystem: str
    OSVersion: str
    OSType: str
    Architecture: str
    NCPU: int
    MemTotal: int
    IndexServerAddress: str
    RegistryConfig: Json | None
    GenericResources: list[Json] | None
    HttpProxy: str
    HttpsProxy: str
    NoProxy: str
    Name: str
    Labels: list[str] | None
    ExperimentalBuild: bool
    ServerVersion: str
    Runtimes: dict[str, Json]
    DefaultRuntime: str
    Swarm: Json
    LiveRestoreEnabled: bool
    Isolation: str
    InitBinary: str
    ContainerdCommit: Json
    RuncCommit: Json
    InitCommit: Json
    SecurityOptions: list[str]
    ProductLicense: str
    DefaultAddressPools: list[Json]
    FirewallBackend: Json
    KernelMemoryTCP: bool
    Containerd: Json | None
    DiscoveredDevices: list[Json] | None
    CDISpecDirs: list[str] | None
    Warnings: list[str] | None


class AuthenticateOK(TypedDict):
    Status: str
    IdentityToken: str


class EventActor(TypedDict):
    ID: str
    Attributes: dict[str, str]


class EventMessage(TypedDict):
    Type: str
    Action: str
    Actor: EventActor
    scope: str
    time: int
    timeNano: int


class ContainerCreated(TypedDict):
    Id: str
    Warnings: list[str]


class Port(TypedDict, total=False):
    IP: str
    PrivatePort: int
    PublicPort: int
    Type: str


class ContainerSummary(TypedDict, total=False):
    Id: str
    Names: list[str]
    Image: str
    ImageID: str
    Command: str
    Created: int
    Ports: list[Port]
    SizeRw: int
    SizeRootFs: int
    Labels: dict[str, str]
    State: str
    Status: str
    HostConfig: Json
    NetworkSettings: Json
    Mounts: list[Json]
    ImageManifestDescriptor: Json | None


class ContainerState(TypedDict, total=False):
    Status: str
    Running: bool
    Paused: bool
    Restarting: bool
    OOMKilled: bool
    Dead: bool
    Pid: int
    ExitCode: int
    Error: str
    StartedAt: str
    FinishedAt: str
    Health: Json | None


class ContainerInspect(TypedDict, total=False):
    Id: str
    Created: str
    Path: str
    Args: list[str]
    State: ContainerState
    Image: str
    ResolvConfPath: str
    HostnamePath: str
    HostsPath: str
    LogPath: str
    Name: str
    RestartCount: int
    Driver: str
    Platform: str
    MountLabel: str
    ProcessLabel: str
    AppArmorProfile: str
    ExecIDs: list[str] | None
    HostConfig: HostConfig
    GraphDriver: Json
    SizeRw: int
    SizeRootFs: int
    Mounts: list[Json]
    Config: Config
    NetworkSettings: Json
    ImageManifestDescriptor: Json | None


class ContainerTop(TypedDict):
    Titles: list[str]
    Processes: list[list[str]] | None


class FilesystemChange(TypedDict):
    Path: str
    Kind: int


class ContainerUpdated(TypedDict):
    Warnings: list[str] | None


class WaitError(TypedDict):
    Message: str


class _ContainerWait(TypedDict):
    StatusCode: int


class ContainerWait(_ContainerWait, total=False):
    Error: WaitError | None


class ContainerStats(TypedDict, total=False):
    name: str
    id: str
    read: str
    preread: str
    pids_stats: Json
    blkio_stats: Json
    num_procs: int
    storage_stats: Json
    cpu_stats: Json
    precpu_stats: Json
    memory_stats: Json
    networks: dict[str, Json]


class ContainersPruned(TypedDict):
    ContainersDeleted: list[str] | None
    SpaceReclaimed: int


class ProcessConfig(TypedDict, total=False):
    privileged: bool
    user: str
    tty: bool
    entrypoint: str
    arguments: list[str]


class ExecInspect(TypedDict, total=False):
    CanRemove: bool
    DetachKeys: str
    ID: str
    Running: bool
    ExitCode: int | None
    ProcessConfig: ProcessConfig
    OpenStdin: bool
    OpenStderr: bool
    OpenStdout: bool
    ContainerID: str
    Pid: int


class _ImageSummary(TypedDict):
    Id: str
    ParentId: str
    RepoTags: list[str]
    RepoDigests: list[str]
    Created: int
    Size: int
    SharedSize: int
    Labels: dict[str, str] | None
    Containers: int


class ImageSummary(_ImageSummary, total=False):
    Descriptor: Json | None
    Manifests: list[Json] | None


class ImageInspect(TypedDict, total=False):
    Id: str
    RepoTags: list[str]
    RepoDigests: list[str]
    Parent: str
    Comment: str
    Created: str
    DockerVersion: str
    Author: str
    Config: Json | None
    Architecture: str
    Variant: str
    Os: str
    OsVersion: str
    Size: int
    GraphDriver: Json
    RootFS: Json
    Metadata: Json
    Descriptor: Json | None
    Manifests: list[Json] | None


class HistoryItem(TypedDict):
    Id: str
    Created: int
    CreatedBy: str
    Tags: list[str] | None
    Size: int
    Comment: str


class ImageDeleted(TypedDict, total=False):
    Untagged: str
    Deleted: str


class ImagesPruned(TypedDict):
    ImagesDeleted: list[ImageDeleted] | None
    SpaceReclaimed: int


class SearchResult(TypedDict, total=False):
    description: str
    is_official: bool
    is_automated: bool
    name: str
    star_count: int


class DistributionInspect(TypedDict):
    Descriptor: Json
    Platforms: list[Json] | None


class ProgressDetail(TypedDict, total=False):
    current: int
    total: int


class ErrorDetail(TypedDict, total=False):
    code: int
    message: str


class Progress(TypedDict, total=False):
    """One line of pull, push, load and import."""

    id: str
    status: str
    stream: str
    progress: str
    progressDetail: ProgressDetail
    errorDetail: ErrorDetail
    error: str
    aux: Json


class Network(TypedDict, total=False):
    Name: str
    Id: str
    Created: str
    Scope: str
    Driver: str
    EnableIPv4: bool
    EnableIPv6: bool
    IPAM: Json
    Internal: bool
    Attachable: bool
    Ingress: bool
    ConfigFrom: Json
    ConfigOnly: bool
    Containers: dict[str, Json]
    Peers: list[Json] | None
    Options: dict[str, str] | None
    Labels: dict[str, str] | None


class NetworkCreated(TypedDict):
    Id: str
    Warning: str


class NetworksPruned(TypedDict):
    NetworksDeleted: list[str] | None


class _Volume(TypedDict):
    Name: str
    Driver: str
    Mountpoint: str
    Labels: dict[str, str] | None
    Scope: str
    Options: dict[str, str] | None


class Volume(_Volume, total=False):
    CreatedAt: str
    Status: Json
    UsageData: Json | None
    ClusterVolume: Json | None


class VolumeList(TypedDict):
    Volumes: list[Volume] | None
    Warnings: list[str] | None


class BuildPruned(TypedDict, total=False):
    CachesDeleted: list[str] | None
    SpaceReclaimed: int


class VolumesPruned(TypedDict):
    VolumesDeleted: list[str] | None
    SpaceReclaimed: int


class DiskUsage(TypedDict, total=False):
    LayersSize: int
    Images: list[ImageSummary] | None
    Containers: list[ContainerSummary] | None
    Volumes: list[Volume] | None
    BuildCache: list[Json] | None
    BuilderSize: int


class _Plugin(TypedDict):
    Name: str
    Enabled: bool
    Settings: Json
    Config: Json


class Plugin(_Plugin, total=False):
    Id: str
    PluginReference: str

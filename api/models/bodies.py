"""Bodies that clients send, beside those of daemon/containers/wire.py (which the engine shares).

Field names are Docker's (moby api/types); all are optional on the way in, null is the zero value.
"""

from __future__ import annotations

from typing import Any, TypedDict

from daemon.containers.wire import EndpointSettings, Resources, RestartPolicy


class UpdateRequest(Resources, total=False):
    """POST /containers/{id}/update."""

    RestartPolicy: RestartPolicy


class ExecConfig(TypedDict, total=False):
    """POST /containers/{id}/exec."""

    User: str
    Privileged: bool
    Tty: bool
    ConsoleSize: list[int] | None
    AttachStdin: bool
    AttachStdout: bool
    AttachStderr: bool
    DetachKeys: str
    Env: list[str] | None
    WorkingDir: str
    Cmd: list[str] | str | None


class ExecStartConfig(TypedDict, total=False):
    """POST /exec/{id}/start."""

    Detach: bool
    Tty: bool
    ConsoleSize: list[int] | None


class AuthConfig(TypedDict, total=False):
    """POST /auth; X-Registry-Auth carries the same."""

    username: str
    password: str
    email: str
    auth: str
    serveraddress: str
    identitytoken: str
    registrytoken: str


class IPAMConfig(TypedDict, total=False):
    Subnet: str
    IPRange: str
    Gateway: str
    AuxiliaryAddresses: dict[str, str] | None


class IPAM(TypedDict, total=False):
    Driver: str
    Config: list[IPAMConfig] | None
    Options: dict[str, str] | None


class ConfigReference(TypedDict, total=False):
    Network: str


class NetworkCreateRequest(TypedDict, total=False):
    """POST /networks/create."""

    Name: str
    CheckDuplicate: bool | None
    Driver: str
    Scope: str
    Internal: bool
    Attachable: bool
    Ingress: bool
    ConfigOnly: bool
    ConfigFrom: ConfigReference | None
    IPAM: IPAM | None
    EnableIPv4: bool | None
    EnableIPv6: bool | None
    Options: dict[str, str] | None
    Labels: dict[str, str] | None


class NetworkConnectRequest(TypedDict, total=False):
    """POST /networks/{id}/connect."""

    Container: str
    EndpointConfig: EndpointSettings | None


class NetworkDisconnectRequest(TypedDict, total=False):
    """POST /networks/{id}/disconnect."""

    Container: str
    Force: bool


class VolumeCreateRequest(TypedDict, total=False):
    """POST /volumes/create."""

    Name: str
    Driver: str
    DriverOpts: dict[str, str] | None
    Labels: dict[str, str] | None
    ClusterVolumeSpec: dict[str, Any] | None

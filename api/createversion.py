"""What a create request means to the API version it came with (moby's postContainersCreate, 28.5).

Fields that a version did not have yet are dropped, defaults that have changed since are set as that version
had them, and what was not yet checked or possible is put right or refused. `adapt` changes the request in
place and returns warnings for the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.versions import Version
from daemon.containers.wire import CreateRequest, EndpointSettings, HostConfig, Mount
from storage.errors import Internal, InvalidArgument

OPTIONS_OF = {"VolumeOptions": "volume", "BindOptions": "bind", "TmpfsOptions": "tmpfs"}
MAC_DEPRECATED = (
    "The container-wide MacAddress field is now deprecated. "
    "It should be specified in EndpointsConfig instead."
)
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
DRIVER_IGNORED = (
    "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. "
    "Use '--mount type=volume,volume-driver=...' instead"
)


def adapt(request: CreateRequest, version: Version, *, cgroups_v2: bool) -> list[str]:
    """Raises InvalidArgument for what the version cannot ask for."""
    host = request.get("HostConfig") or HostConfig()
    request["HostConfig"] = host
    endpoints = _endpoints(request, host)
    _defaults(host, version, cgroups_v2=cgroups_v2)
    _drop(request, host, version)
    for mount in host.get("Mounts") or []:
        _mount(mount, version)
    _networks(endpoints, version)
    warnings = [*_volume_driver(host, version), *_mac_address(request, host, endpoints, version)]
    return warnings + list(_sysctls(host, endpoints, version))


def _endpoints(request: CreateRequest, host: HostConfig) -> dict[str, EndpointSettings]:
    """EndpointsConfig, made if absent; what is for `default` is the default bridge's."""
    networking = request.get("NetworkingConfig") or {}
    given = {
        name: settings or EndpointSettings()
        for name, settings in (networking.get("EndpointsConfig") or {}).items()
    }
    if host.get("NetworkMode") in (None, "", "default"):
        host["NetworkMode"] = "bridge"
        if "default" in given:
            given["bridge"] = given.pop("default")
    request["NetworkingConfig"] = {"EndpointsConfig": given}  # type: ignore[typeddict-item]
    return given


def _defaults(host: HostConfig, version: Version, *, cgroups_v2: bool) -> None:
    if version < (1, 25):
        host["AutoRemove"] = False  # the client removed the container
    if version < (1, 40) and not host.get("IpcMode"):
        host["IpcMode"] = "shareable"
    if version < (1, 41) and not cgroups_v2 and not host.get("CgroupnsMode"):
        host["CgroupnsMode"] = "host"


def _drop(request: CreateRequest, host: HostConfig, version: Version) -> None:
    """Fields younger than the version, and those that newer versions have no more."""
    if version < (1, 40):
        host.pop("KernelMemoryTCP", None)
    if version < (1, 42):
        host["ConsoleSize"] = [0, 0]
    else:
        host.pop("KernelMemory", None)
    if version < (1, 43):
        host.pop("Annotations", None)
    health = request.get("Healthcheck")
    if version < (1, 44) and health:
        health.pop("StartInterval", None)
    if (host.get("PidsLimit") or 0) <= 0:
        host.pop("PidsLimit", None)


def _mount(mount: Mount, version: Version) -> None:
    kind = mount.get("Type")
    bind: dict[str, Any] = mount.get("BindOptions") or {}
    if version < (1, 40):
        bind.pop("NonRecursive", None)
    if version < (1, 42):
        bind.pop("CreateMountpoint", None)
    _options_of_type(mount, version)
    if version < (1, 44) and kind == "bind" and bind.get("ReadOnlyForceRecursive"):
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < (1, 45) and (mount.get("VolumeOptions") or {}).get("Subpath"):
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48) and kind == "image":
        raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')


def _options_of_type(mount: Mount, version: Version) -> None:
    """Options of another type of mount were not looked at before 1.42, and are refused since."""
    for field, kind in OPTIONS_OF.items():
        if mount.get(field) is None or mount.get("Type") == kind:
            continue
        if version >= (1, 42):
            raise InvalidArgument(f'{field} must not be specified on mount type "{mount.get("Type", "")}"')
        if field != "BindOptions":
            mount.pop(field)  # type: ignore[misc]


def _networks(endpoints: dict[str, EndpointSettings], version: Version) -> None:
    if version < (1, 44) and len(endpoints) > 1:
        raise InvalidArgument(
            f"Container cannot be created with multiple network endpoints: {', '.join(endpoints)}"
        )
    if version < (1, 48):
        for settings in endpoints.values():
            settings.pop("GwPriority", None)


def _volume_driver(host: HostConfig, version: Version) -> Iterator[str]:
    if not host.get("VolumeDriver") or version < (1, 48):
        return
    for mount in host.get("Mounts") or []:
        driver: dict[str, Any] = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        if mount.get("Type") == "volume" and not driver.get("Name"):
            yield DRIVER_IGNORED
            return


def _mac_address(
    request: CreateRequest, host: HostConfig, endpoints: dict[str, EndpointSettings], version: Version
) -> Iterator[str]:
    """One container-wide address became one for each endpoint with 1.44."""
    address, mode = request.get("MacAddress"), host["NetworkMode"]
    joins = mode not in ("host", "none") and not mode.startswith("container:")
    if version < (1, 44):
        if not address:
            for settings in endpoints.values():
                settings.pop("MacAddress", None)
        elif not joins:
            raise InvalidArgument("conflicting options: mac-address and the network mode")
        else:
            _endpoint_for(mode, endpoints, version)["MacAddress"] = address
        return
    if not address:
        return
    if joins:
        try:
            settings = _endpoint_for(mode, endpoints, version)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"unable to migrate container-wide MAC address to a specific network: {error}"
            ) from None
        if settings.setdefault("MacAddress", address) != address:
            raise InvalidArgument(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main "
                "network, or be left empty"
            )
    request["MacAddress"] = ""
    yield MAC_DEPRECATED


def _sysctls(host: HostConfig, endpoints: dict[str, EndpointSettings], version: Version) -> Iterator[str]:
    """Parameters of eth0 became the endpoint's with 1.46: the interface is not there when the others are set.

    Raises Internal, as dockerd, from 1.48 on and for other interfaces, whose names were never to be relied on.
    """
    mode = host["NetworkMode"]
    asked = host.get("Sysctls") or {}
    found = [(name, name.split(".", 4)) for name in asked]
    found = [(name, w) for name, w in found if len(w) == 5 and w[0] == "net" and w[3].startswith("eth")]
    if not found or mode == "host" or mode.startswith("container:"):
        return
    if version >= (1, 48):
        raise Internal(
            f'interface specific sysctl setting "{found[0][0]}" must be supplied using driver option '
            f"'{ENDPOINT_SYSCTLS}'"
        )
    try:
        settings = _endpoint_for(mode, endpoints, version)
    except InvalidArgument as error:
        raise InvalidArgument(f"unable to find a network for sysctl {found[0][0]}: {error}") from None
    for name, words in found:
        if words[3] != "eth0":
            raise Internal(
                f"unable to determine network endpoint for sysctl {name}, use driver option "
                f"'{ENDPOINT_SYSCTLS}' to set per-interface sysctls"
            )
    moved = ",".join(f"net.{w[1]}.{w[2]}.IFNAME.{w[4]}={asked.pop(name)}" for name, w in found)
    options = settings.get("DriverOpts") or {}
    old = options.get(ENDPOINT_SYSCTLS)
    settings["DriverOpts"] = {**options, ENDPOINT_SYSCTLS: moved if old is None else f"{moved},{old}"}
    names = ",".join(name for name, _ in found)
    yield f'Migrated sysctl "{names}" to DriverOpts{{"{ENDPOINT_SYSCTLS}":"{moved}"}}.'


def _endpoint_for(mode: str, endpoints: dict[str, EndpointSettings], version: Version) -> EndpointSettings:
    """The settings of the network that NetworkMode names; any one's before 1.44, which had but one."""
    if not endpoints:
        endpoints[mode] = EndpointSettings()
    if version < (1, 44):
        return next(iter(endpoints.values()))
    if mode not in endpoints:
        raise InvalidArgument(
            "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
        )
    return endpoints[mode]

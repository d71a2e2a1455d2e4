"""Rules of `create` that look at more than one number: ports, hosts, mounts' options, neighbours, storage.

Beside validate.py, which has limits and modes. Texts and statuses are dockerd's, observed against 28.5;
where it accepts what can only fail or be ignored later, we refuse here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from daemon.containers.registry import Registry
from daemon.containers.wire import Config, HostConfig, Mount
from daemon.sizes import ram_in_bytes
from storage.errors import InvalidArgument, NotFound

_MAC = re.compile(r"(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$")
_MAXIMUM_PORT = 65535
_OPTIONS = {
    "bind": "BindOptions",
    "volume": "VolumeOptions",
    "image": "ImageOptions",
    "tmpfs": "TmpfsOptions",
}
_TMPFS_FLAGS = ("exec", "noexec")


def check(config: Config, host: HostConfig, registry: Registry, *, limits: bool = False) -> Iterator[str]:
    """Warnings. Raises InvalidArgument, NotFound (a volume driver). `limits`: file systems can have a size."""
    _annotations(host)
    _addresses(host)
    _ports(config, host)
    _neighbours(host, registry)
    for mount in host.get("Mounts") or []:
        _mount(mount)
    if any(mount.get("Type") == "image" for mount in host.get("Mounts") or []):
        yield "Image mount is an experimental feature"
    _storage(host, limits=limits)
    _realtime(host)
    if host.get("Cgroup"):
        raise InvalidArgument(f"invalid cgroup {host['Cgroup']}: only CgroupParent can be chosen")
    yield from _windows(host)


def _annotations(host: HostConfig) -> None:
    if "" in (host.get("Annotations") or {}):
        raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")


def _addresses(host: HostConfig) -> None:
    for entry in host.get("ExtraHosts") or []:
        name, colon, address = entry.partition(":")
        if not colon or not name:
            raise InvalidArgument(f'bad format for add-host: "{entry}"')
        if address != "host-gateway" and not _is_address(address.removeprefix("[").removesuffix("]")):
            raise InvalidArgument(f'invalid IP address in add-host: "{address}"')


def check_mac(network: str, address: str) -> None:
    """Raises InvalidArgument for what is no MAC address; none is fine."""
    if address and not _MAC.match(address):
        raise InvalidArgument(f"invalid config for network {network}: invalid MAC address {address}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ports(config: Config, host: HostConfig) -> None:
    for key in (*(config.get("ExposedPorts") or {}), *(host.get("PortBindings") or {})):
        number, _, protocol = key.partition("/")
        if not _is_range(number) or (protocol or "tcp").lower() not in ("tcp", "udp", "sctp"):
            raise InvalidArgument(f'invalid port specification: "{key}"')
    for bindings in (host.get("PortBindings") or {}).values():
        for binding in bindings or []:
            port = binding.get("HostPort") or ""
            if port and not _is_range(port):
                raise InvalidArgument(f'invalid port specification: "{port}"')


def _is_range(text: str) -> bool:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        return False
    return int(first) <= int(last or first) <= _MAXIMUM_PORT


def _neighbours(host: HostConfig, registry: Registry) -> None:
    for field in ("PidMode", "IpcMode"):
        mode = str(host.get(field) or "")
        if mode.startswith("container:"):
            try:
                registry.find(mode.partition(":")[2])
            except NotFound as error:
                raise InvalidArgument(str(error)) from None
    if host.get("Links") and host.get("NetworkMode") == "host":
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )


def _mount(mount: Mount) -> None:
    kind = mount.get("Type") or ""
    for other, name in _OPTIONS.items():
        if other != kind and mount.get(name) is not None and kind in _OPTIONS:
            raise InvalidArgument(f'{name} must not be specified on mount type "{kind}"')
    if kind == "volume":
        _subpath(kind, (mount.get("VolumeOptions") or {}).get("Subpath") or "")
    if kind == "image":
        _subpath(kind, (mount.get("ImageOptions") or {}).get("Subpath") or "")
    for option in (mount.get("TmpfsOptions") or {}).get("Options") or []:
        if not option or option[0] not in _TMPFS_FLAGS or len(option) != 1:
            shown = option[0] if option else ""
            raise InvalidArgument(f'invalid mount config for type "tmpfs": invalid option: {shown}')


def _subpath(kind: str, path: str) -> None:
    if path.startswith("/") or ".." in path.split("/"):
        raise InvalidArgument(
            f'invalid mount config for type "{kind}": subpath must be a relative path within the volume'
        )


def storage_limit(host: HostConfig) -> int:
    """Bytes of `--storage-opt size=`, 0 without. Raises InvalidArgument (moby overlay2 parseStorageOpt)."""
    limit = 0
    for key, value in (host.get("StorageOpt") or {}).items():
        if key.lower() != "size":
            raise InvalidArgument(f"Unknown option {key}")
        try:
            limit = ram_in_bytes(value)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
    return limit


def _storage(host: HostConfig, *, limits: bool) -> None:
    options = host.get("StorageOpt") or {}
    if not limits and any(key.lower() == "size" for key in options):
        raise InvalidArgument(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
        )
    storage_limit(host)


def _realtime(host: HostConfig) -> None:
    runtime, period = host.get("CpuRealtimeRuntime") or 0, host.get("CpuRealtimePeriod") or 0
    if runtime and period and runtime > period:
        raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")


def _windows(host: HostConfig) -> Iterator[str]:
    if host.get("IOMaximumBandwidth"):
        raise InvalidArgument("invalid option: QoS maximum bandwidth configuration is not supported on linux")
    if host.get("IOMaximumIOps"):
        raise InvalidArgument("invalid option: QoS maximum IOPs configuration is not supported on linux")
    if host.get("CpuPercent"):
        yield "linux does not support CPU percent. Percent discarded."
    if host.get("CpuCount"):
        yield "linux does not support CPU count. Count discarded."

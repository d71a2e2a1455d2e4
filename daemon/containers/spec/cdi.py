"""CDI devices (`--device vendor.com/class=name`): spec files of vendors, applied to the OCI spec.

Model
    A *spec file* (JSON or YAML, in one of the spec directories) is of one *kind*, `vendor.com/class`, and has
    devices. A *qualified name*, `vendor.com/class=name`, means one of them. *Edits* say what changes in the
    OCI spec: those of the file apply once for all its devices, those of a device for it alone.

    catalogue(directories)    qualified name → Device; a later directory wins over an earlier one, and a name
                              that two files of the same directory claim means nothing (as moby's cache does)
    inject(spec, names, ...)  edits the OCI spec in place

Files that cannot be read or break the rules are logged and left out. Edits that pyd does not carry out (hooks,
Intel RDT, network devices) are refused when their device is asked for: half a device is no device.
Source: CDI SPEC.md 0.3 to 1.1 (github.com/cncf-tags/container-device-interface); texts are those of moby 28.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.containers.wire import DeviceRequest
from storage.errors import Internal, InvalidArgument

log = logging.getLogger("pyd.cdi")

VERSIONS = ("0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
GPU_KINDS = ("nvidia.com/gpu", "amd.com/gpu")
SUFFIXES = (".json", ".yaml", ".yml")

_VENDOR_OR_CLASS = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_KIND = re.compile(rf"{_VENDOR_OR_CLASS}/{_VENDOR_OR_CLASS}\Z")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?\Z")
_FIELDS = frozenset(("cdiVersion", "kind", "annotations", "devices", "containerEdits"))
_DEVICE_FIELDS = frozenset(("name", "annotations", "containerEdits"))
_NODE_FIELDS = frozenset(
    ("path", "hostPath", "type", "major", "minor", "fileMode", "permissions", "uid", "gid")
)
_MOUNT_FIELDS = frozenset(("hostPath", "containerPath", "options", "type"))
_DONE = ("env", "deviceNodes", "mounts", "additionalGids")
_NOT_DONE = ("hooks", "intelRdt", "netDevices")


class BadSpec(ValueError):
    """A spec file breaks the rules; says where."""


@dataclass(frozen=True)
class Edits:
    env: tuple[str, ...] = ()
    nodes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    groups: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    """Names of edits that are asked for and not carried out."""


@dataclass(frozen=True)
class Device:
    name: str
    """Qualified."""
    path: Path
    common: Edits
    own: Edits


# -- reading


def discovered(directories: Sequence[Path]) -> tuple[list[dict[str, str]], list[str]]:
    """Docker's `DiscoveredDevices`, and warnings about files that are left out. Blocking."""
    problems: list[str] = []
    names = sorted(catalogue(directories, problems))
    return [{"Source": "cdi", "ID": name} for name in names], problems


def catalogue(directories: Sequence[Path], problems: list[str] | None = None) -> dict[str, Device]:
    """All devices by qualified name. Blocking; costs a listing where there are no spec files.

    What is wrong with files is logged, or added to `problems`.
    """
    found: dict[str, Device] = {}
    for directory in directories:
        here: dict[str, Device] = {}
        clashing: set[str] = set()
        for path in _spec_files(directory):
            for device in _devices(path, problems):
                if device.name in here:
                    other = here[device.name].path
                    _tell(problems, path, f'conflicting device "{device.name}" (specs "{other}", "{path}")')
                    clashing.add(device.name)
                here[device.name] = device
        found |= here
        for name in clashing:
            del found[name]
    return found


def _spec_files(directory: Path) -> list[Path]:
    try:
        return sorted(p for p in directory.iterdir() if p.suffix in SUFFIXES and p.is_file())
    except OSError:
        return []


def _devices(path: Path, problems: list[str] | None) -> list[Device]:
    try:
        return parse(_load(path), path)
    except (BadSpec, OSError, ValueError) as error:
        _tell(problems, path, f'failed to load CDI Spec "{path}": {error}')
        return []


def _tell(problems: list[str] | None, path: Path, problem: str) -> None:
    if problems is None:
        log.warning("%s", problem)
    else:
        problems.append(f"CDI: Error associated with spec file {path}: {problem}")


def _load(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".json":
        return json.loads(text)
    import yaml  # only who has such files pays for it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadSpec(str(error)) from None


def parse(raw: Any, path: Path) -> list[Device]:
    """The devices of one file's content. Raises BadSpec."""
    top = _object(raw, "spec", _FIELDS)
    if top.get("cdiVersion") not in VERSIONS:
        raise BadSpec(f"invalid version {top.get('cdiVersion')!r}, should be one of {', '.join(VERSIONS)}")
    kind = top.get("kind")
    if not isinstance(kind, str) or not _KIND.match(kind):
        raise BadSpec(f"invalid vendor/class {kind!r}")
    common = _edits(top.get("containerEdits") or {}, "spec")
    devices: dict[str, Device] = {}
    for entry in _list(top.get("devices"), "devices"):
        device = _object(entry, "device", _DEVICE_FIELDS)
        name = device.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            raise BadSpec(f"invalid device name {name!r}")
        own = _edits(device.get("containerEdits") or {}, f'device "{name}"')
        if own == Edits():
            raise BadSpec(f'invalid device "{name}", empty device edits')
        if name in devices:
            raise BadSpec(f'invalid spec, multiple device "{name}"')
        devices[name] = Device(f"{kind}={name}", path, common, own)
    if not devices:
        raise BadSpec("invalid spec, no devices")
    return list(devices.values())


def _object(value: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadSpec(f"{where}: not an object")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise BadSpec(f"{where}: unknown field {unknown[0]!r}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadSpec(f"{where}: not a list")
    return value


def _edits(raw: Any, where: str) -> Edits:
    edits = _object(raw, f"{where}: containerEdits", (*_DONE, *_NOT_DONE))
    env = _list(edits.get("env"), f"{where}: env")
    for entry in env:
        if not isinstance(entry, str) or entry.find("=") <= 0:
            raise BadSpec(f"{where}: invalid environment variable {entry!r}")
    groups = _list(edits.get("additionalGids"), f"{where}: additionalGids")
    if not all(isinstance(group, int) and 0 <= group < 1 << 32 for group in groups):
        raise BadSpec(f"{where}: invalid additionalGids {groups!r}")
    return Edits(
        tuple(env),
        tuple(_node(node, where) for node in _list(edits.get("deviceNodes"), f"{where}: deviceNodes")),
        tuple(_mount(mount, where) for mount in _list(edits.get("mounts"), f"{where}: mounts")),
        tuple(group for group in groups if group),
        tuple(name for name in _NOT_DONE if edits.get(name)),
    )


def _node(raw: Any, where: str) -> dict[str, Any]:
    node = _object(raw, f"{where}: device node", _NODE_FIELDS)
    if not isinstance(node.get("path"), str) or not node["path"].startswith("/"):
        raise BadSpec(f"{where}: invalid device node, path {node.get('path')!r}")
    if node.get("type") not in (None, "", "b", "c", "u", "p"):
        raise BadSpec(f'{where}: device "{node["path"]}": invalid type "{node["type"]}"')
    if set(node.get("permissions") or "") - set("rwm"):
        raise BadSpec(f'{where}: device "{node["path"]}": invalid permissions "{node["permissions"]}"')
    for name in ("major", "minor", "fileMode", "uid", "gid"):
        if not isinstance(node.get(name, 0), int):
            raise BadSpec(f'{where}: device "{node["path"]}": invalid {name} {node[name]!r}')
    return node


def _mount(raw: Any, where: str) -> dict[str, Any]:
    mount = _object(raw, f"{where}: mount", _MOUNT_FIELDS)
    for name in ("hostPath", "containerPath"):
        if not isinstance(mount.get(name), str) or not mount[name]:
            raise BadSpec(f"{where}: invalid mount, empty {name}")
    options = _list(mount.get("options"), f"{where}: mount options")
    if not all(isinstance(option, str) for option in options):
        raise BadSpec(f"{where}: invalid mount options {options!r}")
    return mount


# -- asking for devices


def apply_requests(
    spec: dict[str, Any], requests: list[DeviceRequest] | None, directories: Sequence[Path]
) -> None:
    """Serves HostConfig.DeviceRequests. Raises InvalidArgument, Internal with dockerd's texts. Blocking."""
    for request in requests or ():
        available = catalogue(directories)
        if request.get("Driver") == "cdi":
            if request.get("Count"):
                raise InvalidArgument("unexpected count in CDI device request")
            if request.get("Options"):
                raise InvalidArgument("unexpected options in CDI device request")
            names = request.get("DeviceIDs") or []
        else:
            names = _gpus(request, available)
        inject(spec, names, available)


def _gpus(request: DeviceRequest, available: dict[str, Device]) -> list[str]:
    """`--gpus` in terms of CDI: all, a count, or single ones of the vendor that has some here."""
    driver = request.get("Driver") or ""
    alternatives = request.get("Capabilities") or []
    kind = next((k for k in GPU_KINDS if any(name.startswith(f"{k}=") for name in available)), None)
    if driver not in ("", "nvidia", "amd") or kind is None or not any("gpu" in each for each in alternatives):
        shown = " ".join(f"[{' '.join(each)}]" for each in alternatives)
        raise Internal(f'could not select device driver "{driver}" with capabilities: [{shown}]')
    chosen = request.get("DeviceIDs") or []
    if chosen:
        return [f"{kind}={each}" for each in chosen]
    count = request.get("Count") or 0
    if count < 0 and f"{kind}=all" in available:
        return [f"{kind}=all"]
    single = sorted(name for name in available if re.match(rf"{re.escape(kind)}=\d+\Z", name))
    if count < 0:
        return single
    return single[:count] if count <= len(single) else [f"{kind}={index}" for index in range(count)]


def inject(spec: dict[str, Any], names: Sequence[str], available: dict[str, Device]) -> None:
    """Edits the OCI spec in place. Raises Internal, and then nothing was edited."""
    unresolved = [name for name in names if name not in available]
    if unresolved:
        raise Internal(f"CDI device injection failed: unresolvable CDI devices {', '.join(unresolved)}")
    every: list[Edits] = []
    files: set[Path] = set()
    for device in (available[name] for name in names):
        _refuse(device)
        if device.path not in files:
            files.add(device.path)
            every.append(device.common)
        every.append(device.own)
    nodes = [_completed(node) for edits in every for node in edits.nodes]
    for node in nodes:
        _add_node(spec, *node)
    for edits in every:
        _add_rest(spec, edits)


def _refuse(device: Device) -> None:
    refused = sorted({*device.common.refused, *device.own.refused})
    if refused:
        raise Internal(
            f'CDI device injection failed: "{device.name}" ({device.path}) needs {" and ".join(refused)}, '
            "which this engine does not carry out"
        )


def _completed(raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """An OCI device and its cgroup permissions; what the file leaves out comes from the host's node."""
    node: dict[str, Any] = {"path": raw["path"], "type": raw.get("type") or ""}
    node |= {name: raw[name] for name in ("major", "minor", "uid", "gid") if name in raw}
    if raw.get("fileMode") is not None:
        node["fileMode"] = stat.S_IMODE(raw["fileMode"])
    if not node["type"] or ("major" not in node and node["type"] != "p"):
        _from_host(node, raw.get("hostPath") or raw["path"])
    if node["type"] == "u":
        node["type"] = "c"
    return node, raw.get("permissions") or "rwm"


def _from_host(node: dict[str, Any], host: str) -> None:
    failure = "CDI device injection failed: failed to inject devices: failed to stat CDI host device"
    try:
        status = os.stat(host)
    except OSError as error:
        raise Internal(f'{failure} "{host}": {(error.strerror or "").lower()}') from None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise Internal(f'{failure} "{host}": not a device node')
    if node["type"] not in ("", kind):
        raise Internal(
            f'CDI device injection failed: failed to inject devices: CDI device ("{node["path"]}", '
            f'"{host}"), host type mismatch ({node["type"]}, {kind})'
        )
    node["type"] = kind
    if kind != "p":
        node |= {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    node.setdefault("fileMode", stat.S_IMODE(status.st_mode))


def _add_node(spec: dict[str, Any], node: dict[str, Any], permissions: str) -> None:
    linux, user = spec["linux"], spec["process"]["user"]
    for name in ("uid", "gid"):
        if user.get(name):
            node.setdefault(name, user[name])
    devices = [device for device in linux.get("devices") or () if device["path"] != node["path"]]
    linux["devices"] = [*devices, node]
    if node["type"] in ("b", "c"):
        rule = {"allow": True, "access": permissions} | {k: node[k] for k in ("type", "major", "minor")}
        resources = linux.setdefault("resources", {})
        resources["devices"] = [*(resources.get("devices") or ()), rule]


def _add_rest(spec: dict[str, Any], edits: Edits) -> None:
    process = spec["process"]
    for entry in edits.env:
        prefix = entry.partition("=")[0] + "="
        process["env"] = [e for e in process.get("env") or () if not e.startswith(prefix)] + [entry]
    for mount in edits.mounts:
        kept = [m for m in spec["mounts"] if m["destination"] != mount["containerPath"]]
        spec["mounts"] = [*kept, _oci_mount(mount)]
    if edits.groups:
        groups = process["user"].get("additionalGids") or []
        process["user"]["additionalGids"] = [*groups, *(g for g in edits.groups if g not in groups)]


def _oci_mount(mount: dict[str, Any]) -> dict[str, Any]:
    options, kind = list(mount.get("options") or ()), mount.get("type") or "bind"
    if kind == "bind" and not {"bind", "rbind"} & set(options):
        options.insert(0, "rbind")
    return {
        "destination": mount["containerPath"],
        "source": mount["hostPath"],
        "type": kind,
        "options": options,
    }

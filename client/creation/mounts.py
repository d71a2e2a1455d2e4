"""`--mount`, `-v` and `--tmpfs` to the API's Mounts, Binds, Volumes and Tmpfs."""

from __future__ import annotations

import csv
import os
from typing import Any

from client.errors import ClientError
from client.values import parse_bool, parse_bytes

_FLAGS = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")
_SETUID, _SETGID, _STICKY = (
    1 << 23,
    1 << 22,
    1 << 20,
)  # Go's os.FileMode has these bits elsewhere than the kernel


def _truth(key: str, value: str, given: bool) -> bool:
    if not given:
        return True
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path.startswith(".") else path


def _put(mount: dict[str, Any], group: str, key: str, value: Any) -> None:
    mount.setdefault(group, {})[key] = value


def _put_pair(mapping: dict[str, str], text: str) -> None:
    key, _, value = text.partition("=")
    if key:
        mapping[key] = value


def _bind_option(mount: dict[str, Any], key: str, value: str, given: bool) -> bool:
    options = mount.setdefault("BindOptions", {}) if key.startswith("bind-") else {}
    if key == "bind-propagation":
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        options["NonRecursive"] = _truth(key, value, given)
    elif key == "bind-create-src":
        options["CreateMountpoint"] = _truth(key, value, given)
    elif key == "bind-recursive":
        modes = {
            "disabled": "NonRecursive",
            "writable": "ReadOnlyNonRecursive",
            "readonly": "ReadOnlyForceRecursive",
        }
        if value in modes:
            options[modes[value]] = True
        elif value != "enabled":
            raise ValueError(f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or '
                             '"readonly")')  # fmt: skip
        elif not options:
            del mount["BindOptions"]
    else:
        return False
    return True


def _volume_option(mount: dict[str, Any], key: str, value: str, given: bool) -> bool:
    if not key.startswith("volume-"):
        return False
    options = mount.setdefault("VolumeOptions", {"DriverConfig": {}})
    if key == "volume-subpath":
        options["Subpath"] = value
    elif key == "volume-nocopy":
        options["NoCopy"] = _truth(key, value, given)
    elif key == "volume-label":
        _put_pair(options.setdefault("Labels", {}), value)
    elif key == "volume-driver":
        options["DriverConfig"]["Name"] = value
    elif key == "volume-opt":
        _put_pair(options["DriverConfig"].setdefault("Options", {}), value)
    else:
        return False
    return True


def _tmpfs_option(mount: dict[str, Any], key: str, value: str) -> bool:
    if key == "tmpfs-size":
        try:
            _put(mount, "TmpfsOptions", "SizeBytes", parse_bytes(value))
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
    elif key == "tmpfs-mode":
        try:
            mode = int(value, 8)
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
        _put(mount, "TmpfsOptions", "Mode", mode)
    else:
        return False
    return True


def _general_option(mount: dict[str, Any], key: str, value: str, given: bool) -> bool:
    if key == "type":
        mount["Type"] = value.lower()
    elif key in ("source", "src"):
        mount["Source"] = _absolute(value)
    elif key in ("target", "dst", "destination"):
        mount["Target"] = value
    elif key in ("readonly", "ro"):
        mount["ReadOnly"] = _truth(key, value, given)
    elif key == "consistency":
        mount["Consistency"] = value.lower()
    elif key == "image-subpath":
        _put(mount, "ImageOptions", "Subpath", value)
    else:
        return False
    return True


def _check(mount: dict[str, Any]) -> None:
    kind = mount["Type"]
    if not kind:
        raise ValueError("type is required")
    if "Target" not in mount:
        raise ValueError("target is required")
    for group, owner in (("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs"),
                         ("ImageOptions", "image")):  # fmt: skip
        if group in mount and kind != owner:
            raise ValueError(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    options = mount.get("BindOptions", {})
    if options.get("ReadOnlyNonRecursive") and not mount.get("ReadOnly"):
        raise ValueError(
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction"
        )
    if options.get("ReadOnlyForceRecursive"):
        if not mount.get("ReadOnly"):
            raise ValueError(
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction"
            )
        if options.get("Propagation") != "rprivate":
            raise ValueError("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified "
                             "in conjunction")  # fmt: skip


def parse_mount(text: str) -> dict[str, Any]:
    """`type=bind,src=/a,dst=/b,ro`: a comma-separated record of keys and values, to an API Mount."""
    text = text.strip()
    if not text:
        raise ValueError("value is empty")
    mount: dict[str, Any] = {"Type": "volume"}
    for item in next(csv.reader([text])):
        name, equals, value = item.partition("=")
        key, given = name.lower(), bool(equals)
        if name != name.strip():
            raise ValueError(
                f"invalid option '{name.strip()}' in '{item}': option should not have whitespace"
            )
        if given and not value.strip():
            raise ValueError(f"invalid value for '{name}': value is empty")
        if given and value != value.strip():
            raise ValueError(f"invalid value for '{name}' in '{item}': value should not have whitespace")
        if not given and key not in _FLAGS:
            raise ValueError(f"invalid field '{item}' must be a key=value pair")
        if not (_general_option(mount, key, value, given) or _bind_option(mount, key, value, given)
                or _volume_option(mount, key, value, given) or _tmpfs_option(mount, key, value)):  # fmt: skip
            raise ValueError(f"unexpected key '{key}' in '{item}'")
    _check(mount)
    return _without_zeros(mount)


def _without_zeros(mount: dict[str, Any]) -> dict[str, Any]:
    """Leave out what Go's `omitempty` leaves out."""
    kept: dict[str, Any] = {}
    for key, value in mount.items():
        if isinstance(value, dict):
            kept[key] = _without_zeros(value)
        elif value:
            kept[key] = value
    return kept


def split_volume(text: str) -> tuple[str, str]:
    """(source, target) of a -v value; the source is empty for an anonymous volume."""
    if not text:
        raise ClientError("invalid empty volume spec")
    parts = text.split(":")
    if any(not part for part in parts) and len(text) > 2:
        raise ClientError(f"invalid spec: {text}: empty section between colons")
    if len(parts) > 3:
        raise ClientError(f"invalid spec: {text}: too many colons")
    return ("", text) if len(parts) == 1 or len(text) <= 2 else (parts[0], parts[1])


def sort_volumes(values: list[str]) -> tuple[list[str] | None, dict[str, dict[str, str]]]:
    """-v values to (Binds, Volumes): what names a source is a bind, a bare path an anonymous volume."""
    binds: list[str] = []
    volumes: dict[str, dict[str, str]] = {}
    for value in dict.fromkeys(values):
        source, _ = split_volume(value)
        if not source:
            volumes[value] = {}
            continue
        rest = value[len(source) :]
        binds.append((_absolute(source) if source.startswith(".") else source) + rest)
    return binds or None, volumes


def parse_tmpfs(values: list[str]) -> dict[str, str]:
    return {path: options for path, _, options in (value.partition(":") for value in values)}

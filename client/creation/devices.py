"""Devices, GPUs, block IO limits and ulimits from their flags to the API's records."""

from __future__ import annotations

import csv
import posixpath
import re
from typing import Any

from client.creation.validators import to_map
from client.errors import ClientError
from client.values import parse_bytes

_RULE = re.compile(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}")
_CDI_NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?"
)
_ULIMITS = frozenset(("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
                      "rss", "rtprio", "rttime", "sigpending", "stack"))  # fmt: skip
_RATE = ("invalid rate for device: {}. The correct format is <device-path>:<number>{}. "
         "Number must be a positive integer{}")  # fmt: skip


def cgroup_rule(text: str) -> str:
    if not _RULE.fullmatch(text):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def is_cdi_name(text: str) -> bool:
    """`vendor.com/class=name` (Container Device Interface, "qualified name")."""
    return bool(_CDI_NAME.fullmatch(text))


def _is_mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def parse_device(text: str) -> dict[str, str]:
    """`host[:container][:mode]`."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ClientError(f"bad format for path: {text}")
    source = parts[0]
    target, mode = source, "rwm"
    if len(parts) == 1:
        source = target = posixpath.normpath(source)
    elif len(parts) == 2 and _is_mode(parts[1]):
        source = target = posixpath.normpath(source)
        mode = parts[1]
    elif len(parts) == 2:
        target = posixpath.normpath(parts[1])
    else:
        target, mode = parts[1], parts[2]
        if not _is_mode(mode):
            raise ClientError(f"bad mode specified: {mode}")
    if not target.startswith("/"):
        raise ClientError(f"{target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": mode}


def _count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f'invalid count ({text}): value must be either "all" or an integer: invalid syntax'
        ) from None


def parse_gpus(text: str) -> dict[str, Any]:
    """`all`, `2`, `device=0,1`, `"capabilities=utility,device=0"`: a DeviceRequest."""
    request: dict[str, Any] = {
        "Driver": "",
        "Count": 0,
        "DeviceIDs": None,
        "Capabilities": None,
        "Options": None,
    }
    seen: set[str] = set()
    for item in next(csv.reader([text]), []):
        key, equals, value = item.partition("=")
        if key in seen:
            raise ValueError(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if not equals:
            seen.add("count")
            request["Count"] = _count(key)
        elif key == "driver":
            request["Driver"] = value
        elif key == "count":
            request["Count"] = _count(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = to_map(next(csv.reader([value]), []))
        else:
            raise ValueError(f"unexpected key '{key}' in '{item}'")
    if "count" not in seen and request["DeviceIDs"] is None:
        request["Count"] = 1
    request["Options"] = request["Options"] or {}
    request["Capabilities"] = request["Capabilities"] or [["gpu"]]
    return request


def _device_path(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def throttle_bytes(text: str) -> dict[str, Any]:
    path, value = _device_path(text)
    try:
        return {"Path": path, "Rate": parse_bytes(value)}
    except ValueError:
        raise ValueError(
            _RATE.format(text, "[<unit>]", ". Unit is optional and can be kb, mb, or gb")
        ) from None


def throttle_operations(text: str) -> dict[str, Any]:
    path, value = _device_path(text)
    if not re.fullmatch("[0-9]+", value):
        raise ValueError(_RATE.format(text, "", ""))
    return {"Path": path, "Rate": int(value)}


def weight(text: str) -> dict[str, Any]:
    path, value = _device_path(text)
    if not re.fullmatch("[0-9]+", value) or (int(value) and not 10 <= int(value) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


def parse_ulimit(text: str) -> dict[str, Any]:
    """`name=soft[:hard]`; one number is both."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    numbers = limits.split(":")
    if len(numbers) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    values = []
    for number in numbers:
        try:
            values.append(int(number))
        except ValueError:
            raise ValueError(f'strconv.ParseInt: parsing "{number}": invalid syntax') from None
    soft, hard = values[0], values[-1]
    if hard != -1 and (soft == -1 or soft > hard):
        shown = "unlimited" if soft == -1 else soft
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {shown} > {hard}"
                         if soft != -1 else f"ulimit soft limit must be less than or equal to hard limit: soft: -1 "
                         f"(unlimited), hard: {hard}")  # fmt: skip
    return {"Name": name, "Hard": hard, "Soft": soft}

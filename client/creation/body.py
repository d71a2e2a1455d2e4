"""The body of POST /containers/create from the flags of `run` and `create`, field for field what docker sends."""

from __future__ import annotations

import json
import re
from typing import Any

from client.creation.devices import is_cdi_name, parse_device
from client.creation.mounts import parse_tmpfs, sort_volumes
from client.creation.networks import build_endpoints, check_mac
from client.creation.ports import build_ports
from client.creation.validators import read_pairs, to_map
from client.errors import ClientError
from client.options import Parsed


def build_body(parsed: Parsed, image: str, command: list[str]) -> dict[str, Any]:
    """ClientError where docker would refuse before asking the daemon."""
    if parsed.text("mac-address"):
        check_mac(parsed.text("mac-address"))
    swappiness = parsed.number("memory-swappiness")
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ClientError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    binds, volumes = sort_volumes(parsed.items("volume"))
    exposed, bindings = build_ports(parsed.items("publish"), parsed.items("expose"))
    body = _config(parsed, image, command, volumes, exposed)
    mode, endpoints = build_endpoints(parsed)
    body["HostConfig"] = {**_host_config(parsed, binds, bindings, mode), **_resources(parsed)}
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    if parsed.on("rm") and parsed.text("restart") not in ("", "no"):
        raise ClientError("conflicting options: cannot specify both --restart and --rm")
    return body


def _config(parsed: Parsed, image: str, command: list[str], volumes: dict[str, Any],
            exposed: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
    attach = parsed.items("attach")
    attach_stdin = "stdin" in attach or parsed.on("interactive")
    config: dict[str, Any] = {
        "Hostname": parsed.text("hostname"),
        "Domainname": parsed.text("domainname"),
        "User": parsed.text("user"),
        "AttachStdin": attach_stdin,
        "AttachStdout": not attach or "stdout" in attach,
        "AttachStderr": not attach or "stderr" in attach,
        "Tty": parsed.on("tty"),
        "OpenStdin": parsed.on("interactive"),
        "StdinOnce": parsed.on("interactive") and attach_stdin,
        "Env": _environment(parsed),
        "Cmd": command or None,
        "Image": image,
        "Volumes": volumes,
        "WorkingDir": parsed.text("workdir"),
        "Entrypoint": _entrypoint(parsed),
        "OnBuild": None,
        "Labels": to_map(_labels(parsed)),
    }
    if exposed:
        config["ExposedPorts"] = exposed
    if health := _health(parsed):
        config["Healthcheck"] = health
    if parsed.text("stop-signal"):
        config["StopSignal"] = parsed.text("stop-signal")
    if "stop-timeout" in parsed.changed:
        config["StopTimeout"] = parsed.number("stop-timeout")
    return config


def _environment(parsed: Parsed) -> list[str] | None:
    pairs = [pair for path in parsed.items("env-file") for pair in read_pairs(path, from_environment=True)]
    return pairs + parsed.items("env") or None


def _labels(parsed: Parsed) -> list[str]:
    pairs = [pair for path in parsed.items("label-file") for pair in read_pairs(path, from_environment=False)]
    return pairs + parsed.items("label")


def _entrypoint(parsed: Parsed) -> list[str] | None:
    """`--entrypoint=` resets the image's, which the API takes as one empty string."""
    return [parsed.text("entrypoint")] if "entrypoint" in parsed.changed else None


_HEALTH = (("health-interval", "Interval"), ("health-timeout", "Timeout"), ("health-start-period", "StartPeriod"),
           ("health-start-interval", "StartInterval"), ("health-retries", "Retries"))  # fmt: skip


def _health(parsed: Parsed) -> dict[str, Any] | None:
    settings = {field: parsed.number(flag) for flag, field in _HEALTH if parsed.number(flag)}
    command = parsed.text("health-cmd")
    if parsed.on("no-healthcheck"):
        if settings or command:
            raise ClientError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    for flag, field in _HEALTH:
        if settings.get(field, 0) < 0:
            raise ClientError(f"--{flag} cannot be negative")
    if command:
        settings = {"Test": ["CMD-SHELL", command], **settings}  # type: ignore[dict-item]
    return settings or None


def _mode(parsed: Parsed, flag: str, words: tuple[str, ...], problem: str, *, joins: bool = False) -> str:
    """A namespace flag: one of the words, or `container:NAME` where that may be."""
    text = parsed.text(flag)
    if text in words or (joins and re.fullmatch("container:[^:]+", text)):
        return text
    raise ClientError(f"--{flag}: {problem}")


def _restart_policy(text: str) -> dict[str, Any]:
    name, colon, count = text.partition(":")
    if colon and not name:
        raise ClientError("invalid restart policy format: no policy provided before colon")
    if count and not re.fullmatch(r"[+-]?[0-9]+", count):
        raise ClientError("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _log_config(parsed: Parsed) -> dict[str, Any]:
    driver, options = parsed.text("log-driver"), parsed.items("log-opt")
    if driver == "none" and options:
        raise ClientError(f"invalid logging opts for driver {driver}")
    return {"Type": driver, "Config": to_map(options)}


def parse_security(options: list[str]) -> list[str]:
    """Check --security-opt values; a seccomp profile's file is read and its JSON sent."""
    checked = []
    for option in options:
        key, sign, value = option.partition("=")
        if not sign and key != "no-new-privileges":
            key, sign, value = option.partition(":")
        if (not sign or not value) and key != "no-new-privileges":
            raise ClientError(f'Invalid --security-opt: "{option}"')
        if key == "seccomp" and value not in ("builtin", "unconfined"):
            option = f"seccomp={_seccomp_profile(value)}"
        checked.append(option)
    return checked


def _seccomp_profile(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"), ensure_ascii=False)
    except OSError as error:
        raise ClientError(f"opening seccomp profile ({path}) failed: open {path}: "
                          f"{(error.strerror or str(error)).lower()}") from None  # fmt: skip
    except ValueError as error:
        raise ClientError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _storage(options: list[str]) -> dict[str, str]:
    for option in options:
        if "=" not in option:
            raise ClientError("invalid storage option")
    return to_map(options)


def _capabilities(names: list[str]) -> set[str]:
    """Canonical names; ALL outdoes every other."""
    known = {name.strip().upper() for name in names} - {""}
    if "ALL" in known:
        return {"ALL"}
    return {name if name.startswith("CAP_") else f"CAP_{name}" for name in known}


def effective_capabilities(add: list[str], drop: list[str]) -> tuple[list[str], list[str]]:
    """(CapAdd, CapDrop), sorted; what is added is not dropped."""
    added, dropped = _capabilities(add), _capabilities(drop)
    return sorted(added), sorted(dropped - added)


def _host_config(
    parsed: Parsed, binds: list[str] | None, bindings: dict[str, Any], network: str
) -> dict[str, Any]:
    security = parse_security(parsed.items("security-opt"))
    open_paths = "systempaths=unconfined" in security
    security = [option for option in security if option != "systempaths=unconfined"]
    added, dropped = effective_capabilities(parsed.items("cap-add"), parsed.items("cap-drop"))
    host: dict[str, Any] = {
        "Binds": binds,
        "ContainerIDFile": parsed.text("cidfile"),
        "LogConfig": _log_config(parsed),
        "NetworkMode": network,
        "PortBindings": bindings,
        "RestartPolicy": _restart_policy(parsed.text("restart")),
        "AutoRemove": parsed.on("rm"),
        "VolumeDriver": parsed.text("volume-driver"),
        "VolumesFrom": parsed.items("volumes-from") or None,
        "ConsoleSize": [0, 0],
        "CapAdd": added or None,
        "CapDrop": dropped or None,
        "CgroupnsMode": _mode(parsed, "cgroupns", ("", "host", "private"), "invalid CGROUP mode"),
        "Dns": parsed.items("dns"),
        "DnsOptions": parsed.items("dns-option") + parsed.items("dns-opt"),
        "DnsSearch": parsed.items("dns-search"),
        "ExtraHosts": parsed.items("add-host") or None,
        "GroupAdd": parsed.items("group-add") or None,
        "IpcMode": parsed.text("ipc"),
        "Cgroup": "",
        "Links": parsed.items("link") or None,
        "OomScoreAdj": parsed.number("oom-score-adj"),
        "PidMode": _mode(parsed, "pid", ("", "host"), "invalid PID mode", joins=True),
        "Privileged": parsed.on("privileged"),
        "PublishAllPorts": parsed.on("publish-all"),
        "ReadonlyRootfs": parsed.on("read-only"),
        "SecurityOpt": security if parsed.items("security-opt") else None,
        "UTSMode": _mode(parsed, "uts", ("", "host"), "invalid UTS mode"),
        "UsernsMode": _mode(parsed, "userns", ("", "host"), "invalid USER mode"),
        "ShmSize": parsed.number("shm-size"),
        "Isolation": parsed.text("isolation"),
        "MaskedPaths": [] if open_paths else None,
        "ReadonlyPaths": [] if open_paths else None,
    }
    optional = {
        "StorageOpt": _storage(parsed.items("storage-opt")),
        "Tmpfs": parse_tmpfs(parsed.items("tmpfs")),
        "Sysctls": dict(parsed.items("sysctl")),
        "Runtime": parsed.text("runtime"),
        "Mounts": parsed.items("mount"),
        "Annotations": dict(parsed.items("annotation")),
    }
    host.update({key: value for key, value in optional.items() if value})
    if "init" in parsed.changed:
        host["Init"] = parsed.on("init")
    return host


def _resources(parsed: Parsed) -> dict[str, Any]:
    names = parsed.items("device")
    requests = parsed.items("gpus")
    cdi = [name for name in names if is_cdi_name(name)]
    if cdi:
        requests.append(
            {"Driver": "cdi", "Count": 0, "DeviceIDs": cdi, "Capabilities": None, "Options": None}
        )
    ulimits = {limit["Name"]: limit for limit in parsed.items("ulimit")}
    resources: dict[str, Any] = {
        "CpuShares": parsed.number("cpu-shares"),
        "Memory": parsed.number("memory"),
        "NanoCpus": parsed.number("cpus"),
        "CgroupParent": parsed.text("cgroup-parent"),
        "BlkioWeight": parsed.number("blkio-weight"),
        "BlkioWeightDevice": parsed.items("blkio-weight-device"),
        "BlkioDeviceReadBps": parsed.items("device-read-bps"),
        "BlkioDeviceWriteBps": parsed.items("device-write-bps"),
        "BlkioDeviceReadIOps": parsed.items("device-read-iops"),
        "BlkioDeviceWriteIOps": parsed.items("device-write-iops"),
        "CpuPeriod": parsed.number("cpu-period"),
        "CpuQuota": parsed.number("cpu-quota"),
        "CpuRealtimePeriod": parsed.number("cpu-rt-period"),
        "CpuRealtimeRuntime": parsed.number("cpu-rt-runtime"),
        "CpusetCpus": parsed.text("cpuset-cpus"),
        "CpusetMems": parsed.text("cpuset-mems"),
        "Devices": [parse_device(name) for name in names if not is_cdi_name(name)],
        "DeviceCgroupRules": parsed.items("device-cgroup-rule") or None,
        "DeviceRequests": requests or None,
        "MemoryReservation": parsed.number("memory-reservation"),
        "MemorySwap": parsed.number("memory-swap"),
        "MemorySwappiness": parsed.number("memory-swappiness"),
        "OomKillDisable": parsed.on("oom-kill-disable"),
        "PidsLimit": parsed.number("pids-limit"),
        "Ulimits": [ulimits[name] for name in sorted(ulimits)],
        "CpuCount": parsed.number("cpu-count"),
        "CpuPercent": parsed.number("cpu-percent"),
        "IOMaximumIOps": parsed.number("io-maxiops"),
        "IOMaximumBandwidth": parsed.number("io-maxbandwidth"),
    }
    return resources

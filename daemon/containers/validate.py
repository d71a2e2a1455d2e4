"""What a create or update request may ask: each rule refuses with Docker's words.

Rules and texts follow moby daemon/container.go, daemon/daemon_unix.go and runconfig; limits are bytes,
microseconds and nanoCPUs as in the API. A rule that Docker only warns about returns a warning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from daemon.containers import signals
from daemon.containers.logs import drivers
from daemon.containers.wire import Config, HealthConfig, HostConfig, Resources, RestartPolicy
from storage.errors import InvalidArgument

MINIMUM_MEMORY = 6 << 20
_POLICIES = ("no", "always", "on-failure", "unless-stopped")
_CAPABILITY_ANY = {"ALL"}
LOG_DRIVERS = drivers.DRIVERS


def check(config: Config, host: HostConfig, capabilities: frozenset[str]) -> list[str]:
    """Warnings for a create request. Raises InvalidArgument at the first rule broken."""
    _config(config)
    _modes(config, host)
    _restart(host)
    _capabilities(host, capabilities)
    warnings = list(resources(host))
    warnings += _host_limits(host)
    return warnings


def _config(config: Config) -> None:
    directory = config.get("WorkingDir") or ""
    if directory and not directory.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{directory}' is invalid, it needs to be an absolute path"
        )
    for entry in config.get("Env") or []:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {entry}")
        if "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry!r}")
    if config.get("StopSignal"):
        signals.parse(config["StopSignal"])
    timeout = config.get("StopTimeout")
    if timeout is not None and timeout < -1:
        raise InvalidArgument(f"invalid stop timeout: {timeout}")
    health = config.get("Healthcheck")
    if health:
        _health(health)


def _health(check: HealthConfig) -> None:
    for field in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        value = int(check.get(field) or 0)  # type: ignore[call-overload]
        if value and value < 1_000_000:
            raise InvalidArgument(f"{field} in Healthcheck cannot be less than 1ms")
    if (check.get("Retries") or 0) < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    test = check.get("Test") or []
    if test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Unknown Healthcheck type: {test[0]}")


def _modes(config: Config, host: HostConfig) -> None:
    network = host.get("NetworkMode") or ""
    if network.startswith("container:") and not network.partition(":")[2]:
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    if network.startswith("container:"):
        _joined_network(config, host)
    if host.get("UTSMode") not in (None, "", "host"):
        raise InvalidArgument(f"invalid UTS mode: {host['UTSMode']}")
    if host.get("UTSMode") == "host" and config.get("Hostname"):
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    _mode("PID", host.get("PidMode") or "", ("host",), container=True)
    _mode("IPC", host.get("IpcMode") or "", ("none", "private", "shareable", "host"), container=True)
    _mode("cgroup namespace", host.get("CgroupnsMode") or "", ("private", "host"), container=False)
    _mode("user namespace", host.get("UsernsMode") or "", ("host",), container=False)
    if host.get("Isolation") not in (None, "", "default"):
        raise InvalidArgument(f"invalid isolation ({host['Isolation']}): linux only supports 'default'")


def _mode(what: str, value: str, allowed: tuple[str, ...], *, container: bool) -> None:
    if not value or value in allowed:
        return
    kind, _, target = value.partition(":")
    if container and kind == "container" and target:
        return
    raise InvalidArgument(f"invalid {what} mode: {value}")


def _joined_network(config: Config, host: HostConfig) -> None:
    clashes = (
        (config.get("Hostname"), "conflicting options: hostname and the network mode"),
        (
            host.get("Links"),
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior",
        ),
        (host.get("Dns"), "conflicting options: dns and the network mode"),
        (host.get("ExtraHosts"), "conflicting options: custom host-to-IP mapping and the network mode"),
        (config.get("MacAddress"), "conflicting options: mac-address and the network mode"),
        (
            host.get("PortBindings") or host.get("PublishAllPorts"),
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            config.get("ExposedPorts"),
            "conflicting options: port exposing and the container type network mode",
        ),
    )
    for value, text in clashes:
        if value:
            raise InvalidArgument(text)


def _restart(host: HostConfig) -> None:
    policy = host.get("RestartPolicy") or RestartPolicy()
    restart_policy(policy)
    if host.get("AutoRemove") and (policy.get("Name") or "no") != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def restart_policy(policy: RestartPolicy) -> None:
    name, retries = policy.get("Name") or "", policy.get("MaximumRetryCount") or 0
    if name and name not in _POLICIES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if retries < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if retries and name != "on-failure":
        hint = " and cannot be negative" if retries < 0 else ""
        raise InvalidArgument(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{hint}"
        )


def _capabilities(host: HostConfig, known: frozenset[str]) -> None:
    for field in ("CapAdd", "CapDrop"):
        for name in host.get(field) or []:  # type: ignore[attr-defined]
            full = normalised_capability(name)
            if full not in known and full not in _CAPABILITY_ANY:
                raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')


def normalised_capability(name: str) -> str:
    """`net_admin` → `CAP_NET_ADMIN`; `all` → `ALL`."""
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _host_limits(host: HostConfig) -> Iterator[str]:
    score = host.get("OomScoreAdj") or 0
    if not -1000 <= score <= 1000:
        raise InvalidArgument(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
    if (host.get("ShmSize") or 0) < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    console = host.get("ConsoleSize")
    if console and len(console) != 2:
        raise InvalidArgument(f"invalid console size: {console}")
    for ulimit in host.get("Ulimits") or []:
        soft, hard = ulimit.get("Soft", 0), ulimit.get("Hard", 0)
        if hard != -1 and (soft > hard or soft == -1):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            )
    if host.get("OomKillDisable") and not host.get("Memory"):
        yield (
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    if host.get("KernelMemory") or host.get("KernelMemoryTCP"):
        yield "Specifying a kernel memory limit is deprecated and is ignored by this kernel."


def resources(limits: Resources) -> Iterator[str]:
    """Rules for what `create` and `update` share."""
    _memory(limits)
    _cpu(limits)
    _cpuset(limits)
    _block(limits)
    for rule in limits.get("DeviceCgroupRules") or []:
        if not re.match(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$", rule):
            raise InvalidArgument(f"invalid device cgroup rule format: '{rule}'")
    return
    yield


def _memory(limits: Resources) -> None:
    memory, swap = limits.get("Memory") or 0, limits.get("MemorySwap") or 0
    reservation = limits.get("MemoryReservation") or 0
    if memory < 0 or (0 < memory < MINIMUM_MEMORY):
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory and swap > 0 and swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swap < -1:
        raise InvalidArgument(f"invalid memory swap limit: {swap}")
    swappiness = limits.get("MemorySwappiness")
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if reservation < 0 or 0 < reservation < MINIMUM_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if memory and reservation and memory < reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")


def _cpu(limits: Resources) -> None:
    nano, period, quota = (limits.get(k) or 0 for k in ("NanoCpus", "CpuPeriod", "CpuQuota"))
    assert isinstance(nano, int) and isinstance(period, int) and isinstance(quota, int)
    if nano and period:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano and quota:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    processors = (os.cpu_count() or 1) if nano else 0  # looking it up reads /sys
    if nano < 0 or nano > processors * 1_000_000_000:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
        )
    shares = limits.get("CpuShares") or 0
    if shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({shares}): value must be a positive integer")
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidArgument(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if quota and quota != -1 and quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def _cpuset(limits: Resources) -> None:
    for field, online in (("CpusetCpus", _online_cpus), ("CpusetMems", _online_nodes)):
        text = str(limits.get(field) or "")
        if not text:
            continue
        available = online()
        try:
            wanted = parse_ranges(text)
        except ValueError:
            raise InvalidArgument(
                f"Invalid value {text} for {field.lower().replace('cpuset', 'cpuset ')}: invalid format: {text}"
            ) from None
        if not wanted <= available:
            what = "CPUs" if field == "CpusetCpus" else "memory nodes"
            raise InvalidArgument(
                f"Requested {what} are not available - requested {text}, available: {format_ranges(available)}"
            )


def parse_ranges(text: str) -> set[int]:
    """`0-2,5` → {0, 1, 2, 5}; format of cpuset(7). Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = int(first)
        high = int(last) if dash else low
        if high < low or high > 8191:
            raise ValueError(part)
        numbers.update(range(low, high + 1))
    return numbers


def format_ranges(numbers: set[int]) -> str:
    ordered, parts = sorted(numbers), []
    while ordered:
        first = last = ordered.pop(0)
        while ordered and ordered[0] == last + 1:
            last = ordered.pop(0)
        parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)


def _online_cpus() -> set[int]:
    with open("/sys/devices/system/cpu/online") as file:
        return parse_ranges(file.read().strip())


def _online_nodes() -> set[int]:
    try:
        with open("/sys/devices/system/node/online") as file:
            return parse_ranges(file.read().strip())
    except FileNotFoundError:  # a kernel without NUMA has the one node
        return {0}


def _block(limits: Resources) -> None:
    weight = limits.get("BlkioWeight") or 0
    if weight and not 10 <= weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for device in limits.get("BlkioWeightDevice") or []:
        if not 10 <= device.get("Weight", 0) <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000: {device.get('Path')}")

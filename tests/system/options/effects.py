"""`create` and `run`: each option whose effect is a field of `inspect` or a thing inside the container.

Rows of one group are given together, to one container; the groups keep apart what excludes each other.
"""

from __future__ import annotations

from typing import Any

from tests.system.options.table import Effect

HOST, CONFIG = "HostConfig.", "Config."
MIB = 1 << 20


def has(*wanted: Any) -> Any:
    """A predicate: the list (or map) holds all of these."""

    def holds(value: Any) -> bool:
        return all(item in (value or ()) for item in wanted)

    return holds


def throttle(rate: int) -> Any:
    def holds(value: Any) -> bool:
        return [device["Rate"] for device in value or ()] == [rate]

    return holds


def _host(option: str, words: str, group: str, field: str, value: Any, **rest: Any) -> Effect:
    return Effect(option, f"{option} {words}".strip(), group, {HOST + field: value}, **rest)


def _config(option: str, words: str, group: str, field: str, value: Any, **rest: Any) -> Effect:
    return Effect(option, f"{option} {words}".strip(), group, {CONFIG + field: value}, **rest)


WHO = "who"
IDENTITY = (
    Effect("--name", "--name {name}", WHO, {"Name": lambda value: value.startswith("/t")}),
    _config("--hostname", "here", WHO, "Hostname", "here", inside=("hostname", "here")),
    _config(
        "--domainname",
        "example.org",
        WHO,
        "Domainname",
        "example.org",
        inside=("cat /etc/hosts", "here.example.org"),
    ),
    _config("--label", "colour=blue", WHO, "Labels", lambda value: value["colour"] == "blue"),
    _config("--label-file", "{tmp}/labels", WHO, "Labels", lambda value: value["from-file"] == "yes"),
    _host("--annotation", "note=this", WHO, "Annotations", {"note": "this"}),
    _config("--env", "GIVEN=1", WHO, "Env", has("GIVEN=1"), inside=("env", "GIVEN=1")),
    _config("--env-file", "{tmp}/env", WHO, "Env", has("FROM_FILE=1"), inside=("env", "FROM_FILE=1")),
    _config("--entrypoint", "/bin/sh", WHO, "Entrypoint", ["/bin/sh"]),
    _config("--workdir", "/var/tmp", WHO, "WorkingDir", "/var/tmp", inside=("pwd", "/var/tmp")),
    _config("--user", "1000:1000", WHO, "User", "1000:1000", inside=("id -u", "1000")),
    _host("--group-add", "staff", WHO, "GroupAdd", ["staff"], inside=("id -G", "50")),
    _config("--stop-signal", "SIGUSR1", WHO, "StopSignal", "SIGUSR1"),
    _config("--stop-timeout", "3", WHO, "StopTimeout", 3),
    _host("--restart", "on-failure:3", WHO, "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
    _host("--runtime", "runc", WHO, "Runtime", "runc"),
    Effect("--platform", "--platform linux", WHO, {"Platform": "linux"}),
    Effect("--pull", "--pull never", WHO, {"Config.Image": "busybox"}),
    Effect(
        "--disable-content-trust",
        "--disable-content-trust",
        WHO,
        {"Config.Image": "busybox"},
        note="of the client",
    ),
    Effect("--quiet", "--quiet", WHO, {"Config.Image": "busybox"}),
    _host("--isolation", "default", WHO, "Isolation", has()),
    _host("--log-driver", "json-file", WHO, "LogConfig", lambda value: value["Type"] == "json-file"),
    _host("--log-opt", "max-size=1m", WHO, "LogConfig", lambda value: value["Config"] == {"max-size": "1m"}),
    _host("--init", "", WHO, "Init", True, inside=("cat /proc/1/cmdline", "init")),
)

NET = "network"
NETWORK = (
    _host("--network", "{net}", NET, "NetworkMode", lambda value: value.startswith("t")),
    Effect(
        "--network-alias",
        "--network-alias also",
        NET,
        {"NetworkSettings.Networks.{net}.Aliases": has("also")},
        ("ping -c 1 also", "(10."),
    ),
    Effect(
        "--ip",
        "--ip {address}",
        NET,
        {"NetworkSettings.Networks.{net}.IPAMConfig": lambda value: value["IPv4Address"].endswith(".77")},
        ("ip addr", ".77/24"),
    ),
    Effect(
        "--link-local-ip",
        "--link-local-ip 169.254.3.4",
        NET,
        {"NetworkSettings.Networks.{net}.IPAMConfig": lambda value: value["LinkLocalIPs"] == ["169.254.3.4"]},
        ("ip addr", "169.254.3.4/16"),
    ),
    Effect(
        "--mac-address",
        "--mac-address 02:42:0a:00:00:77",
        NET,
        {"NetworkSettings.Networks.{net}.MacAddress": "02:42:0a:00:00:77"},
        ("ip link", "02:42:0a:00:00:77"),
    ),
    _host(
        "--add-host",
        "db:10.1.2.3",
        NET,
        "ExtraHosts",
        ["db:10.1.2.3"],
        inside=("cat /etc/hosts", "10.1.2.3\tdb"),
    ),
    _host("--dns", "9.9.9.9", NET, "Dns", ["9.9.9.9"], inside=("cat /etc/resolv.conf", "9.9.9.9")),
    _host(
        "--dns-option", "ndots:3", NET, "DnsOptions", ["ndots:3"], inside=("cat /etc/resolv.conf", "ndots:3")
    ),
    _host(
        "--dns-search",
        "example.net",
        NET,
        "DnsSearch",
        ["example.net"],
        inside=("cat /etc/resolv.conf", "search example.net"),
    ),
    _host(
        "--publish",
        "127.0.0.1::8080",
        NET,
        "PortBindings",
        lambda value: value["8080/tcp"][0]["HostIp"] == "127.0.0.1",
    ),
    _config("--expose", "81-82", NET, "ExposedPorts", has("81/tcp", "82/tcp", "8080/tcp")),
    _host("--publish-all", "", NET, "PublishAllPorts", True),
)

LIMIT = "limits"
V1_ONLY = "your kernel does not support"
LIMITS = (
    _host("--memory", "64m", LIMIT, "Memory", 64 * MIB),
    _host("--memory-reservation", "32m", LIMIT, "MemoryReservation", 32 * MIB),
    _host("--memory-swap", "96m", LIMIT, "MemorySwap", 96 * MIB),
    _host("--memory-swappiness", "10", LIMIT, "MemorySwappiness", 10, warning=V1_ONLY),
    _host(
        "--kernel-memory",
        "48m",
        LIMIT,
        "KernelMemory",
        lambda value: not value,
        note="no effect since API 1.42",
    ),
    _host("--oom-kill-disable", "", LIMIT, "OomKillDisable", True, warning=V1_ONLY),
    _host("--oom-score-adj", "77", LIMIT, "OomScoreAdj", 77, inside=("cat /proc/self/oom_score_adj", "77")),
    _host("--cpus", "0.5", LIMIT, "NanoCpus", 500_000_000),
    _host("--cpu-shares", "512", LIMIT, "CpuShares", 512),
    _host(
        "--cpuset-cpus",
        "0",
        LIMIT,
        "CpusetCpus",
        "0",
        inside=("grep Cpus_allowed_list /proc/self/status", "\t0\n"),
    ),
    _host(
        "--cpuset-mems",
        "0",
        LIMIT,
        "CpusetMems",
        "0",
        inside=("grep Mems_allowed_list /proc/self/status", "\t0\n"),
    ),
    _host("--pids-limit", "50", LIMIT, "PidsLimit", 50),
    _host(
        "--ulimit",
        "nofile=100:200",
        LIMIT,
        "Ulimits",
        [{"Name": "nofile", "Soft": 100, "Hard": 200}],
        inside=("ulimit -n", "100"),
    ),
    _host("--shm-size", "5m", LIMIT, "ShmSize", 5 * MIB, inside=("df -m /dev/shm", " 5 ")),
    _host("--cgroup-parent", "/{name}p", LIMIT, "CgroupParent", lambda value: value.endswith("p")),
    _host("--blkio-weight", "300", LIMIT, "BlkioWeight", 300, warning=V1_ONLY),
    _host(
        "--blkio-weight-device",
        "{disk}:200",
        LIMIT,
        "BlkioWeightDevice",
        lambda value: value[0]["Weight"] == 200,
        warning=V1_ONLY,
    ),
    _host("--device-read-bps", "{disk}:1mb", LIMIT, "BlkioDeviceReadBps", throttle(MIB)),
    _host("--device-write-bps", "{disk}:2mb", LIMIT, "BlkioDeviceWriteBps", throttle(2 * MIB)),
    _host("--device-read-iops", "{disk}:100", LIMIT, "BlkioDeviceReadIOps", throttle(100)),
    _host("--device-write-iops", "{disk}:200", LIMIT, "BlkioDeviceWriteIOps", throttle(200)),
)

CFS = "quota"
QUOTA = (
    _host("--cpu-period", "50000", CFS, "CpuPeriod", 50_000),
    _host("--cpu-quota", "25000", CFS, "CpuQuota", 25_000),
)

SECURE = "security"
SECURITY = (
    _host("--cap-add", "NET_ADMIN", SECURE, "CapAdd", ["CAP_NET_ADMIN"]),
    _host(
        "--cap-drop",
        "CHOWN",
        SECURE,
        "CapDrop",
        ["CAP_CHOWN"],
        inside=("chown 1 /root 2>&1 || true", "not permitted"),
    ),
    _host(
        "--security-opt",
        "no-new-privileges",
        SECURE,
        "SecurityOpt",
        ["no-new-privileges"],
        inside=("grep NoNewPrivs /proc/self/status", "1"),
    ),
    _host(
        "--sysctl",
        "net.ipv4.ip_default_ttl=44",
        SECURE,
        "Sysctls",
        {"net.ipv4.ip_default_ttl": "44"},
        inside=("cat /proc/sys/net/ipv4/ip_default_ttl", "44"),
    ),
    _host("--cgroupns", "private", SECURE, "CgroupnsMode", "private"),
    _host("--ipc", "shareable", SECURE, "IpcMode", "shareable"),
    _host("--pid", "host", SECURE, "PidMode", "host", inside=("ls /proc | wc -l", "")),
    _host("--userns", "host", SECURE, "UsernsMode", "host"),
    _host(
        "--device",
        "/dev/null:/dev/other",
        SECURE,
        "Devices",
        lambda value: value[0]["PathInContainer"] == "/dev/other",
        inside=("ls -l /dev/other", "crw"),
    ),
    _host(
        "--device-cgroup-rule",
        "'c 10:200 rwm'",
        SECURE,
        "DeviceCgroupRules",
        ["c 10:200 rwm"],
        inside=("mknod /tun c 10 200 && (echo 2>&1 >/tun || true)", ""),
    ),
)

ALL_POWER = (
    _host("--privileged", "", "power", "Privileged", True, inside=("grep NoNewPrivs /proc/self/status", "0")),
    _host("--uts", "host", "power", "UTSMode", "host"),
)

MOUNT = "mounts"
MOUNTS = (
    _host(
        "--volume",
        "{tmp}:/bound:ro",
        MOUNT,
        "Binds",
        lambda value: value[0].endswith(":/bound:ro"),
        inside=("cat /bound/env", "FROM_FILE=1"),
    ),
    _host(
        "--mount",
        "type=tmpfs,target=/mounted,tmpfs-size=1m",
        MOUNT,
        "Mounts",
        lambda value: value[0]["Target"] == "/mounted",
        inside=("grep mounted /proc/mounts", "tmpfs"),
    ),
    _host(
        "--tmpfs",
        "/scratch:size=64k",
        MOUNT,
        "Tmpfs",
        {"/scratch": "size=64k"},
        inside=("grep scratch /proc/mounts", "size=64k"),
    ),
    _host("--read-only", "", MOUNT, "ReadonlyRootfs", True, inside=("touch /x 2>&1 || true", "Read-only")),
    _host(
        "--volumes-from",
        "{other}",
        MOUNT,
        "VolumesFrom",
        lambda value: value[0].startswith("t"),
        inside=("cat /kept/file", "kept"),
    ),
    _host("--volume-driver", "local", MOUNT, "VolumeDriver", "local"),
    _host(
        "--link",
        "{other}:db",
        MOUNT,
        "Links",
        lambda value: value[0].endswith("/db"),
        inside=("cat /etc/hosts", "db"),
    ),
)

CHECK = "health"
HEALTH = (
    _config(
        "--health-cmd",
        "'exit 0'",
        CHECK,
        "Healthcheck",
        lambda value: value["Test"] == ["CMD-SHELL", "exit 0"],
    ),
    _config("--health-interval", "2s", CHECK, "Healthcheck", lambda value: value["Interval"] == 2 * 10**9),
    _config("--health-retries", "4", CHECK, "Healthcheck", lambda value: value["Retries"] == 4),
    _config(
        "--health-start-interval", "1s", CHECK, "Healthcheck", lambda value: value["StartInterval"] == 10**9
    ),
    _config(
        "--health-start-period", "5s", CHECK, "Healthcheck", lambda value: value["StartPeriod"] == 5 * 10**9
    ),
    _config("--health-timeout", "3s", CHECK, "Healthcheck", lambda value: value["Timeout"] == 3 * 10**9),
)

OTHERS = (
    _config("--no-healthcheck", "", "no-health", "Healthcheck", lambda value: value["Test"] == ["NONE"]),
    Effect(
        "--use-api-socket",
        "--use-api-socket",
        "socket",
        {"Mounts": lambda value: value[0]["Destination"] == "/var/run/docker.sock"},
        ("ls -l /var/run/docker.sock", "srw"),
    ),
)

EFFECTS = (*IDENTITY, *NETWORK, *LIMITS, *QUOTA, *SECURITY, *ALL_POWER, *MOUNTS, *HEALTH, *OTHERS)

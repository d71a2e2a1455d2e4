"""The requests of the parity test, in the order they are made; recorded.json has dockerd's answers.

Container names say their state: `run` writes a line to each stream and sleeps, `tty` is the same with a
tty, `done` ended with 3, `made` never started, `ice` is paused. The image is the tests' busybox.

How an answer is compared: EXACT after taking out IDs, times and paths; SHAPE by names and types of its
members; FRAMES as a multiplexed stream; NAMES by the containers' names in a list; STATUS by status and media
type alone.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

EXACT, SHAPE, FRAMES, STATUS, NAMES = "exact", "shape", "frames", "status", "names"


@dataclass(frozen=True)
class Step:
    method: str
    path: str
    body: Any = None
    how: str = EXACT
    headers: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        text = f"{self.method} {self.path}"
        return f"{text} [{self.note}]" if self.note else text


def filters(**wanted: list[str]) -> str:
    return quote(json.dumps({key.replace("_", "-"): values for key, values in wanted.items()}))


def archive(name: str, data: bytes = b"data\n", link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        entry.size = 0 if link else len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


SLEEP = ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]
TAR = {"Content-Type": "application/x-tar"}


def create(name: str, note: str = "", **members: Any) -> Step:
    body = {"Image": "busybox", "Cmd": ["true"], **members}
    return Step("POST", f"/containers/create?name={name}", body, note=note)


def refused(note: str, host: dict[str, Any] | None = None, **members: Any) -> Step:
    """A create request that fails, or not: its answer tells."""
    body = {"Image": "busybox", "Cmd": ["true"], **members}
    if host is not None:
        body["HostConfig"] = host
    return Step("POST", f"/containers/create?name=x-{note.replace(' ', '-')}", body, note=note)


SETUP = (
    create("run", Cmd=SLEEP, Labels={"role": "one"}, ExposedPorts={"80/tcp": {}}, StopSignal="SIGKILL"),
    Step("POST", "/containers/run/start"),
    create("tty", Cmd=SLEEP, Tty=True, OpenStdin=True, StopSignal="SIGKILL"),
    Step("POST", "/containers/tty/start"),
    create("done", Cmd=["sh", "-c", "echo gone > /gone; rm /etc/group; exit 3"]),
    Step("POST", "/containers/done/start"),
    Step("POST", "/containers/done/wait"),
    create("made"),
    create("ice", Cmd=SLEEP, StopSignal="SIGKILL"),
    Step("POST", "/containers/ice/start"),
    Step("POST", "/containers/ice/pause"),
)

READING = (
    Step("GET", "/containers/json", how=SHAPE),
    *(
        Step("GET", f"/containers/json?all=1&filters={filters(**wanted)}", how=NAMES, note=str(wanted))
        for wanted in (
            {"name": ["run"]},
            {"name": ["^/run$"]},
            {"label": ["role"]},
            {"label": ["role=two"]},
            {"status": ["paused"]},
            {"status": ["wrong"]},
            {"exited": ["3"]},
            {"exited": ["x"]},
            {"ancestor": ["busybox"]},
            {"ancestor": ["nothing"]},
            {"before": ["run"]},
            {"since": ["ice"]},
            {"since": ["nothing"]},
            {"volume": ["/nowhere"]},
            {"network": ["none"]},
            {"expose": ["80"]},
            {"expose": ["81/tcp"]},
            {"publish": ["80"]},
            {"publish": ["wrong"]},
            {"health": ["none"]},
            {"health": ["wrong"]},
            {"is_task": ["true"]},
            {"is_task": ["wrong"]},
            {"id": ["0000000"]},
            {"nothing": ["x"]},
            {"name": ["i", "m"]},
            {"status": ["created", "exited"]},
            {"exited": ["0", "3"]},
            {"network": ["bridge"]},
            {"label": ["role=one"]},
            {"is_task": ["false"]},
            {"expose": ["80/tcp"]},
            {"expose": ["70-90"]},
            {"label": ["role"], "status": ["exited"]},
            {"isolation": ["default"]},
        )
    ),
    Step("GET", "/containers/json?all=1&limit=2&size=1", how=SHAPE),
    Step("GET", "/containers/json?limit=x"),
    Step("GET", "/containers/json?filters=%7Bnonsense"),
    Step("GET", "/containers/made/json", note="never started"),
    Step("GET", "/containers/run/json", how=SHAPE),
    Step("GET", "/containers/done/json?size=1", how=SHAPE),
    Step("GET", "/v1.24/containers/made/json", how=SHAPE),
    Step("GET", "/containers/none/json"),
    Step("GET", "/containers/run/top", how=SHAPE),
    Step("GET", "/containers/run/top?ps_args=-eo%20pid,comm"),
    Step("GET", "/containers/run/top?ps_args=-eo%20comm", note="without pid"),
    Step("GET", "/containers/done/top"),
    Step("GET", "/containers/ice/top", how=SHAPE),
    Step("GET", "/containers/run/logs?stdout=1&stderr=1", how=FRAMES),
    Step("GET", "/containers/run/logs?stdout=1", how=FRAMES),
    Step("GET", "/containers/run/logs?stderr=1&timestamps=1", how=FRAMES),
    Step("GET", "/containers/run/logs?stdout=1&stderr=1&tail=1", how=STATUS),
    Step("GET", "/containers/run/logs?stdout=1&tail=0", how=FRAMES),
    Step("GET", "/containers/run/logs?stdout=1&tail=x", how=FRAMES),
    Step("GET", "/containers/run/logs?stdout=1&since=4102444800", how=FRAMES),
    Step("GET", "/containers/run/logs?stdout=1&until=1", how=FRAMES),
    Step("GET", "/containers/run/logs?stdout=1&since=x"),
    Step("GET", "/containers/run/logs?stdout=1&details=1", how=FRAMES),
    Step("GET", "/containers/run/logs"),
    Step("GET", "/containers/none/logs?stdout=1"),
    Step("GET", "/containers/made/logs?stdout=1", how=FRAMES),
    Step("GET", "/containers/tty/logs?stdout=1", how=STATUS),
    Step("GET", "/v1.41/containers/run/logs?stdout=1", how=STATUS),
    Step("GET", "/containers/done/changes"),
    Step("GET", "/containers/made/changes"),
    Step("GET", "/containers/none/changes"),
    Step("GET", "/containers/done/export", how=STATUS),
    Step("GET", "/containers/none/export"),
    Step("GET", "/containers/run/stats?stream=0&one-shot=1", how=SHAPE),
    Step("GET", "/containers/done/stats?stream=0", how=SHAPE),
    Step("GET", "/containers/none/stats?stream=0"),
)

CHANGING = (
    Step("POST", "/containers/run/resize?h=20&w=50"),
    Step("POST", "/containers/tty/resize?h=20&w=50"),
    Step("POST", "/containers/tty/resize?h=x&w=50"),
    Step("POST", "/containers/tty/resize?w=50"),
    Step("POST", "/containers/done/resize?h=20&w=50"),
    Step("POST", "/containers/run/start", note="running"),
    Step("POST", "/containers/none/start"),
    Step("POST", "/containers/ice/start", note="paused"),
    Step("POST", "/containers/tty/start?detachKeys=ctrl-?", note="bad keys"),
    Step("POST", "/containers/done/stop", note="stopped"),
    Step("POST", "/containers/made/stop", note="created"),
    Step("POST", "/containers/none/stop"),
    Step("POST", "/containers/run/stop?signal=WRONG"),
    Step("POST", "/containers/run/stop?t=x"),
    Step("POST", "/containers/done/kill"),
    Step("POST", "/containers/none/kill"),
    Step("POST", "/containers/run/kill?signal=WRONG"),
    Step("POST", "/containers/run/kill?signal=0"),
    Step("POST", "/containers/run/kill?signal=WINCH"),
    Step("POST", "/containers/done/pause"),
    Step("POST", "/containers/ice/pause"),
    Step("POST", "/containers/run/unpause"),
    Step("POST", "/containers/none/pause"),
    Step("POST", "/containers/run/rename?name="),
    Step("POST", "/containers/run/rename?name=run"),
    Step("POST", "/containers/run/rename?name=tty"),
    Step("POST", "/containers/run/rename?name=no%2Fslash"),
    Step("POST", "/containers/none/rename?name=other"),
    Step("POST", "/containers/done/rename?name=over"),
    Step("POST", "/containers/over/rename?name=done"),
    Step("POST", "/containers/run/update", {"CpuShares": 512}),
    Step("POST", "/containers/run/update", {"Memory": 1000}),
    Step("POST", "/containers/run/update", {"Memory": 64 << 20, "MemorySwap": 64 << 20}),
    Step("POST", "/containers/run/update", {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
    Step("POST", "/containers/run/update", {"RestartPolicy": {"Name": "wrong"}}, note="policy"),
    Step("POST", "/containers/run/update", {"CpusetCpus": "99"}, note="cpuset"),
    Step("POST", "/containers/none/update", {"CpuShares": 512}),
    Step("POST", "/containers/run/update", {"RestartPolicy": {"Name": "no"}}, note="no policy"),
    Step("POST", "/containers/done/wait?condition=not-running"),
    Step("POST", "/containers/done/wait?condition=wrong"),
    Step("POST", "/containers/none/wait"),
    Step("DELETE", "/containers/run", note="running"),
    Step("DELETE", "/containers/ice", note="paused"),
    Step("DELETE", "/containers/none"),
    Step("DELETE", "/containers/none?force=1"),
    Step("DELETE", "/containers/run?link=1"),
    Step("DELETE", "/containers/run/nothing?link=1"),
)

ARCHIVES = (
    Step("PUT", "/containers/made/archive?path=/tmp", archive("file"), headers=TAR),
    Step(
        "PUT",
        "/containers/made/archive?path=/tmp",
        archive("link", link="/etc/passwd"),
        headers=TAR,
        note="link",
    ),
    Step("PUT", "/containers/ice/archive?path=/tmp", archive("file"), headers=TAR, note="paused"),
    Step("PUT", "/containers/made/archive?path=/nowhere", archive("file"), headers=TAR),
    Step("PUT", "/containers/made/archive?path=/tmp/file", archive("file"), headers=TAR, note="on a file"),
    Step("PUT", "/containers/made/archive?path=", archive("file"), headers=TAR),
    Step("PUT", "/containers/none/archive?path=/tmp", archive("file"), headers=TAR),
    Step(
        "PUT",
        "/containers/made/archive?path=/tmp",
        b"no archive at all",
        headers=TAR,
        note="rubbish",
        how=STATUS,
    ),
    Step("HEAD", "/containers/made/archive?path=/tmp/file"),
    Step("HEAD", "/containers/made/archive?path=/tmp/link"),
    Step("HEAD", "/containers/made/archive?path=/tmp/link/"),
    Step("HEAD", "/containers/made/archive?path=/"),
    Step("HEAD", "/containers/made/archive?path=/tmp/."),
    Step("HEAD", "/containers/made/archive?path=tmp"),
    Step("HEAD", "/containers/made/archive?path=/nowhere"),
    Step("GET", "/containers/made/archive?path=/tmp/file", how=STATUS),
    Step("GET", "/containers/ice/archive?path=/tmp/file", how=STATUS),
    Step("GET", "/containers/made/archive?path=/tmp/link", how=STATUS),
    Step("GET", "/containers/made/archive?path=/nowhere"),
    Step("GET", "/containers/made/archive"),
)

EXECS = (
    Step("POST", "/containers/run/exec", {"Cmd": ["true"]}, how=SHAPE),
    Step("POST", "/containers/run/exec", {"Cmd": []}, note="no command"),
    Step("POST", "/containers/run/exec", {"Cmd": ["true"], "DetachKeys": "ctrl-?"}, note="bad keys"),
    Step("POST", "/containers/done/exec", {"Cmd": ["true"]}),
    Step("POST", "/containers/ice/exec", {"Cmd": ["true"]}),
    Step("POST", "/containers/none/exec", {"Cmd": ["true"]}),
    Step("GET", "/exec/none/json"),
    Step("POST", "/exec/none/start", {}),
    Step("POST", "/exec/none/resize?h=1&w=1"),
)

SYSTEM = (
    Step("GET", "/_ping", how=STATUS),
    Step("HEAD", "/_ping", how=STATUS),
    Step("GET", "/version", how=SHAPE),
    Step("GET", "/info", how=SHAPE),
    Step("GET", "/v1.24/info", how=SHAPE),
    Step("GET", "/system/df", how=SHAPE),
    Step("GET", "/system/df?type=container", how=SHAPE),
    Step("GET", "/system/df?type=wrong"),
    Step("GET", "/events?until=1", how=STATUS),
    Step("GET", "/events?since=x"),
    Step("GET", f"/events?until=1&filters={filters(wrong=['x'])}"),
    Step("GET", f"/events?until=1&filters={filters(type=['wrong'])}", how=STATUS),
    Step("POST", "/auth", {"username": "", "serveraddress": "127.0.0.1:1"}, how=STATUS),
    Step("GET", "/nothing"),
    Step("GET", "/v1.23/info", how=STATUS),
    Step("GET", "/v9.99/info"),
    Step("POST", "/containers/create", b"{", headers={"Content-Type": "application/json"}, note="cut"),
    Step("POST", "/containers/create", {"Cmd": 3}, note="type", how=STATUS),
    Step("POST", "/containers/create", b"{}", headers={"Content-Type": "text/plain"}, note="media type"),
    Step(
        "POST", "/commit?container=done&comment=word&author=me&changes=ENV%20A=b&repo=parity/made", how=SHAPE
    ),
    Step("POST", "/commit?container=none"),
    Step("POST", "/commit?container=done&changes=RUN%20true"),
    Step("POST", "/commit?container=done&repo=UPPER"),
    Step("GET", "/images/parity/made/json", how=SHAPE),
    Step("DELETE", "/images/parity/made", how=STATUS),
    Step("POST", f"/containers/prune?filters={filters(wrong=['x'])}"),
    Step("POST", f"/containers/prune?filters={filters(label=['nobody'])}"),
    Step("POST", f"/containers/prune?filters={filters(until=['x'])}"),
)

_SWARM_LISTS = ("swarm", "swarm/unlockkey", "nodes", "services", "tasks", "secrets", "configs")
_SWARM_OBJECTS = ("nodes/x", "services/x", "tasks/x", "secrets/x", "configs/x")
SWARM = (
    *(Step("GET", f"/{path}") for path in (*_SWARM_LISTS, *_SWARM_OBJECTS)),
    Step("GET", "/services/x/logs?stdout=1"),
    Step("GET", "/tasks/x/logs?stdout=1"),
    *(Step("DELETE", f"/{path}") for path in ("nodes/x", "services/x", "secrets/x", "configs/x")),
    Step("POST", "/swarm/leave"),
    Step("POST", "/swarm/update?version=1", {}),
    Step("POST", "/swarm/unlock", {"UnlockKey": "x"}),
    Step("POST", "/nodes/x/update?version=1", {}),
    Step("POST", "/services/create", {"Name": "x"}),
    Step("POST", "/services/x/update?version=1", {}),
    Step("POST", "/secrets/create", {"Name": "x"}),
    Step("POST", "/secrets/x/update?version=1", {}),
    Step("POST", "/configs/create", {"Name": "x"}),
    Step("POST", "/configs/x/update?version=1", {}),
)

_DISK = "/dev/no-such-disk"
FIELDS = (
    refused("no image", Image="nothing"),
    refused("empty image", Image=""),
    refused("no command", Cmd=[]),
    Step("POST", "/containers/create?name=run", {"Image": "busybox", "Cmd": ["true"]}, note="name in use"),
    Step("POST", "/containers/create?name=a%2Fb", {"Image": "busybox", "Cmd": ["true"]}, note="bad name"),
    Step(
        "POST", "/containers/create?platform=windows", {"Image": "busybox", "Cmd": ["true"]}, note="platform"
    ),
    refused("workdir", WorkingDir="relative"),
    refused("env", Env=["=x"]),
    refused("signal", StopSignal="WRONG"),
    refused("health", Healthcheck={"Test": ["WRONG", "x"]}),
    refused("health interval", Healthcheck={"Test": ["CMD", "x"], "Interval": 5}),
    refused("health retries", Healthcheck={"Test": ["CMD", "x"], "Retries": -1}),
    refused("exposed port", ExposedPorts={"wrong": {}}),
    refused("mac", MacAddress="wrong"),
    refused("hostname", Hostname="bad_host.", Domainname="example.org"),
    refused("user", User="nobody-here"),
    refused("labels", Labels={"": "x"}),
    refused("memory", {"Memory": 1000}),
    refused("swap", {"Memory": 32 << 20, "MemorySwap": 16 << 20}),
    refused("swap alone", {"MemorySwap": 16 << 20}),
    refused("reservation", {"Memory": 32 << 20, "MemoryReservation": 64 << 20}),
    refused("swappiness", {"MemorySwappiness": 200}),
    refused("cpus", {"NanoCpus": 10**12}),
    refused("negative cpus", {"NanoCpus": -1}),
    refused("cpus and quota", {"NanoCpus": 10**9, "CpuQuota": 5000}),
    refused("shares", {"CpuShares": -1}),
    refused("period", {"CpuPeriod": 10}),
    refused("quota", {"CpuQuota": 10}),
    refused("cpuset", {"CpusetCpus": "x"}),
    refused("cpuset absent", {"CpusetCpus": "99"}),
    refused("cpuset mems", {"CpusetMems": "99"}),
    refused("realtime period", {"CpuRealtimePeriod": 1000}),
    refused("realtime runtime", {"CpuRealtimeRuntime": 1000}),
    refused("pids", {"PidsLimit": -2}),
    refused("weight", {"BlkioWeight": 5}),
    refused("weight device", {"BlkioWeightDevice": [{"Path": _DISK, "Weight": 500}]}),
    refused("weight of device", {"BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 5}]}),
    refused("read bps", {"BlkioDeviceReadBps": [{"Path": _DISK, "Rate": 1}]}),
    refused("kernel memory", {"KernelMemory": 1 << 30}),
    refused("kernel memory tcp", {"KernelMemoryTCP": 1 << 30}),
    refused("oom kill", {"OomKillDisable": True}),
    refused("oom score", {"OomScoreAdj": 2000}),
    refused("ulimit", {"Ulimits": [{"Name": "nofile", "Soft": 20, "Hard": 10}]}),
    refused("ulimit name", {"Ulimits": [{"Name": "wrong", "Soft": 1, "Hard": 1}]}),
    refused("shm", {"ShmSize": -1}),
    refused("capability", {"CapAdd": ["WRONG"]}),
    refused("capability drop", {"CapDrop": ["WRONG"]}),
    refused("security", {"SecurityOpt": ["wrong=x"]}),
    refused("security form", {"SecurityOpt": ["wrong"]}),
    refused("seccomp", {"SecurityOpt": ["seccomp={"]}),
    refused("sysctl", {"Sysctls": {"kernel.wrong": "1"}}),
    refused("sysctl net host", {"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}),
    refused("runtime", {"Runtime": "wrong"}),
    refused("isolation", {"Isolation": "hyperv"}),
    refused("storage", {"StorageOpt": {"size": "1G"}}),
    refused("storage option", {"StorageOpt": {"wrong": "1G"}}),
    refused("logging", {"LogConfig": {"Type": "wrong"}}),
    refused("logging option", {"LogConfig": {"Type": "json-file", "Config": {"wrong": "1"}}}),
    refused("restart", {"RestartPolicy": {"Name": "wrong"}}),
    refused("restart count", {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}),
    refused("restart negative", {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}),
    refused("restart and remove", {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}),
    refused("pid mode", {"PidMode": "wrong"}),
    refused("pid of none", {"PidMode": "container:nothing"}),
    refused("ipc mode", {"IpcMode": "wrong"}),
    refused("uts mode", {"UTSMode": "wrong"}),
    refused("userns mode", {"UsernsMode": "wrong"}),
    refused("cgroupns mode", {"CgroupnsMode": "wrong"}),
    refused("cgroup parent", {"CgroupParent": "../x"}),
    refused("network mode", {"NetworkMode": "nothing"}),
    refused("network of none", {"NetworkMode": "container:nothing"}),
    refused("network and hostname", {"NetworkMode": "container:run"}, Hostname="x"),
    refused(
        "network and ports", {"NetworkMode": "container:run", "PortBindings": {"80/tcp": [{"HostPort": "1"}]}}
    ),
    refused("port", {"PortBindings": {"80/tcp": [{"HostPort": "wrong"}]}}),
    refused("port range", {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}),
    refused("port address", {"PortBindings": {"80/tcp": [{"HostIp": "wrong", "HostPort": "1"}]}}),
    refused("port key", {"PortBindings": {"wrong": [{"HostPort": "1"}]}}),
    refused("dns", {"Dns": ["wrong"]}),
    refused("dns search", {"DnsSearch": ["a b"]}),
    refused("extra host", {"ExtraHosts": ["wrong"]}),
    refused("extra host address", {"ExtraHosts": ["name:wrong"]}),
    refused("links", {"Links": ["nothing:x"]}),
    refused("bind", {"Binds": ["/a:b:c:d"]}),
    refused("bind target", {"Binds": ["/tmp:relative"]}),
    refused("bind root", {"Binds": ["/tmp:/"]}),
    refused("bind mode", {"Binds": ["/tmp:/x:wrong"]}),
    refused("bind twice", {"Binds": ["/tmp:/x", "/var:/x"]}),
    refused("bind volume name", {"Binds": ["a:/x"]}),
    refused("bind propagation of volume", {"Binds": ["vol:/x:rshared"]}),
    refused("volumes from", {"VolumesFrom": ["nothing"]}),
    refused("volumes from mode", {"VolumesFrom": ["run:wrong"]}),
    refused("volume driver", {"VolumeDriver": "wrong", "Binds": ["vol:/x"]}),
    refused("tmpfs", {"Tmpfs": {"relative": ""}}),
    refused("tmpfs option", {"Tmpfs": {"/x": "wrong=1"}}),
    refused("mount type", {"Mounts": [{"Type": "wrong", "Target": "/x"}]}),
    refused("mount cluster", {"Mounts": [{"Type": "cluster", "Source": "vol", "Target": "/x"}]}),
    refused("mount npipe", {"Mounts": [{"Type": "npipe", "Source": "vol", "Target": "/x"}]}),
    refused("mount target", {"Mounts": [{"Type": "bind", "Source": "/tmp"}]}),
    refused("mount source", {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x"}]}),
    refused("mount relative", {"Mounts": [{"Type": "bind", "Source": "tmp", "Target": "/x"}]}),
    refused(
        "mount propagation",
        {
            "Mounts": [
                {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "wrong"}}
            ]
        },
    ),
    refused(
        "mount wrong options",
        {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}}]},
    ),
    refused(
        "mount options for volume",
        {
            "Mounts": [
                {"Type": "volume", "Source": "vol", "Target": "/x", "BindOptions": {"Propagation": "private"}}
            ]
        },
    ),
    refused(
        "mount driver",
        {
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "vol",
                    "Target": "/x",
                    "VolumeOptions": {"DriverConfig": {"Name": "wrong"}},
                }
            ]
        },
    ),
    refused(
        "mount subpath",
        {
            "Mounts": [
                {"Type": "volume", "Source": "vol", "Target": "/x", "VolumeOptions": {"Subpath": "../out"}}
            ]
        },
    ),
    refused("mount tmpfs source", {"Mounts": [{"Type": "tmpfs", "Source": "vol", "Target": "/x"}]}),
    refused(
        "mount tmpfs option",
        {"Mounts": [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["wrong", "1"]]}}]},
    ),
    refused("mount image", {"Mounts": [{"Type": "image", "Source": "nothing", "Target": "/x"}]}),
    refused("mount image source", {"Mounts": [{"Type": "image", "Target": "/x"}]}),
    refused("device mode", {"Devices": [{"PathOnHost": "/dev/null", "CgroupPermissions": "x"}]}),
    refused("device rule", {"DeviceCgroupRules": ["wrong"]}),
    refused("device request", {"DeviceRequests": [{"Driver": "wrong", "Capabilities": [["gpu"]]}]}),
    refused("group", {"GroupAdd": ["nobody-here"]}),
    refused("console", {"ConsoleSize": [1, 2, 3]}),
    refused("cgroup", {"Cgroup": "wrong"}),
    refused("annotation", {"Annotations": {"": "x"}}),
    refused("masked", {"MaskedPaths": ["relative"]}),
    refused("windows", {"CpuCount": 1, "CpuPercent": 5, "IOMaximumIOps": 1, "IOMaximumBandwidth": 1}),
)

VERSIONS = tuple(
    Step("GET", f"/v{version}/{path}", how=SHAPE)
    for version in ("1.24", "1.30", "1.40", "1.43", "1.47")
    for path in (
        "containers/run/json",
        "containers/json",
        "containers/done/json",
        "images/busybox/json",
        "images/json",
        "networks/none",
        "version",
        "system/df",
        "containers/run/logs?stdout=1&tail=0",
    )
)
LIFE = (
    Step("POST", "/containers/ice/unpause"),
    Step("POST", "/containers/ice/restart?t=0"),
    Step("POST", "/containers/run/restart"),
    Step("POST", "/containers/run/pause"),
    Step("POST", "/containers/run/restart?t=0", note="paused"),
    Step("POST", "/containers/run/kill?signal=9"),
    Step("POST", "/containers/run/wait"),
    Step("POST", "/containers/run/start", note="again"),
    Step("POST", "/containers/run/stop?t=0"),
    Step("POST", "/containers/run/stop?t=0", note="twice"),
    Step("GET", "/containers/run/json", how=SHAPE, note="stopped"),
    Step("POST", "/containers/made/start"),
    Step("POST", "/containers/made/wait"),
    Step("POST", "/containers/made/restart"),
    Step("POST", "/containers/made/wait", note="restarted"),
    create("gone", HostConfig={"NetworkMode": "none"}, Entrypoint=["/no/such/program"]),
    Step("POST", "/containers/gone/start", how=STATUS),
    Step("GET", f"/containers/json?all=1&filters={filters(name=['gone'])}", how=SHAPE, note="failed"),
    Step("DELETE", "/containers/gone"),
    create("sum", HostConfig={"Binds": ["parity-volume:/v"], "PortBindings": {"80/tcp": [{"HostPort": ""}]}}),
    Step(
        "GET", f"/containers/json?all=1&filters={filters(volume=['parity-volume'])}", how=NAMES, note="volume"
    ),
    Step("GET", f"/containers/json?all=1&filters={filters(volume=['/v'])}", how=NAMES, note="target"),
    Step("GET", f"/containers/json?all=1&filters={filters(publish=['80'])}", how=NAMES, note="published"),
    Step("GET", "/containers/sum/json", how=SHAPE),
    Step("DELETE", "/volumes/parity-volume", note="in use"),
    Step("DELETE", "/containers/sum?v=1"),
    Step("DELETE", "/volumes/parity-volume"),
)

CLEANUP = (
    Step("DELETE", "/containers/run?force=1&v=1"),
    Step("DELETE", "/containers/tty?force=1"),
    Step("DELETE", "/containers/ice?force=1"),
    Step("DELETE", "/containers/made"),
    Step("DELETE", "/containers/done?v=1"),
)

CONTAINERS = frozenset(("run", "tty", "done", "made", "ice", "sum", "gone"))
STEPS = (*SETUP, *READING, *CHANGING, *ARCHIVES, *EXECS, *SYSTEM, *SWARM, *FIELDS, *VERSIONS, *LIFE, *CLEANUP)


def path_stat(header: str) -> Any:
    """The X-Docker-Container-Path-Stat header, decoded."""
    return json.loads(base64.b64decode(header))

"""Members of a create request, one wrong or odd at a time: most are refused, the answer tells."""

from __future__ import annotations

from tests.system.parity.steps import Step, refused

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

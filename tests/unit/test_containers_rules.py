"""What requests may ask: merging, validation, mounts, users, names, signals — no kernel needed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from daemon.containers import merge, mounts, names, refusals, show, signals, validate
from daemon.containers.detach import DEFAULT, detach_keys
from daemon.containers.spec import users
from daemon.runtime.capabilities import NUMBERS
from daemon.sizes import ram_in_bytes
from daemon.until import until
from storage.errors import InvalidArgument

KNOWN = frozenset(NUMBERS)


@pytest.mark.parametrize(
    ("config", "host", "text"),
    [
        ({}, {"Memory": 1 << 20}, "Minimum memory limit allowed is 6MB"),
        ({}, {"Memory": -1}, "Minimum memory limit allowed is 6MB"),
        ({}, {"Memory": 10 << 20, "MemorySwap": 8 << 20}, "Minimum memoryswap limit should be larger"),
        ({}, {"MemorySwap": 8 << 20}, "You should always set the Memory limit"),
        ({}, {"Memory": 8 << 20, "MemoryReservation": 9 << 20}, "can not be less than memory reservation"),
        ({}, {"MemorySwappiness": 101}, "Invalid value: 101"),
        ({}, {"NanoCpus": -1}, "range of CPUs is from 0.01 to"),
        ({}, {"NanoCpus": 10**13}, "CPUs available"),
        ({}, {"NanoCpus": 10**9, "CpuPeriod": 5000}, "Nano CPUs and CPU Period cannot both be set"),
        ({}, {"CpuShares": -3}, "invalid CPU shares (-3)"),
        ({}, {"CpuPeriod": 10}, "CPU cfs period can not be less than 1ms"),
        ({}, {"CpuQuota": 10}, "CPU cfs quota can not be less than 1ms"),
        ({}, {"CpusetCpus": "x"}, "Invalid value x for cpuset cpus"),
        ({}, {"CpusetCpus": "4095"}, "Requested CPUs are not available - requested 4095"),
        ({}, {"BlkioWeight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({}, {"OomScoreAdj": 2000}, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
        ({}, {"ShmSize": -1}, "SHM size can not be less than 0"),
        ({}, {"CapAdd": ["FOO"]}, 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        ({}, {"RestartPolicy": {"Name": "maybe"}}, "unknown policy 'maybe'"),
        ({}, {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}, "only be used with 'on-failure'"),
        ({}, {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, "can't create 'AutoRemove'"),
        ({"WorkingDir": "tmp"}, {}, "the working directory 'tmp' is invalid"),
        ({"Env": ["=x"]}, {}, "invalid environment variable: =x"),
        ({"StopSignal": "SIGFOO"}, {}, "invalid signal: SIGFOO"),
        ({"Hostname": "a"}, {"NetworkMode": "container:b"}, "hostname and the network mode"),
        ({"Hostname": "a"}, {"UTSMode": "host"}, "hostname and the UTS mode"),
        ({}, {"PidMode": "weird"}, "invalid PID mode: weird"),
        ({"Healthcheck": {"Interval": 5}}, {}, "Interval in Healthcheck cannot be less than 1ms"),
        ({}, {"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 5}]}, "10 > 5"),
        ({}, {"DeviceCgroupRules": ["c 1:3"]}, "invalid device cgroup rule format: 'c 1:3'"),
    ],
)
def test_what_docker_refuses_is_refused_in_its_words(config: Any, host: Any, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate.check(config, host, KNOWN)
    assert text in str(caught.value)


def test_a_sensible_request_passes_without_warnings() -> None:
    host: Any = {"Memory": 64 << 20, "NanoCpus": 10**9, "CapAdd": ["net_admin", "ALL"], "PidsLimit": 100}
    assert validate.check({"Env": ["A=b", "C"], "WorkingDir": "/tmp"}, host, KNOWN) == []


@pytest.mark.parametrize(("text", "numbers"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("3,1", {1, 3})])
def test_cpu_lists_are_read_and_written(text: str, numbers: set[int]) -> None:
    assert validate.parse_ranges(text) == numbers
    assert validate.parse_ranges(validate.format_ranges(numbers)) == numbers


def test_merging_follows_dockers_precedence() -> None:
    image = {
        "Env": ["A=image", "B=image"],
        "Cmd": ["image-cmd"],
        "Entrypoint": ["image-entry"],
        "Labels": {"x": "1", "y": "1"},
        "User": "nobody",
        "WorkingDir": "/srv",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 7_000_000},
    }
    result = merge.merged({"Env": ["A=user"], "Cmd": ["mine"], "Labels": {"y": "2"}, "User": "root"}, image)
    assert result["Env"] == ["A=user", "B=image"]
    assert (result["Entrypoint"], result["Cmd"]) == (["image-entry"], ["mine"])
    assert result["Labels"] == {"x": "1", "y": "2"}
    assert (result["User"], result["WorkingDir"]) == ("root", "/srv")
    assert result["Healthcheck"] == image["Healthcheck"]


def test_an_own_entrypoint_drops_the_images_command() -> None:
    image = {"Cmd": ["image-cmd"], "Entrypoint": ["image-entry"]}
    result = merge.merged({"Entrypoint": ["mine"]}, image)
    assert merge.command_line(result) == ["mine"]
    reset = merge.merged({"Entrypoint": [""], "Cmd": ["ls"]}, image)
    assert merge.command_line(reset) == ["ls"]
    with pytest.raises(InvalidArgument, match="no command specified"):
        merge.command_line({})


def test_environment_has_defaults_overrides_and_home() -> None:
    config: Any = {"Env": ["PATH=/x", "HOSTNAME", "Z=1"], "Tty": True}
    assert merge.environment(config, hostname="h", home="/root") == [
        "PATH=/x",
        "TERM=xterm",
        "Z=1",
        "HOME=/root",
    ]


@pytest.mark.parametrize(
    ("spec", "kind", "source", "destination", "writable"),
    [
        ("/a:/b", "bind", "/a", "/b", True),
        ("/a:/b:ro", "bind", "/a", "/b", False),
        ("/a/../c:/b/./d/:rw,rslave", "bind", "/c", "/b/d", True),
        ("data:/b:ro", "volume", "", "/b", False),
        ("/b", "volume", "", "/b", True),
    ],
)
def test_binds_are_parsed(spec: str, kind: str, source: str, destination: str, writable: bool) -> None:
    point = mounts.parse_bind(spec)
    assert (point.type, point.source, point.destination, point.writable) == (
        kind,
        source,
        destination,
        writable,
    )


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b:rofl", "invalid mode: rofl"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        (":/b", "invalid volume specification: ':/b'"),
    ],
)
def test_bad_binds_are_refused(spec: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mounts.parse_bind(spec)
    assert text in str(caught.value)


def test_bad_mounts_are_refused() -> None:
    for mount, text in (
        (
            {"Type": "bind", "Source": "/does/not/exist", "Target": "/x"},
            "bind source path does not exist: /does/not",
        ),
        ({"Type": "bind", "Target": "/x"}, "field Source must not be empty"),
        ({"Type": "tmpfs", "Source": "/a", "Target": "/x"}, "field Source must not be specified"),
        ({"Type": "volume", "Target": ""}, "field Target must not be empty"),
        ({"Type": "nfs", "Target": "/x"}, "mount type unknown"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            mounts.parse_mount(mount)  # type: ignore[arg-type]
        assert text in str(caught.value)
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /x"):
        mounts.requested({"Binds": ["/a:/x", "/b:/x"]})


PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\nbroken line\n"
GROUP = "root:x:0:\nweb:x:34:\ndocker:x:99:web,root\n"


def read(path: str) -> str:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}[path]


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 99), "/root"),
        ("web", 33, 34, (34, 99), "/srv"),
        ("33", 33, 34, (34, 99), "/srv"),
        ("web:docker", 33, 99, (99,), "/srv"),
        ("1234:5", 1234, 5, (5,), "/"),
        ("1234", 1234, 0, (0,), "/"),
    ],
)
def test_users_are_looked_up_in_the_image(
    user: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    identity = users.resolve(user, (), read)
    assert (identity.uid, identity.gid, identity.groups, identity.home) == (uid, gid, groups, home)


def test_unknown_users_and_groups_are_refused() -> None:
    with pytest.raises(
        InvalidArgument, match="unable to find user nobody: no matching entries in passwd file"
    ):
        users.resolve("nobody", (), read)
    with pytest.raises(InvalidArgument, match="unable to find group staff"):
        users.resolve("web:staff", (), read)
    with pytest.raises(InvalidArgument, match="Unable to find group x"):
        users.resolve("web", ("x",), read)
    assert users.resolve("0", ("docker", "7"), read).groups == (0, 99, 7)


@pytest.mark.parametrize("value", ["TERM", "SIGTERM", "sigterm", "15"])
def test_signals_by_name_and_number(value: str) -> None:
    assert signals.parse(value) == 15


@pytest.mark.parametrize("value", ["0", "FOO", "65", "-1", "SIG"])
def test_bad_signals(value: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        signals.parse(value)


def test_names() -> None:
    assert names.checked("/web.1") == "web.1"
    for bad in ("a", "-x", "a b", "a/b", "ä-b"):
        with pytest.raises(InvalidArgument, match="only \\[a-zA-Z0-9\\]"):
            names.checked(bad)
    assert len(names.new_id()) == 64


def test_detach_keys() -> None:
    assert detach_keys(None) == DEFAULT
    assert detach_keys("ctrl-a,x,ctrl-\\") == b"\x01x\x1c"
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        detach_keys("ctrl-1")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (600, "10 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 15, "2 weeks"),
        (86400 * 70, "2 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_durations_as_docker_says_them(seconds: int, text: str) -> None:
    assert show.human_duration(seconds) == text


def test_the_until_filter() -> None:
    assert until({}) is None
    assert until({"until": ["12.5"]}) == 12_500_000_000
    moment = until({"until": ["1h30m"]})
    assert moment is not None
    assert 0 <= time.time_ns() - moment - 5400 * 10**9 < 10**9
    assert until({"until": ["1970-01-01T00:00:01Z"]}) == 10**9
    for wrong in (["5 minutes"], ["1h", "2h"]):
        with pytest.raises(InvalidArgument):
            until({"until": wrong})


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("10G", 10 << 30), ("1.5 KiB", 1536), ("64m", 64 << 20), ("7b", 7), ("2Tb", 2 << 40)],
)
def test_sizes_as_go_units_reads_them(text: str, size: int) -> None:
    assert ram_in_bytes(text) == size
    assert refusals.storage_limit({"StorageOpt": {"size": text}}) == size


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": "abc"}, "invalid size: 'abc'"),
        ({"size": "-1"}, "invalid size: '-1'"),
        ({"size": ""}, "invalid size: ''"),
        ({"size": "1x"}, "invalid suffix: 'x'"),
        ({"size": "1bb"}, "invalid suffix: 'bb'"),
        ({"size": "1.2.3k"}, 'strconv.ParseFloat: parsing "1.2.3": invalid syntax'),
        ({"nope": "1"}, "Unknown option nope"),
    ],
)
def test_bad_sizes_of_file_systems(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        refusals.storage_limit({"StorageOpt": options})
    assert str(caught.value) == text

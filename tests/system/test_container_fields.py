"""Members of Config and HostConfig that no option of the docker client's reaches, or not wholly: what they do."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.volumes.mounting import is_mounted
from tests.system.host import Host
from tests.system.parity.client import ask


class Engine:
    def __init__(self, host: Host) -> None:
        self.host = host

    def create(self, name: str, command: str, host: dict[str, Any] | None = None, **config: Any) -> str:
        body = {"Image": "busybox", "Cmd": ["sh", "-c", command], "HostConfig": host or {}, **config}
        status, answer = self.host.curl("POST", f"/containers/create?name={name}", body)
        assert status == 201, answer
        return str(answer["Id"])

    def output(self, command: str, host: dict[str, Any] | None = None, **config: Any) -> str:
        """What a container with these members writes."""
        self.create("fields", command, host, **config)
        try:
            result = self.host.try_docker("start", "-a", "fields")
            return (result.stdout + result.stderr).decode()
        finally:
            self.host.docker("rm", "-fv", "fields")

    def put(self, name: str, path: str, file: str, text: str) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            entry = tarfile.TarInfo(file)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        answer = self.archive("PUT", name, path, out.getvalue())
        assert answer[0] == 200, answer

    def get(self, name: str, path: str) -> str:
        status, data = self.archive("GET", name, path)
        assert status == 200, data
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            assert file
            return file.read().decode()

    def archive(self, method: str, name: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        answer = ask(str(self.host.socket), method, f"/containers/{name}/archive?path={path}", body, headers)
        return answer.status, answer.body


@pytest.fixture
def engine(host: Host) -> Engine:
    return Engine(host)


@pytest.fixture
def volume(host: Host) -> Iterator[str]:
    host.docker("volume", "create", "field-data")
    yield "field-data"
    host.docker("volume", "rm", "-f", "field-data")


def mount(**members: Any) -> dict[str, Any]:
    return {"Mounts": [members]}


# -- what mounts


def test_a_subpath_of_a_volume_is_all_that_is_seen(engine: Engine, volume: str) -> None:
    bind = {"Binds": [f"{volume}:/v"]}
    engine.output("mkdir -p /v/a/b; echo deep > /v/a/b/file; ln -s /etc /v/out", bind)
    sub = mount(Type="volume", Source=volume, Target="/s", VolumeOptions={"Subpath": "a/b"})
    assert engine.output("cat /s/file; ls /s", sub) == "deep\nfile\n"
    missing = mount(Type="volume", Source=volume, Target="/s", VolumeOptions={"Subpath": "no/such"})
    assert "no such file or directory" in engine.output("true", missing)


def test_a_subpath_never_leads_out_of_the_volume(engine: Engine, volume: str) -> None:
    engine.output("ln -s /etc /v/out; ln -s ../../../../../etc /v/up", {"Binds": [f"{volume}:/v"]})
    for name in ("out", "up"):
        leading = mount(Type="volume", Source=volume, Target="/s", VolumeOptions={"Subpath": name})
        assert "no such file or directory" in engine.output("ls /s", leading)


def test_an_image_is_mounted_read_only(engine: Engine) -> None:
    host = mount(Type="image", Source="busybox", Target="/image")
    said = engine.output("ls /image/bin/busybox; touch /image/x", host)
    assert "/image/bin/busybox\n" in said
    assert "Read-only file system" in said


@pytest.mark.parametrize(("part", "shows"), [("bin", "busybox"), ("etc/passwd", "/image")])
def test_a_part_of_an_image(engine: Engine, host: Host, part: str, shows: str) -> None:
    asked = mount(Type="image", Source="busybox", Target="/image", ImageOptions={"Subpath": part})
    engine.create("fields", "ls /image; touch /image/x /image", asked)
    result = host.try_docker("start", "-a", "fields")
    assert shows in result.stdout.decode().split()
    assert b"Read-only file system" in result.stderr or b"Not a directory" in result.stderr
    status, _ = engine.archive("GET", "fields", "/image/busybox" if part == "bin" else "/image")
    assert status == 200  # it does not run
    assert engine.archive("PUT", "fields", "/image", b"")[0] == 400
    host.docker("rm", "fields")
    assert list((host.exec_root / "images").iterdir()) == []


def test_no_part_of_an_image(engine: Engine, host: Host) -> None:
    asked = mount(Type="image", Source="busybox", Target="/image", ImageOptions={"Subpath": "no/such"})
    assert "no such file or directory" in engine.output("true", asked)
    asked["Mounts"][0]["ImageOptions"]["Subpath"] = "../up"
    status, answer = host.curl("POST", "/containers/create", {"Image": "busybox", "HostConfig": asked})
    assert (status, answer["message"]) == (
        400,
        'invalid mount config for type "image": subpath must be a relative path within the volume',
    )


def test_an_image_in_use_by_a_mount_stays(engine: Engine, host: Host) -> None:
    host.docker("import", "--message", "mounted", str(_small_tar(host)), "field-image")
    engine.create("fields", "cat /image/hello", mount(Type="image", Source="field-image", Target="/image"))
    refused = host.try_docker("rmi", "field-image")
    assert refused.returncode == 1
    assert b"container" in refused.stderr
    assert host.docker("start", "-a", "fields") == "hello\n"
    host.docker("rm", "fields")
    host.docker("rmi", "field-image")


def _small_tar(host: Host) -> Path:
    path = host.directory / "small.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 6
        tar.addfile(entry, io.BytesIO(b"hello\n"))
    return path


def test_an_image_of_several_layers_shows_them_all(engine: Engine, host: Host) -> None:
    engine.create("fields", "echo upper > /upper; rm /etc/group")
    host.docker("start", "-a", "fields")
    host.docker("commit", "fields", "field-layers")
    host.docker("rm", "fields")
    said = engine.output(
        "cat /image/upper; ls /image/etc/group", mount(Type="image", Source="field-layers", Target="/image")
    )
    assert said.startswith("upper\n")
    assert "No such file" in said
    host.docker("rmi", "field-layers")


def test_options_of_a_local_volume_say_what_is_mounted(engine: Engine, host: Host) -> None:
    host.docker(
        "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=700", "field-tmp"
    )
    said = engine.output("grep ' /t ' /proc/mounts; stat -c %a /t", {"Binds": ["field-tmp:/t"]})
    assert "size=1024k" in said
    assert said.endswith("700\n")
    host.docker("volume", "rm", "field-tmp")


@pytest.fixture
def memory(host: Host) -> Iterator[str]:
    """A tmpfs volume; what it holds is gone when nobody uses it."""
    options = ("type=tmpfs", "device=tmpfs", "o=size=1m")
    host.docker("volume", "create", *(word for option in options for word in ("-o", option)), "field-memory")
    yield "field-memory"
    host.docker("volume", "rm", "field-memory")


def test_a_tmpfs_volume_is_one_for_all_that_use_it(engine: Engine, host: Host, memory: str) -> None:
    binds = {"Binds": [f"{memory}:/t"]}
    place = json.loads(host.docker("volume", "inspect", memory))[0]["Mountpoint"]
    for name in ("first", "second"):
        engine.create(name, f"echo {name} > /t/{name}; exec sleep 100", binds)
        host.docker("start", name)
    host.docker("exec", "second", "sh", "-c", "until [ -e /t/first -a -e /t/second ]; do sleep 0.02; done")
    assert sorted(os.listdir(place)) == ["first", "second"]
    assert engine.output("ls /t", binds) == "first\nsecond\n"
    engine.create("third", "true", binds)
    assert engine.get("third", "/t/first") == "first\n"  # a stopped one shows what the others have
    engine.put("third", "/t", "put", "into it\n")
    assert host.docker("exec", "first", "cat", "/t/put") == "into it\n"
    host.docker("kill", "first")
    assert host.docker("exec", "second", "ls", "/t") == "first\nput\nsecond\n"
    host.docker("kill", "second")
    deadline = time.monotonic() + 10
    while is_mounted(place):  # what it had is given back behind the news of its end
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert engine.archive("GET", "third", "/t/first")[0] == 404
    assert not is_mounted(place)
    host.docker("rm", "first", "second", "third")


def test_a_subpath_of_a_volume_with_options(engine: Engine, host: Host, memory: str) -> None:
    engine.create(
        "keeper", "mkdir /t/sub; echo in > /t/sub/file; exec sleep 100", {"Binds": [f"{memory}:/t"]}
    )
    host.docker("start", "keeper")
    host.docker("exec", "keeper", "sh", "-c", "until [ -e /t/sub/file ]; do sleep 0.02; done")
    sub = mount(Type="volume", Source=memory, Target="/s", VolumeOptions={"Subpath": "sub"})
    assert engine.output("cat /s/file", sub) == "in\n"
    host.docker("rm", "-f", "keeper")


def test_what_a_volume_names_cannot_be_mounted(engine: Engine, host: Host) -> None:
    for option, said in (("o=size=banana", "invalid argument"), ("type=nosuchfs", "no such device")):
        words = ["type=tmpfs", "device=tmpfs", option]
        host.docker("volume", "create", *(word for each in words for word in ("-o", each)), "field-bad")
        body = {"Image": "busybox", "HostConfig": {"Binds": ["field-bad:/t"]}}
        status, answer = host.curl("POST", "/containers/create", body)
        assert status == 500
        assert "error while mounting volume" in answer["message"]
        assert "failed to mount local volume" in answer["message"]
        assert answer["message"].endswith(said)
        host.docker("volume", "rm", "field-bad")


def test_a_local_volume_may_be_a_directory_of_the_host(engine: Engine, host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host\n")
    options = ["type=none", "o=bind", f"device={tmp_path}"]
    host.docker("volume", "create", *(word for option in options for word in ("-o", option)), "field-bound")
    assert engine.output("cat /b/file", {"Binds": ["field-bound:/b"]}) == "of the host\n"
    host.docker("volume", "rm", "field-bound")
    assert (tmp_path / "file").exists()


def test_volume_options_of_a_mount_make_the_volume(engine: Engine, host: Host) -> None:
    options = {"Labels": {"colour": "blue"}, "DriverConfig": {"Name": "local"}}
    engine.create(
        "fields", "true", mount(Type="volume", Source="field-made", Target="/m", VolumeOptions=options)
    )
    made = json.loads(host.docker("volume", "inspect", "field-made"))[0]
    assert made["Labels"] == {"colour": "blue"}
    host.docker("rm", "fields")
    host.docker("volume", "rm", "field-made")


def test_a_shared_bind_carries_mounts_to_the_host(engine: Engine, tmp_path: Path) -> None:
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-shared", tmp_path], check=True)
        (tmp_path / "in").mkdir()
        host = {"Binds": [f"{tmp_path}:/x:rshared"], "Privileged": True}
        assert engine.output("mount -t tmpfs none /x/in && touch /x/in/seen", host) == ""
        assert [path.name for path in (tmp_path / "in").iterdir()] == ["seen"]
    finally:
        subprocess.run(["umount", "-R", tmp_path], check=True)


def test_a_bind_is_not_shared_where_the_host_does_not(engine: Engine, tmp_path: Path) -> None:
    subprocess.run(["mount", "--bind", "--make-private", tmp_path, tmp_path], check=True)
    try:
        said = engine.output("true", {"Binds": [f"{tmp_path}:/x:rshared"]})
        assert f"path {tmp_path} is mounted on {tmp_path} but it is not a shared mount" in said
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_read_only_binds_are_so_with_all_below_since_1_44(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "below"], check=True)
    try:
        command = ["sh", "-c", "touch /top/x; touch /top/below/x && echo written"]
        for version, written in (("1.43", True), ("1.51", False)):
            for host in (
                {"Binds": [f"{tmp_path}:/top:ro"]},
                mount(Type="bind", Source=str(tmp_path), Target="/top", ReadOnly=True),
            ):
                body = {"Image": "busybox", "Cmd": command, "HostConfig": host}
                status, answer = engine.host.curl("POST", f"/v{version}/containers/create?name=fields", body)
                assert status == 201, answer
                result = engine.host.try_docker("start", "-a", "fields")
                engine.host.docker("rm", "fields")
                assert b"/top/x: Read-only" in result.stderr
                assert (result.stdout == b"written\n") is written, (version, host, result)
    finally:
        subprocess.run(["umount", tmp_path / "below"], check=True)


# -- networks


SYSCTLS = "com.docker.network.endpoint.sysctls"


def test_parameters_of_an_endpoints_interface(engine: Engine, host: Host) -> None:
    shows = "cat /proc/sys/net/ipv4/conf/eth*/log_martians"
    asked = {"bridge": {"DriverOpts": {SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1"}}}
    assert engine.output(shows, NetworkingConfig={"EndpointsConfig": asked}) == "1\n"
    engine.create("fields", f"{shows}; while sleep 0.1; do [ -e /sys/class/net/eth1 ] && exec {shows}; done")
    host.docker("start", "fields")
    host.docker("network", "create", "field-net")
    host.docker(
        "network", "connect", "--driver-opt", f"{SYSCTLS}=net.ipv4.conf.ifname.log_martians=1", "field-net",
        "fields",
    )  # fmt: skip
    host.docker("wait", "fields")
    assert host.docker("logs", "fields").split() == ["0", "0", "1"]
    host.docker("rm", "fields")
    host.docker("network", "rm", "field-net")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("net.ipv4.conf.IFNAME.nonesuch=1", "/proc/sys/net/ipv4/conf/eth0/nonesuch is not a sysctl file"),
        (
            "net.ipv4.conf.IFNAME.forwarding=abc",
            "unable to write to '/proc/sys/net/ipv4/conf/eth0/forwarding': "
            "write /proc/sys/net/ipv4/conf/eth0/forwarding: invalid argument",
        ),
        (
            "net.ipv4.conf.IFNAME.forwarding",
            "expected sysctl 'net.ipv4.conf.IFNAME.forwarding' to have format name=value",
        ),
    ],
)
def test_parameters_that_the_interface_lacks(engine: Engine, asked: str, said: str) -> None:
    shown = engine.output(
        "true", NetworkingConfig={"EndpointsConfig": {"bridge": {"DriverOpts": {SYSCTLS: asked}}}}
    )
    assert "failed to set up container networking: failed to add interface veth" in shown
    assert said in shown


def test_what_is_no_parameter_of_an_interface(host: Host) -> None:
    body = {
        "Image": "busybox",
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {"DriverOpts": {SYSCTLS: "kernel.shmmax=1"}}}},
    }
    status, answer = host.curl("POST", "/containers/create", body)
    assert status == 400
    assert answer["message"].startswith(
        "invalid config for network bridge: invalid endpoint settings:\n"
        "unrecognised network interface sysctl 'kernel.shmmax=1'"
    )


def test_a_disabled_network_leaves_the_loopback(engine: Engine) -> None:
    said = engine.output("ls /sys/class/net; cat /etc/resolv.conf", NetworkDisabled=True)
    assert said == "lo\n"


def test_a_link_gives_a_name_variables_and_goes_away(engine: Engine, host: Host) -> None:
    engine.create(
        "store", "exec sleep 100", ExposedPorts={"6379/tcp": {}}, Env=["SIZE=big"], StopSignal="SIGKILL"
    )
    host.docker("start", "store")
    address = host.inspect("store")["NetworkSettings"]["IPAddress"]
    engine.create("user", "env; grep cache /etc/hosts", {"Links": ["store:cache"]})
    assert host.inspect("user")["HostConfig"]["Links"] == ["/store:/user/cache"]
    assert host.inspect("user/cache")["Name"] == "/store"
    rows = host.curl("GET", "/containers/json")[1]
    assert rows[0]["Names"] == ["/store", "/user/cache"]
    said = host.docker("start", "-a", "user").splitlines()
    assert f"CACHE_PORT=tcp://{address}:6379" in said
    assert f"CACHE_PORT_6379_TCP_ADDR={address}" in said
    assert "CACHE_NAME=/user/cache" in said
    assert "CACHE_ENV_SIZE=big" in said
    assert any(line.split()[:2] == [address, "cache"] for line in said)
    host.docker("rm", "--link", "user/cache")
    assert host.inspect("user")["HostConfig"]["Links"] is None
    assert host.inspect("store")["State"]["Running"]


# -- files of containers that do not run


def test_archives_reach_the_volumes_of_a_stopped_container(
    engine: Engine, volume: str, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text("bound\n")
    binds = [f"{volume}:/new/place", f"{tmp_path}:/bound:ro"]
    engine.create("fields", "cat /new/place/file", {"Binds": binds})
    engine.put("fields", "/new/place", "file", "from outside\n")
    assert engine.get("fields", "/new/place/file") == "from outside\n"
    assert engine.get("fields", "/bound/own") == "bound\n"
    status, body = engine.archive("PUT", "fields", "/bound", b"")
    assert (status, json.loads(body)["message"]) == (400, "mounted volume is marked read-only")
    assert engine.host.docker("start", "-a", "fields") == "from outside\n"
    engine.host.docker("rm", "fields")


def test_archives_show_images_and_directories_that_volumes_name(
    engine: Engine, host: Host, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("of the host\n")
    options = ["type=none", "o=bind", f"device={tmp_path}"]
    host.docker("volume", "create", *(word for option in options for word in ("-o", option)), "field-bound")
    image = {"Type": "image", "Source": "busybox", "Target": "/image"}
    engine.create("fields", "true", {"Binds": ["field-bound:/b"], "Mounts": [image]})
    assert engine.get("fields", "/b/file") == "of the host\n"
    engine.put("fields", "/b", "more", "put\n")
    assert (tmp_path / "more").read_text() == "put\n"
    assert "root" in engine.get("fields", "/image/etc/passwd")
    host.docker("rm", "fields")
    host.docker("volume", "rm", "field-bound")


def test_archives_of_a_stopped_container_leave_no_mount(engine: Engine, volume: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    engine.create("fields", "true", {"Binds": [f"{volume}:/v"]})
    for number in range(5):
        engine.put("fields", "/v", f"file-{number}", "x")
    assert Path("/proc/self/mountinfo").read_text() == before
    engine.host.docker("rm", "fields")


def test_a_symlink_for_a_mount_point_stays_in_the_container(engine: Engine, volume: str) -> None:
    engine.create("fields", "rmdir /v; ln -s /etc /v")
    engine.host.docker("start", "-a", "fields")
    engine.host.docker("commit", "fields", "field-link")
    engine.host.docker("rm", "fields")
    engine.create("fields", "true", {"Binds": [f"{volume}:/v"]}, Image="field-link")
    engine.put("fields", "/v", "pyd-was-here", "x")
    assert not Path("/etc/pyd-was-here").exists()
    assert engine.get("fields", "/etc/pyd-was-here") == "x"
    engine.host.docker("rm", "fields")
    engine.host.docker("rmi", "field-link")


def test_changes_and_commits_are_the_containers_own(engine: Engine, host: Host) -> None:
    engine.create("fields", "test -f /.dockerenv && echo mine > /mine")
    host.docker("start", "-a", "fields")
    assert host.docker("diff", "fields") == "A /mine\n"
    host.docker("commit", "fields", "field-commit")
    saved = host.try_docker("save", "field-commit").stdout
    host.docker("rm", "fields")
    host.docker("rmi", "field-commit")
    names: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        layer = archive.extractfile(manifest["Layers"][-1])
        assert layer
        with tarfile.open(fileobj=layer) as tar:
            names = {name.removeprefix("./").rstrip("/") for name in tar.getnames()}
    assert "mine" in names
    assert not names & {".dockerenv", "dev", "proc", "sys", "etc/hosts", "etc/resolv.conf", "etc/hostname"}


def test_a_volumes_file_system_after_the_daemon_was_killed(own_host: Host) -> None:
    host = own_host
    options = ("type=tmpfs", "device=tmpfs")
    host.docker("volume", "create", *(word for option in options for word in ("-o", option)), "memory")
    place = host.data_root / "volumes" / "memory" / "_data"
    for name in ("stays", "goes"):
        host.docker("run", "-d", "--name", name, "-v", "memory:/t", "busybox", "sleep", "1000")
    host.docker("exec", "stays", "touch", "/t/file")
    pids = {name: host.inspect(name)["State"]["Pid"] for name in ("stays", "goes")}
    host.kill()
    os.kill(pids["goes"], signal.SIGKILL)
    host.start()
    assert os.listdir(place) == ["file"]  # one still has it
    host.kill()
    os.kill(pids["stays"], signal.SIGKILL)
    host.start()
    assert not is_mounted(place)
    host.docker("rm", "stays", "goes")


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").exists(), reason="v2's freezer lets go of the dying")
def test_what_a_container_froze_in_itself_dies_with_it(engine: Engine, host: Host) -> None:
    script = """
    mkdir /sys/fs/cgroup/freezer/inner; sleep 1000 & echo $! > /sys/fs/cgroup/freezer/inner/tasks
    echo FROZEN > /sys/fs/cgroup/freezer/inner/freezer.state; echo frozen; exec sleep 1000
    """
    engine.create("fields", script, {"Privileged": True})
    host.docker("start", "fields")
    deadline = time.monotonic() + 10
    while host.docker("logs", "fields") != "frozen\n":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    host.docker("kill", "fields", timeout=8)
    host.docker("rm", "fields")

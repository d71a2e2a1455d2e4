"""Bad input: a clear error in Docker's form, dockerd's status, nothing left behind, and the daemon goes on.

The statuses and words of the table were read off a dockerd 28.5. Where it has 500 for what is the caller's
mistake (`limit=abc`, a relative mount path) or accepts it (a protocol that is none), pyd has 400.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import host_on_a_small_disk
from tests.system.holdings import settled, unchanged
from tests.system.host import Host
from tests.system.images_registry import FakeRegistry, archive, fake_registry

IMAGE = "bad-input:latest"

Row = tuple[str, str, Any, int, str]
"""Method, path, body (text: as it is), status, what the message matches (regular expression)."""


def create(status: int, message: str, **host: Any) -> Row:
    return "POST", "/containers/create?name=bad", {"Image": IMAGE, "HostConfig": host}, status, message


def config(status: int, message: str, **fields: Any) -> Row:
    return "POST", "/containers/create?name=bad", {"Image": IMAGE, **fields}, status, message


ROWS: list[Row] = [
    # form
    ("POST", "/containers/create", "{not json", 400, "invalid"),
    ("POST", "/containers/create", '{"Image": "x"} trailing', 400, "unexpected content after JSON"),
    ("POST", "/containers/create", '{"Image": 7}', 400, "cannot unmarshal number"),
    ("POST", "/containers/create", '{"Image": "x", "HostConfig": []}', 400, "cannot unmarshal array"),
    (
        "POST",
        "/containers/create",
        '{"Image": "x", "HostConfig": {"Memory": "1m"}}',
        400,
        "cannot unmarshal string",
    ),
    ("POST", "/containers/create", '{"Image": "x", "Cmd": {"a": 1}}', 400, "cannot unmarshal object"),
    ("POST", "/containers/create", "", 400, "config cannot be empty|EOF|invalid"),
    ("POST", "/containers/create", "null", 400, "config cannot be empty"),
    ("GET", "/containers/json?limit=abc", None, 400, "invalid"),
    ("GET", "/containers/json?filters={bad", None, 400, "invalid"),
    ("GET", '/containers/json?filters={"nope":["x"]}', None, 400, "invalid filter 'nope'"),
    ("GET", "/nothing/here", None, 404, "page not found"),
    ("GET", "/v9.99/containers/json", None, 400, "client version 9.99 is too new"),
    ("GET", "/v1.10/containers/json", None, 400, "client version 1.10 is too old"),
    # names and things that are not there
    (
        "POST",
        "/containers/create?name=taken",
        {"Image": IMAGE},
        409,
        'The container name "/taken" is already in use',
    ),
    ("POST", "/containers/create?name=a%20b", {"Image": IMAGE}, 400, "Invalid container name"),
    ("POST", "/containers/create?name=bad", {"Image": "no/such:image"}, 404, "No such image: no/such:image"),
    ("POST", "/containers/create?name=bad", {"Image": "UPPER"}, 400, "invalid reference format"),
    ("GET", "/containers/nobody/json", None, 404, "No such container: nobody"),
    ("POST", "/containers/nobody/start", None, 404, "No such container: nobody"),
    ("DELETE", "/containers/nobody", None, 404, "No such container: nobody"),
    ("POST", "/containers/taken/kill", None, 409, "is not running"),
    ("POST", "/containers/taken/kill?signal=NOPE", None, 400, "(?i)invalid signal: NOPE"),
    ("POST", "/containers/taken/pause", None, 409, "is not running"),
    ("POST", "/containers/taken/rename?name=taken", None, 400, "same name"),
    ("POST", "/containers/taken/exec", {"Cmd": ["true"]}, 409, "is not running"),
    ("POST", "/exec/nothing/start", {}, 404, "No such exec instance: nothing"),
    ("GET", "/images/none/json", None, 404, "No such image: none"),
    ("DELETE", "/images/none", None, 404, "No such image: none"),
    ("GET", "/volumes/none", None, 404, "no such volume"),
    ("GET", "/networks/none-such", None, 404, "network none-such not found"),
    ("POST", "/containers/taken/update", {"Memory": 1000}, 400, "Minimum memory limit allowed is 6MB"),
    ("GET", "/containers/taken/logs", None, 400, "you must choose at least one stream"),
    ("GET", "/containers/taken/archive?path=/none", None, 404, "Could not find the file /none"),
    # limits and values
    create(400, "Minimum memory limit allowed is 6MB", Memory=1 << 20),
    create(400, "Minimum memory limit allowed is 6MB", Memory=-5),
    create(400, "Minimum memoryswap limit should be larger", Memory=64 << 20, MemorySwap=32 << 20),
    create(400, "range of CPUs is from 0.01 to", NanoCpus=-1_000_000_000),
    create(400, "range of CPUs is from 0.01 to", NanoCpus=10_000 * 10**9),
    create(400, "Requested CPUs are not available", CpusetCpus="900"),
    create(400, "Invalid value x for cpuset cpus", CpusetCpus="x"),
    create(400, "CPU cfs period", CpuPeriod=1),
    create(400, "SHM size can not be less than 0", ShmSize=-1),
    create(400, "oom score adj", OomScoreAdj=5000),
    create(400, "unknown policy", RestartPolicy={"Name": "sometimes"}),
    create(400, "AutoRemove", AutoRemove=True, RestartPolicy={"Name": "always"}),
    create(400, "unknown capability", CapAdd=["NO_SUCH"]),
    create(400, "unknown or invalid runtime name", Runtime="none"),
    create(400, "(?i)invalid (pid|PID) mode", PidMode="bogus"),
    create(400, "(?i)ipc mode", IpcMode="bogus"),
    create(400, 'plugin "bogus" not found', LogConfig={"Type": "bogus"}),
    create(
        400, "bind source path does not exist", Mounts=[{"Type": "bind", "Source": "/none", "Target": "/x"}]
    ),
    create(400, "invalid", Binds=["no-colon-and/not-absolute:also/relative"]),
    create(400, "Duplicate mount point: /x", Binds=["/tmp:/x", "/var:/x"]),
    create(400, "invalid (port|range|publish|bind)", PortBindings={"80/tcp": [{"HostPort": "99999"}]}),
    create(400, "(?i)invalid port", PortBindings={"70000/tcp": [{"HostPort": "1"}]}),
    create(400, "(?i)invalid", PortBindings={"80/bogus": [{"HostPort": "1"}]}),
    create(400, "invalid", PortBindings={"80/tcp": [{"HostPort": "9000-8000"}]}),
    config(400, "working directory", WorkingDir="relative"),
    config(400, "(?i)invalid signal: NOPE", StopSignal="NOPE"),
    config(400, "invalid environment variable", Env=["=x"]),
]


def ask(sock: Path, method: str, path: str, body: Any) -> tuple[int, Any]:
    """curl alone, so that what is sent is what stands in the table."""
    command = ["curl", "-sg", "-X", method, "--unix-socket", str(sock), "-w", "\n%{http_code}"]
    if body is not None:
        text = body if isinstance(body, str) else json.dumps(body)
        command += ["-H", "Content-Type: application/json", "--data-binary", text]
    done = subprocess.run(
        [*command, f"http://x{path}"], capture_output=True, text=True, timeout=60, check=True
    )
    answer, _, status = done.stdout.rpartition("\n")
    try:
        return int(status), json.loads(answer)
    except ValueError:
        return int(status), answer


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("bad"))
    made.start()
    try:
        made.docker("import", "--change", 'CMD ["sh"]', str(busybox_tar), IMAGE)
        made.docker("create", "--name", "taken", IMAGE)
        yield made
    finally:
        made.undo()


def shown(row: Row) -> str:
    body = row[2] if isinstance(row[2], str) else json.dumps(row[2])
    return f"{row[0]} {row[1]} {body}"[:110]


@pytest.mark.parametrize("row", ROWS, ids=shown)
def test_a_bad_request_is_refused_as_dockerd_does(target: Host, row: Row) -> None:
    method, path, body, status, message = row
    answer = ask(target.socket, method, path, body)
    assert answer[0] == status, answer
    if "v1.10" not in path:  # clients of that age want plain text
        assert set(answer[1]) == {"message"}
    assert re.search(message, str(answer[1])), answer


def test_nothing_is_left_of_all_of_them(target: Host) -> None:
    with unchanged(target):
        for method, path, body, _, _ in ROWS:
            ask(target.socket, method, path, body)
        names = target.docker("ps", "-a", "--format", "{{.Names}}").split()
        assert names == ["taken"]
    assert target.docker("run", "--rm", IMAGE, "echo", "fine") == "fine\n"


# -- at start and by the clients


def test_commands_that_cannot_run(target: Host) -> None:
    with unchanged(target):
        missing = target.try_docker("run", "--rm", IMAGE, "no-such")
        assert missing.returncode == 127
        assert b'exec: "no-such": executable file not found in $PATH' in missing.stderr
        for path, words in (
            ("/etc/passwd", b"permission denied"),
            ("/tmp", b"is a directory|permission denied"),
        ):
            refused = target.try_docker("run", "--rm", IMAGE, path)
            assert refused.returncode == 126
            assert re.search(words, refused.stderr), refused.stderr
        assert target.try_docker("run", "--rm", "-u", "nobody-here", IMAGE).returncode == 125
        assert target.try_docker("run", "--rm", "-w", "/etc/passwd", IMAGE).returncode in (125, 126, 127)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-p", "99999:80"], "invalid hostPort|Invalid hostPort|invalid port"),
        (["-p", "8000-8002:80-81"], "(?i)invalid ranges"),
        (["-p", "9000-8000:80"], "(?i)invalid"),
        (["-p", "80/nope"], "(?i)invalid proto"),
        (["--memory", "1m"], "Minimum memory limit allowed is 6MB"),
        (["--cpus", "-1"], "range of CPUs|invalid"),
        (["--network", "none-such"], "network none-such not found"),
        (["--mount", "type=bind,source=/none/such,target=/x"], "bind source path does not exist: /none/such"),
        (["--device", "/dev/none-such"], "no such file or directory"),
        (["--sysctl", "kernel.nothing=1"], "sysctl"),
        (["--security-opt", "seccomp=/none"], "no such file or directory"),
        (["--pid", "container:nobody"], "No such container: nobody"),
        (["--volumes-from", "nobody"], "No such container: nobody"),
        (["--ulimit", "nofile=10:5"], "ulimit soft limit must be less than or equal to hard limit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be(target: Host, flags: list[str], words: str) -> None:
    with unchanged(target):
        result = target.try_docker("run", "--name", "bad", *flags, IMAGE, "true")
        assert result.returncode == (127 if "--device" in flags else 125), (
            result
        )  # the client goes by the words
        assert re.search(words, result.stderr.decode()), result.stderr
        target.try_docker("rm", "bad")  # some are refused at start, with the container made, as dockerd does


def test_a_port_in_use_by_another_container(target: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    target.docker("run", "-d", "--name", "first", "-p", f"{port}:80", IMAGE, "sleep", "60")
    with unchanged(target):
        result = target.try_docker("run", "-d", "--name", "second", "-p", f"{port}:80", IMAGE, "sleep", "60")
        assert result.returncode == 125
        assert b"port is already allocated" in result.stderr, result.stderr
        target.docker("rm", "second")
    target.docker("rm", "-f", "first")


# -- archives


def hostile(*entries: tuple[str, str]) -> bytes:
    """A tar whose entries are files, or symbolic links where a target is given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, link in entries:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
                tar.addfile(entry)
            else:
                entry.size = 4
                tar.addfile(entry, io.BytesIO(b"evil"))
    return out.getvalue()


def test_archives_that_would_leave_the_root(target: Host, tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    up = "../" * 20
    target.docker("create", "--name", "victim", IMAGE)
    with unchanged(target):
        for tar in (
            hostile((f"{up}{str(bait)[1:]}", "")),
            hostile((str(bait), "")),
            hostile(("link", str(tmp_path)), ("link/bait", "")),
            hostile(("link", f"{up}{str(tmp_path)[1:]}"), ("link/bait", "")),
        ):
            target.try_docker("cp", "-", "victim:/tmp", input=tar)
            imported = target.try_docker("import", "-", "hostile:1", input=tar)
            if imported.returncode == 0:
                target.docker("rmi", "hostile:1")
            assert not bait.exists()
    target.docker("rm", "victim")


def test_archives_cut_short_or_no_archives_at_all(target: Host, tmp_path: Path) -> None:
    target.docker("save", "-o", str(tmp_path / "saved.tar"), IMAGE)
    whole = (tmp_path / "saved.tar").read_bytes()
    target.docker("create", "--name", "victim", IMAGE)
    with unchanged(target):
        for data in (whole[: len(whole) // 2], b"this is no tar" * 1000, whole[:700]):
            loaded = target.try_docker("load", input=data)
            assert loaded.returncode == 1, loaded
            assert loaded.stderr
        assert target.try_docker("import", "-", "cut:1", input=whole[: len(whole) // 2]).returncode == 1
        assert target.try_docker("cp", "-", "victim:/tmp", input=whole[: len(whole) // 2]).returncode == 1
        assert target.docker("images", "-q", "cut") == ""
    target.docker("rm", "victim")
    assert "Loaded image" in target.docker("load", input=whole)


# -- registries


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with fake_registry() as made:
        made.put("one", archive({"a": os.urandom(200_000)}), archive({"b": os.urandom(200_000)}))
        yield made


def layer(fake: FakeRegistry, number: int) -> str:
    """Digest of one of the image's layers."""
    return str(json.loads(fake.manifests["one"][1])["layers"][number]["digest"])


def test_a_tampered_layer(target: Host, fake: FakeRegistry) -> None:
    digest = layer(fake, 1)
    fake.faults[digest] = "tamper"
    with unchanged(target):
        result = target.try_docker("pull", f"{fake.address}/x:one")
        assert result.returncode == 1
        assert re.search(rb"(?i)digest|verif|corrupt", result.stderr), result.stderr
        del fake.faults[digest]
        target.docker("pull", f"{fake.address}/x:one")
        target.docker("rmi", f"{fake.address}/x:one")  # whole blobs of the failed pull go now at the latest


def test_a_registry_that_closes_in_the_middle(target: Host, fake: FakeRegistry) -> None:
    """Now and then: it is asked again. Always: an error."""
    digest = layer(fake, 0)
    fake.faults[digest], fake.times[digest] = "close", 1
    with unchanged(target):
        target.docker("pull", f"{fake.address}/x:one")
        target.docker("rmi", f"{fake.address}/x:one")


def test_a_registry_that_hangs_and_a_client_that_has_enough(target: Host, fake: FakeRegistry) -> None:
    """Other work goes on meanwhile; when the client leaves, so does what it had begun."""
    digest = layer(fake, 0)
    fake.faults[digest] = "hang"
    with unchanged(target):
        pull = subprocess.Popen(target._docker("pull", f"{fake.address}/x:one"), stdout=subprocess.PIPE)
        assert pull.stdout
        for line in pull.stdout:
            if b"Pulling fs layer" in line:
                break
        assert target.docker("run", "--rm", IMAGE, "echo", "meanwhile") == "meanwhile\n"
        pull.kill()
        pull.wait()
        pull.stdout.close()
    fake.closing.set()


def test_nobody_is_there(target: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with unchanged(target):
        result = target.try_docker("run", "--rm", f"{address}/x:one")
        assert result.returncode == 125
        assert b"connection refused" in result.stderr, result.stderr


# -- a full disk


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[Host]:
    """A pydd whose data root is a file system of 48 MB."""
    with host_on_a_small_disk(tmp_path_factory.mktemp("small"), 48) as made:
        made.docker("import", "--change", 'CMD ["sh"]', str(busybox_tar), IMAGE)
        yield made


def test_a_pull_onto_a_full_disk(small: Host) -> None:
    with fake_registry() as fake:
        fake.put("big", archive({"a": os.urandom(30 << 20)}), archive({"b": os.urandom(30 << 20)}))
        fake.put("little", archive({"a": os.urandom(1000)}))
        with unchanged(small):
            result = small.try_docker("pull", f"{fake.address}/x:big")
            assert result.returncode == 1
            assert b"no space left on device" in result.stderr.lower(), result.stderr
        small.docker("pull", f"{fake.address}/x:little")
        small.docker("rmi", f"{fake.address}/x:little")


def test_a_load_and_an_import_onto_a_full_disk(small: Host) -> None:
    with unchanged(small):
        result = small.try_docker("import", "-", "big:1", input=archive({"a": os.urandom(60 << 20)}))
        assert result.returncode == 1
        assert b"no space left on device" in result.stderr.lower(), result.stderr
    assert small.docker("run", "--rm", IMAGE, "echo", "fine") == "fine\n"


def test_containers_on_a_full_disk(small: Host) -> None:
    """One fills it; it, others and the daemon say so, and go on once there is room."""
    script = "cat /dev/zero > /full 2>/dev/null; echo full; exec sleep 600"
    before = settled(small)
    small.docker("run", "-d", "--name", "filler", IMAGE, "sh", "-c", script)
    process = Path(f"/proc/{small.inspect('filler')['State']['Pid']}/cmdline")
    end = time.monotonic() + 60
    while not process.read_bytes().startswith(b"sleep"):
        assert time.monotonic() < end, "the disk does not fill"
        time.sleep(0.05)
    result = small.try_docker("run", "--name", "late", IMAGE, "echo", "hi")
    assert result.returncode in (0, 125), result
    if result.returncode:
        assert b"no space left on device" in result.stderr.lower(), result.stderr
    assert small.docker("version", "-f", "{{.Server.Os}}") == "linux\n"
    small.docker("rm", "-f", "filler")
    while os.statvfs(small.data_root).f_bavail < 4096:  # removed trees are purged in the background
        assert time.monotonic() < end, "the room does not come back"
        time.sleep(0.05)
    assert small.docker("run", "--rm", IMAGE, "echo", "room") == "room\n"
    small.try_docker("rm", "-f", "late")
    assert settled(small)["containers"] == before["containers"]

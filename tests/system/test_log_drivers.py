"""Logging by the stock client: every driver, rotation and compression while read, what is lost (nothing)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import load_busybox
from tests.system.host import ENVIRONMENT, Host

MANY = 60_000


@contextlib.contextmanager
def server(kind: str, path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """A log server's address, and what it has received."""
    stream = kind in ("tcp", "unix")
    family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    listener.bind(str(path) if family == socket.AF_UNIX else ("127.0.0.1", 0))
    if stream:
        listener.listen()
    messages: list[bytes] = []

    def read(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            messages.extend(file)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                if stream:
                    threading.Thread(target=read, args=(listener.accept()[0],), daemon=True).start()
                elif not (data := listener.recv(1 << 20)):
                    return
                else:
                    messages.append(data)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        where = str(path) if family == socket.AF_UNIX else "{}:{}".format(*listener.getsockname())
        yield f"{kind}://{where}", messages
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)


def wait_for(messages: list[bytes], count: int) -> None:
    deadline = time.monotonic() + 15
    while len(messages) < count:
        assert time.monotonic() < deadline, messages
        time.sleep(0.02)


# -- files


def test_json_file_rotates_compresses_and_is_read_as_one(host: Host) -> None:
    options = ["max-size=200k", "max-file=50", "compress=true", "tag={{.Name}}", "labels=k", "env=E"]
    flags = [word for option in options for word in ("--log-opt", option)]
    container = host.docker(
        *("run", "-d", "--name", "c1", "--label", "k=v", "-e", "E=1", *flags, "busybox"),
        *("sh", "-c", f"seq {MANY}; echo err >&2"),
    ).strip()
    host.docker("wait", "c1")
    time.sleep(0.5)  # the last compressor
    lines = host.docker("logs", "c1").splitlines()
    assert lines == [str(n) for n in range(1, MANY + 1)]
    files = sorted(p.name for p in (host.data_root / "containers" / container).glob("*-json.log*"))
    assert len(files) > 10 and sum(name.endswith(".gz") for name in files) >= len(files) - 2
    assert host.docker("logs", "--tail", "3", "c1").splitlines() == [
        str(n) for n in range(MANY - 1, MANY + 1)
    ]
    assert len(host.docker("logs", "--tail", str(MANY // 2), "c1").splitlines()) >= MANY // 2 - 1
    details = host.docker("logs", "--details", "--tail", "2", "c1").splitlines()[0]
    assert details == f"E=1,k=v,tag=c1 {MANY}"


def test_following_over_rotation_and_compression_loses_and_doubles_nothing(host: Host) -> None:
    flags = ["--log-opt", "max-size=100k", "--log-opt", "max-file=100", "--log-opt", "compress=true"]
    script = f"for i in 1 2 3 4 5 6; do seq {MANY // 6}; sleep 0.1; done"
    host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sh", "-c", script)
    lines = host.docker("logs", "--follow", "c1").splitlines()
    assert lines == [str(n) for n in range(1, MANY // 6 + 1)] * 6


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_long_lines_partial_lines_and_both_streams(host: Host, driver: str) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf '\\303('; echo; echo err >&2; printf partial"
    host.try_docker("run", "--name", "c1", "--log-driver", driver, "busybox", "sh", "-c", script)
    result = host.try_docker("logs", "c1")
    broken = b"\xef\xbf\xbd(" if driver == "json-file" else b"\xc3("
    assert result.stdout == b"x" * 40000 + b"\n" + broken + b"\n" + b"partial"
    assert result.stderr == b"err\n"
    stamped = host.try_docker("logs", "-t", "--tail", "1", "c1").stdout.decode().split(" ", 1)
    assert stamped[1] == "partial" and stamped[0].endswith("Z") and len(stamped[0]) == 30
    if driver == "json-file":
        text = Path(host.inspect("c1")["LogPath"]).read_text().splitlines()
        assert [len(line.split('"')[3]) for line in text[:3]] == [16384, 16384, 40000 - 2 * 16384 + 2]


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_the_last_lines_of_a_growing_log_are_no_more_than_asked_for(host: Host, driver: str) -> None:
    script = "while true; do echo line; done"
    host.docker("run", "-d", "--name", "c1", "--log-driver", driver, "busybox", "sh", "-c", script)
    for count in (1, 2, 0) * 3:
        assert host.docker("logs", "--tail", str(count), "c1") == "line\n" * count
    assert set(host.docker("logs", "c1").splitlines()) == {"line"}  # and it ends


def test_none_keeps_nothing_and_still_shows_output(host: Host) -> None:
    assert host.docker("run", "--name", "c1", "--log-driver", "none", "busybox", "echo", "hi") == "hi\n"
    assert b"configured logging driver does not support reading" in host.try_docker("logs", "c1").stderr
    assert host.inspect("c1")["LogPath"] == ""


def test_the_order_of_lines_of_one_stream_is_kept_under_load(host: Host) -> None:
    names = [f"n{index}" for index in range(4)]
    for name in names:
        host.docker("run", "-d", "--name", name, "busybox", "seq", str(MANY // 2))
    host.docker("wait", *names)
    for name in names:
        assert host.docker("logs", name).splitlines() == [str(n) for n in range(1, MANY // 2 + 1)]


# -- elsewhere


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix", "unixgram"])
def test_syslog(host: Host, tmp_path: Path, kind: str) -> None:
    with server(kind, tmp_path / "s") as (address, messages):
        options = [f"syslog-address={address}", "syslog-format=rfc5424", "tag={{.Name}}/{{.ID}}"]
        flags = [word for option in options for word in ("--log-opt", option)]
        script = "echo out; sleep 0.1; echo err >&2; sleep 0.1; printf part"
        host.docker("run", "--name", "c1", "--log-driver", "syslog", *flags, "busybox", "sh", "-c", script)
        wait_for(messages, 3)
        name = f"c1/{host.inspect('c1')['Id'][:12]}"
        assert [m.split()[0] for m in messages] == [b"<30>1", b"<27>1", b"<30>1"]
        assert [m.rpartition(b" - ")[2] for m in messages] == [b"out\n", b"err\n", b"part\n"]
        assert all(m.split()[3].decode() == name for m in messages)
        assert host.docker("logs", "c1") == "out\npart"  # from the copy kept beside
        host.docker("rm", "c1")


def test_syslog_without_a_copy_and_without_a_server(host: Host, tmp_path: Path) -> None:
    with server("unixgram", tmp_path / "s") as (address, messages):
        flags = ["--log-driver", "syslog", "--log-opt", f"syslog-address={address}"]
        host.docker("run", "--name", "c1", *flags, "--log-opt", "cache-disabled=true", "busybox", "echo", "x")
        wait_for(messages, 1)
        assert b"does not support reading" in host.try_docker("logs", "c1").stderr
    refused = host.try_docker("run", "--name", "c2", *flags, "busybox", "true")
    assert b"connect: connection refused" in refused.stderr or b"no such file" in refused.stderr
    tcp = ["--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:1"]
    refused = host.try_docker("run", "--name", "c3", *tcp, "busybox", "true")
    assert (
        b"failed to create task for container: failed to initialize logging driver: "
        b"dial tcp 127.0.0.1:1: connect: connection refused" in refused.stderr
    )


def test_journald(busybox_tar: Path, tmp_path: Path) -> None:
    with (
        server("unixgram", tmp_path / "journal") as (_, messages),
        tempfile.TemporaryDirectory(prefix="pyd-") as d,
    ):
        host = Host(Path(d), "--journald-socket", str(tmp_path / "journal"))
        host.start()
        try:
            load_busybox(host, busybox_tar)
            flags = ["--log-driver", "journald", "--log-opt", "labels=com.x", "--label", "com.x=1"]
            host.docker(
                "run", "--name", "c1", *flags, "busybox", "sh", "-c", "echo out; sleep 0.1; echo err >&2"
            )
            wait_for(messages, 2)
            fields = [dict(line.split(b"=", 1) for line in m.splitlines()) for m in messages]
            assert [f[b"MESSAGE"] for f in fields] == [b"out", b"err"]
            assert [f[b"PRIORITY"] for f in fields] == [b"6", b"3"]
            assert fields[0][b"CONTAINER_NAME"] == b"c1" and fields[0][b"COM_X"] == b"1"
            assert fields[0][b"CONTAINER_ID_FULL"].decode() == host.inspect("c1")["Id"]
            assert fields[0][b"IMAGE_NAME"] == b"busybox"
            assert host.docker("logs", "c1") == "out\n"
        finally:
            host.undo()
    assert host.process is not None


def test_a_journal_that_is_not_there(busybox_tar: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        host = Host(Path(directory), "--journald-socket", str(tmp_path / "none"))
        host.start()
        try:
            load_busybox(host, busybox_tar)
            refused = host.try_docker("run", "--log-driver", "journald", "busybox", "true")
            assert (
                b"failed to initialize logging driver: journald is not enabled on this host" in refused.stderr
            )
        finally:
            host.undo()


def test_a_receiver_that_does_not_read_holds_its_own_container_up_only(host: Host, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    flags = ["--log-driver", "syslog", "--log-opt", f"syslog-address=unix://{tmp_path / 's'}"]
    script = "yes 'a line of some length' | head -c 30000000; touch /done; sleep 1000"
    host.docker("run", "-d", "--name", "stuck", *flags, "busybox", "sh", "-c", script)
    ring = ["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=100k"]
    host.docker("run", "-d", "--name", "ring", *flags, *ring, "busybox", "sh", "-c", script)
    began = time.monotonic()
    assert host.docker("run", "--rm", "busybox", "echo", "other") == "other\n"
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 20
    while host.try_docker("exec", "ring", "test", "-e", "/done").returncode:
        assert time.monotonic() < deadline, "non-blocking mode blocks"
        time.sleep(0.1)
    assert host.try_docker("exec", "stuck", "test", "-e", "/done").returncode == 1
    host.docker("rm", "-f", "stuck", "ring", timeout=30)
    listener.close()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--log-driver", "gelf"], 'error looking up logging plugin gelf: plugin "gelf" not found'),
        (["--log-opt", "x=1"], "unknown log opt 'x' for json-file log driver"),
        (["--log-opt", "max-size=abc"], "failed to initialize logging driver: invalid size: 'abc'"),
        (["--log-opt", "tag={{.Foo}}"], "can't evaluate field Foo in type *logger.Info"),
    ],
)
def test_bad_options_are_refused_and_leave_no_process(host: Host, flags: list[str], text: str) -> None:
    result = host.try_docker("run", "--rm", *flags, "busybox", "true")
    assert text in result.stderr.decode() and result.returncode == 125


def test_logs_of_a_killed_daemon_have_no_gap(own_host: Host) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; sleep 0.3; seq 3000 3100"
    own_host.docker("run", "-d", "--name", "c1", "busybox", "sh", "-c", script)
    follower = subprocess.Popen(
        ["docker", "-H", own_host.url, "logs", "-f", "c1"], stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    own_host.kill()
    follower.communicate(timeout=10)
    own_host.start()
    own_host.docker("wait", "c1")
    assert own_host.docker("logs", "c1").splitlines() == [str(n) for n in range(3101)]

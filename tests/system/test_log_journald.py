"""The journald driver with a real systemd-journald, in a namespace of its own: written to, and read back."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.containers.logs.journald import split
from tests.system.conftest import load_busybox
from tests.system.host import ENVIRONMENT, Host
from tests.system.test_api_streams import Daemon
from tests.system.test_attach_replay import framed, numbers

JOURNALD = "/lib/systemd/systemd-journald"
pytestmark = pytest.mark.skipif(
    not (os.path.exists(JOURNALD) and os.path.exists("/etc/machine-id") and shutil.which("journalctl")),
    reason="systemd-journald is not installed",
)


@pytest.fixture(scope="module")
def journal() -> Iterator[tuple[str, Path]]:
    """(namespace, socket)"""
    name = f"pydtest{secrets.token_hex(3)}"
    machine = Path("/etc/machine-id").read_text().strip()
    socket = Path(f"/run/systemd/journal.{name}/socket")
    parents = [path for path in (Path("/var/log/journal"), Path("/run/log/journal")) if not path.exists()]
    process = subprocess.Popen([JOURNALD, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None and time.monotonic() < deadline, "journald does not start"
            time.sleep(0.02)
        yield name, socket
    finally:
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(socket.parent, ignore_errors=True)
        for base in ("/run", "/var"):
            shutil.rmtree(f"{base}/log/journal/{machine}.{name}", ignore_errors=True)
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()


@pytest.fixture(scope="module")
def noting(journal: tuple[str, Path], busybox_tar: Path) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        host = Host(Path(directory), "--journald-socket", str(journal[1]))
        host.start()
        try:
            load_busybox(host, busybox_tar)
            yield host
        finally:
            host.undo()


def run(host: Host, name: str, script: str, *flags: str) -> None:
    host.docker("run", "--name", name, "--log-driver", "journald", *flags, "busybox", "sh", "-c", script)


def test_logs_come_from_the_journal(noting: Host, journal: tuple[str, Path]) -> None:
    script = (
        "seq 3; sleep 0.05; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; printf '\\na\\033b\\nend'"
    )
    run(noting, "box", script, "--label", "com.x=1", "--log-opt", "labels=com.x", "--log-opt", "tag=t")
    result = noting.try_docker("logs", "box")
    assert result.stdout == b"1\n2\n3\n" + b"x" * 20_000 + b"\na\x1bb\nend"
    assert result.stderr == b"err\n"
    identifier = noting.inspect("box")["Id"]
    assert not list((noting.data_root / "containers" / identifier).glob("*cached*"))
    assert noting.docker("logs", "--tail", "2", "box") == "a\x1bb\nend"
    details = noting.docker("logs", "--details", "--tail", "1", "box")
    assert details == "COM_X=1 end"
    stamped = noting.docker("logs", "-t", "box").splitlines()
    since, until = stamped[1].split()[0], stamped[2].split()[0]
    assert noting.docker("logs", "--since", since, "--until", until, "box").splitlines()[-1] in ("2", "3")
    found = noting.run(["journalctl", "--namespace", journal[0], "-q", "-o", "cat", "CONTAINER_NAME=box"])
    assert found.stdout.startswith(b"1\n2\n3\n")


def test_following_shows_lines_as_they_come_and_ends(noting: Host) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.6; done; echo last"
    noting.docker("run", "-d", "--name", "slow", "--log-driver", "journald", "busybox", "sh", "-c", script)
    command = ["docker", "-H", noting.url, "logs", "-f", "slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as follower:
        assert follower.stdout
        began, came = time.monotonic(), []
        for _ in range(3):
            assert follower.stdout.readline()
            came.append(time.monotonic() - began)
        assert came[2] > 0.8  # each when it was printed
        assert follower.stdout.read() == b"last\n"
    assert noting.docker("logs", "-f", "--tail", "0", "slow") == ""


def test_a_replay_is_joined_by_what_follows(noting: Host) -> None:
    daemon = Daemon(str(noting.socket))
    counting = (
        "i=0; while :; do i=$((i+1)); printf $i; printf '.\\n'; [ $((i % 10)) = 0 ] && usleep 20000; done"
    )
    container = daemon.run(counting, HostConfig={"LogConfig": {"Type": "journald"}})
    try:
        for beyond in (300, 600, 900):
            with daemon.open("POST", f"/containers/{container}/attach?logs=1&stream=1&stdout=1") as raw:
                found = numbers(framed(raw), b"\n", beyond)
            assert found == list(range(1, found[-1] + 1))
    finally:
        noting.docker("rm", "-f", container)


def test_exported_entries_are_cut_anywhere() -> None:
    data = b"A=1\nM\n\x04\0\0\0\0\0\0\0a\n\nb\nB=x=y\n\nA=2\n\n"
    wanted = [{"A": b"1", "M": b"a\n\nb", "B": b"x=y"}, {"A": b"2"}]
    assert split(data) == (wanted, b"")
    for cut in range(len(data)):
        first, rest = split(data[:cut])
        second, left = split(rest + data[cut:])
        assert (first + second, left) == (wanted, b"")


def test_a_replay_after_the_keeper_was_killed(noting: Host) -> None:
    """Another keeper counts its messages anew."""
    container = noting.docker(
        *("run", "-d", "--name", "kept", "--log-driver", "journald", "-i", "busybox"),
        *("sh", "-c", "seq 30; while read x; do echo got $x; done"),
    ).strip()
    daemon = Daemon(str(noting.socket))
    daemon.await_output(container)
    keepers = [
        pid for pid in noting.supervisor_pids() if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for pid in keepers:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        living = noting.run(["pgrep", "-f", f"keeper.py --socket {noting.exec_root}"]).stdout.split()
        if living and int(living[0]) not in keepers:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for said in ("one", "two"):
        target = f"/containers/{container}/attach?logs=1&stream=1&stdin=1&stdout=1"
        with daemon.open("POST", target) as raw:
            before = raw.until(b"30\n")
            raw.sock.sendall(said.encode() + b"\n")
            before += raw.until(f"got {said}\n".encode())
            assert before.count(b"got ") == (1 if said == "one" else 2)
            assert before.count(b"30\n") == 1
    noting.docker("rm", "-f", "kept")

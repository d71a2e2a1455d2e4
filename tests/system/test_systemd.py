"""systemd's side played for real: units verified, sockets handed over, states and watchdog listened to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.host import ENVIRONMENT, REPOSITORY

UNITS = REPOSITORY / "systemd"
COMMANDS = Path(sys.executable).parent

ACTIVATE = """
import os, sys
for number, fd in enumerate(map(int, sys.argv[1].split(","))):
    os.dup2(fd, 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does between fork and execve: sd_listen_fds(3)."""


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def hear(self, seconds: float = 20) -> tuple[dict[str, str], int]:
        """The next message as its assignments, and the sender's pid."""
        self._socket.settimeout(seconds)
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        return dict(line.split("=", 1) for line in data.decode().splitlines()), pid

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        yield Path(directory)


@pytest.fixture
def manager(place: Path) -> Iterator[Manager]:
    listening = Manager(place)
    yield listening
    listening.close()


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(16)
    return sock


@contextlib.contextmanager
def activated(
    place: Path, manager: Manager, sockets: list[socket.socket], *hosts: str, **extra: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A pydd started as systemd starts it; undone at the end."""
    roots = ["--data-root", str(place / "data"), "--exec-root", str(place / "run")]
    fds = [sock.fileno() for sock in sockets]
    command = [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds))]
    command += [str(COMMANDS / "pydd"), *(word for host in hosts for word in ("-H", host)), *roots]
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(manager.path), "LISTEN_FDS": str(len(fds)), **extra}
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, pass_fds=fds, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)
        subprocess.run(
            [sys.executable, "-m", "daemon.undo", *roots], check=True, env=ENVIRONMENT, cwd=REPOSITORY
        )


def ping(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: pyd\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    return answer.decode()


# -- pydd


def test_activation_ready_and_stopping(place: Path, manager: Manager) -> None:
    path = place / "api.sock"
    with (
        listen(path) as sock,
        activated(place, manager, [sock], "fd://", LISTEN_FDNAMES="pyd.socket") as daemon,
    ):
        first = ping(path)  # sent while the daemon starts: the socket queues it, nobody is refused
        said, pid = manager.hear()
        assert (said["READY"], pid) == ("1", daemon.pid)
        assert first.startswith("HTTP/1.1 200 ") and first.endswith("OK")
        assert (
            "\n".join(f"{k}={v}" for k, v in said.items()) == "READY=1\nSTATUS=API listen on fd://pyd.socket"
        )
        daemon.send_signal(signal.SIGTERM)
        assert manager.hear()[0] == {"STOPPING": "1"}
        assert daemon.wait(timeout=30) == 0
        assert path.exists(), "the socket is systemd's: it stays for the next activation"


def test_each_of_two_sockets_is_taken_by_its_name(place: Path, manager: Manager) -> None:
    paths = [place / "one.sock", place / "two.sock"]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listen(path)) for path in paths]
        names = {"LISTEN_FDNAMES": "one:two"}
        stack.enter_context(activated(place, manager, sockets, "fd://two", "fd://one", **names))
        assert manager.hear()[0]["READY"] == "1"
        assert all(ping(path).endswith("OK") for path in paths)


def test_no_socket_is_an_error_that_says_so(place: Path, manager: Manager) -> None:
    with listen(place / "api.sock") as sock, activated(place, manager, [sock], "fd://other") as daemon:
        assert daemon.wait(timeout=30) == 1
        assert "no sockets found via socket activation for fd://other" in (place / "log").read_text()


def test_watchdog_is_fed_in_time_by_the_event_loop(place: Path, manager: Manager) -> None:
    limit = 0.6
    with (
        listen(place / "api.sock") as sock,
        activated(place, manager, [sock], "fd://", WATCHDOG_USEC=str(int(limit * 1e6))) as daemon,
    ):
        assert manager.hear()[0]["READY"] == "1"
        for _ in range(3):
            assert manager.hear(limit * 3)[0] == {"WATCHDOG": "1"}
        daemon.send_signal(signal.SIGSTOP)  # a hung loop stays silent, so that systemd restarts it
        try:
            with pytest.raises(TimeoutError):
                while True:
                    manager.hear(limit * 2)
        finally:
            daemon.send_signal(signal.SIGCONT)


def test_reload_is_announced(place: Path, manager: Manager) -> None:
    with listen(place / "api.sock") as sock, activated(place, manager, [sock], "fd://") as daemon:
        assert manager.hear()[0]["READY"] == "1"
        before = time.monotonic_ns() // 1000
        daemon.send_signal(signal.SIGHUP)
        said, _ = manager.hear()
        assert said["RELOADING"] == "1"
        assert before <= int(said["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert manager.hear()[0] == {"READY": "1"}


# -- pyd-supervisor


def test_supervisor_says_ready_once_it_serves(place: Path, manager: Manager) -> None:
    command = [
        str(COMMANDS / "pyd-supervisor"),
        "--exec-root",
        str(place / "run"),
        "--cgroup-root",
        "pyd-unit-test",
    ]
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(manager.path)}
    with open(place / "log", "wb") as log:
        supervisor = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        said, pid = manager.hear()
        assert (said, pid) == ({"READY": "1"}, supervisor.pid), (
            "the main process itself, as Type=notify wants"
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(place / "run" / "supervisor.sock"))
        supervisor.terminate()
        assert supervisor.wait(timeout=20) == 0
    finally:
        supervisor.kill()
        supervisor.wait()


# -- units


def verify(units: Path) -> str:
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(units.glob("pyd*.s*")))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return "\n".join(line for line in result.stderr.splitlines() if "pyd" in line)


def copy_units(target: Path, commands: Path) -> None:
    target.mkdir()
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        (target / unit.name).write_text(unit.read_text().replace("/usr/local/bin", str(commands)))


def test_units_are_valid(place: Path) -> None:
    copy_units(place / "units", COMMANDS)
    assert verify(place / "units") == ""


def test_verification_would_see_a_mistake(place: Path) -> None:
    copy_units(place / "units", COMMANDS)
    unit = place / "units" / "pyd.service"
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=proces"))
    assert "proces" in verify(place / "units")


def test_containers_outlive_both_services() -> None:
    for name in ("pyd.service", "pyd-supervisor.service"):
        lines = (UNITS / name).read_text().splitlines()
        assert {"KillMode=process", "Delegate=yes", "Type=notify"} <= set(lines), name


@pytest.mark.slow
def test_install_upgrade_and_uninstall(place: Path) -> None:
    prefix, units = place / "usr", place / "usr/lib/systemd/system"
    for _ in range(2):  # the second is an upgrade in place
        installed = subprocess.run(
            [UNITS / "install", prefix, units], capture_output=True, text=True, timeout=170, check=False
        )
        assert installed.returncode == 0, installed.stderr
    assert verify(units) == ""
    clean = {"PATH": os.environ["PATH"], "HOME": str(place)}
    for name, text in (("pyd", "pyd version"), ("pydd", "pyd version"), ("pyd-oci", "pyd-oci version")):
        shown = subprocess.run(
            [prefix / "bin" / name, "--version"],
            capture_output=True,
            text=True,
            env=clean,
            cwd="/",
            check=True,
        )
        assert shown.stdout.startswith(text)
    assert (prefix / "share/bash-completion/completions/pyd").read_text().startswith("# bash completion")
    subprocess.run([UNITS / "install", "--remove", prefix, units], check=True)
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == []

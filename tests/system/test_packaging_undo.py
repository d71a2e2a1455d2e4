"""`python -m daemon.undo`: whatever state a daemon was left in, nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.config import DaemonConfig
from daemon.undo import mounts_below
from tests.system.host import ENVIRONMENT, REPOSITORY, Host


def undo(host: Host) -> subprocess.CompletedProcess[str]:
    return undo_roots(host.data_root, host.exec_root)


def undo_roots(data_root: Path, exec_root: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "daemon.undo",
        "--data-root",
        str(data_root),
        "--exec-root",
        str(exec_root),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, cwd=REPOSITORY, timeout=60, check=False
    )


def what_is_left(host: Host) -> list[str]:
    """Everything that carries the daemon's identity or lies in its roots."""
    config = DaemonConfig(data_root=host.data_root, exec_root=host.exec_root)
    left = [str(root) for root in (host.data_root, host.exec_root) if root.exists()]
    left += [str(point) for root in (host.data_root, host.exec_root) for point in mounts_below(root)]
    left += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{config.cgroup_root}")]
    left += [name for name in os.listdir("/sys/class/net") if name.startswith(config.identity)]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    left += [line for line in tables.splitlines() if config.firewall_table in line.split()]
    return left + [f"process {pid}" for pid in host.supervisor_pids()]


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def supervisor_of(host: Host) -> int:
    """Its spare clone has the same command line, and it as parent."""
    pids = host.supervisor_pids()
    (first,) = [pid for pid in pids if int(Path(f"/proc/{pid}/stat").read_text().split()[3]) not in pids]
    return first


def keeper_of(supervisor: int) -> int:
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return next(int(pid) for pid in children if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.fixture
def busy(own_host: Host) -> Iterator[Host]:
    """A daemon with a running container that has a volume and a published port, a paused and an exited one."""
    load = ("-v", "kept:/kept", "-p", "127.0.0.1::80", "--shm-size", "1m")
    own_host.docker("run", "-d", "--name", "running", *load, "busybox", "sleep", "600")
    own_host.docker("run", "-d", "--name", "paused", "busybox", "sleep", "600")
    own_host.docker("pause", "paused")
    own_host.docker("run", "--name", "exited", "busybox", "true")
    yield own_host


@pytest.mark.parametrize("victims", ["daemon", "daemon and supervisor", "all three"])
def test_nothing_stays_whoever_was_killed(busy: Host, victims: str) -> None:
    containers = [busy.inspect(name)["State"]["Pid"] for name in ("running", "paused")]
    spares = busy.supervisor_pids()
    supervisor = supervisor_of(busy)
    keeper = keeper_of(supervisor)
    busy.kill()
    if "supervisor" in victims or "all" in victims:
        os.kill(supervisor, signal.SIGKILL)
    if "all" in victims:
        os.kill(keeper, signal.SIGKILL)
    try:
        result = undo(busy)
        assert (result.returncode, result.stderr) == (0, "")
        assert what_is_left(busy) == []
        assert all(gone(pid) for pid in [*containers, *spares, keeper])
        again = undo(busy)
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
        assert what_is_left(busy) == []
    finally:
        busy.start()  # the fixture ends with undo of its own


def test_a_running_daemon_keeps_everything(own_host: Host) -> None:
    result = undo(own_host)
    assert result.returncode == 1
    assert result.stderr == f"undo: a pydd that uses {own_host.exec_root} is running: stop it first\n"
    assert own_host.docker("run", "--rm", "busybox", "echo", "still here") == "still here\n"


def test_directories_that_are_no_roots_are_not_touched(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("meow")
    result = undo_roots(photos, tmp_path / "missing")
    assert result.returncode == 1
    assert result.stderr == f"undo: {photos} is not removed: no pydd.lock in it says that it is a pydd's\n"
    assert (photos / "cat.jpg").read_text() == "meow"
    assert not (tmp_path / "missing").exists()

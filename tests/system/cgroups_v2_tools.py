"""What the checks of cgroups_v2_guest.py are made of: a cgroup for a while, a process in it, expectations."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon.cgroups import Cgroup, CgroupError, detect, open_cgroup

ROOT = Path("/sys/fs/cgroup")

_counter = iter(range(1000))


@contextlib.contextmanager
def group(resources: dict[str, Any] | None = None, parent: str = "pyd") -> Iterator[Cgroup]:
    cgroup = open_cgroup(detect(), f"{parent}/test{next(_counter)}")
    if resources is not None:
        cgroup.create(resources)
    try:
        yield cgroup
    finally:
        cgroup.thaw()
        cgroup.kill()
        cgroup.delete()
        assert not cgroup.exists()


@contextlib.contextmanager
def python(cgroup: Cgroup, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Python code that waits for a line on stdin until it is in the cgroup."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()\n" + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    try:
        cgroup.attach(process.pid)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        yield process
    finally:
        cgroup.thaw()
        cgroup.kill()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true in time"
        time.sleep(0.01)


def refuses(words: str, action: Callable[[], object]) -> CgroupError:
    try:
        action()
    except CgroupError as error:
        assert words in str(error), f"{words!r} not in {error}"
        return error
    raise AssertionError(f"no CgroupError with {words!r}")


def value(cgroup: Cgroup, file: str) -> str:
    return (ROOT / cgroup.path / file).read_text().strip()


def asker(process: subprocess.Popen[bytes]) -> Callable[[str, str], str]:
    def ask(path: str, how: str) -> str:
        assert process.stdin is not None
        process.stdin.write(f"{path} {how}\n".encode())
        process.stdin.flush()
        return line(process)

    return ask


def run_container(script: str, root: dict[str, Any], **linux: Any) -> subprocess.CompletedProcess[str]:
    namespaces = ("pid", "ipc", "uts", "mount", "network", "cgroup")
    config = {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/busybox", "sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": root,
        "hostname": "guest",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        ],
        "linux": {
            "cgroupsPath": "/pyd/box",
            "namespaces": [{"type": kind} for kind in namespaces],
            **linux,
        },
    }
    Path("/bundle/config.json").write_text(json.dumps(config))
    return subprocess.run(
        [sys.executable, "-I", "-S", "/pyd/daemon/runtime/pyd-oci", "run", "--bundle", "/bundle", "box"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )

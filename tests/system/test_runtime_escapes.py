"""Regression tests for published escapes of runc and its kin: each builds the attack and shows that it fails."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.runtime import inroot
from tests.system.runtime_bundle import PYD_OCI, Bundle

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


# -- CVE-2019-5736: the runtime's executable is overwritten through /proc/self/exe ------------------


def test_2019_5736_interpreter_is_on_a_read_only_mount(bundle: Bundle) -> None:
    """A created container's init still is the interpreter: even the host's root cannot write through it."""
    bundle.configure("true")
    bundle.command("create", "c", capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pid = json.loads(bundle.command("state", "c").stdout)["pid"]
        fd = os.open(f"/proc/{pid}/exe", os.O_PATH)
        assert os.path.samestat(os.fstat(fd), os.stat("/usr/bin/python3"))
        try:
            assert os.fstatvfs(fd).f_flag & os.ST_RDONLY
            with pytest.raises(OSError, match=r"Read-only file system|Text file busy"):
                os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        finally:
            os.close(fd)
    finally:
        bundle.command("delete", "-f", "c")


def test_2019_5736_program_named_proc_self_exe_runs_nothing_of_the_host(bundle: Bundle) -> None:
    """The original attack: the image's entry point is a link to /proc/self/exe, or a script interpreted by it."""
    interpreter = Path(os.path.realpath("/usr/bin/python3"))
    before = interpreter.stat()
    (bundle.root / "entry").symlink_to("/proc/self/exe")
    script = bundle.root / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    for entry in ("/entry", "/script"):
        bundle.run(entry, "-c", "open('/proc/self/exe', 'r+b').write(b'x')")
    after = interpreter.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


# -- CVE-2016-9962: a process entering by exec is taken over from inside ----------------------------


def test_2016_9962_entering_process_is_not_dumpable(bundle: Bundle) -> None:
    """Its /proc/PID files belong to root and ptrace is refused until execve: seen at a created container's init."""
    bundle.configure("true")
    bundle.command("create", "c", capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pid = json.loads(bundle.command("state", "c").stdout)["pid"]
        pid2 = os.fork()
        if pid2 == 0:  # an unprivileged process of the same user may not attach to an undumpable one
            libc = ctypes.CDLL(None, use_errno=True)
            capget = bytes(24)
            libc.syscall(126, (0x20080522).to_bytes(4, "little") + bytes(4), capget)
            os._exit(0 if libc.ptrace(16, pid, 0, 0) == -1 and ctypes.get_errno() == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid2, 0)[1]) == 0
    finally:
        bundle.command("delete", "-f", "c")


def test_2016_9962_and_2024_21626_no_descriptor_of_the_runtime_is_seen(bundle: Bundle) -> None:
    with bundle.running() as container:
        done = bundle.command(
            "exec", container, "sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done; echo end"
        )
    assert "/sys/fs/cgroup" not in done.stdout
    assert [
        line for line in done.stdout.splitlines() if line.startswith("/") and str(bundle.state) in line
    ] == []


# -- CVE-2024-21626: the working directory is a leaked descriptor of the host's ---------------------


@pytest.mark.parametrize("number", range(3, 20))
def test_2024_21626_working_directory_of_a_descriptor(bundle: Bundle, number: int) -> None:
    bundle.spec["process"]["cwd"] = f"/proc/self/fd/{number}"
    ran = bundle.shell("cat ../../../../../../../../etc/hostname 2>/dev/null; ls ..; pwd -P")
    assert ran.code != 0, ran


def test_2024_21626_exec_with_such_a_working_directory(bundle: Bundle) -> None:
    with bundle.running() as container:
        for number in range(3, 16):
            done = bundle.command("exec", "--cwd", f"/proc/self/fd/{number}", container, "pwd")
            assert done.returncode != 0, done


# -- CVE-2019-16884, 2019-19921, 2023-27561: /proc or /sys are not what they seem -------------------


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_2019_19921_and_2023_27561_proc_as_a_symlink_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.root / name).rmdir()
    (bundle.root / "elsewhere").mkdir()
    (bundle.root / name).symlink_to("/elsewhere")
    ran = bundle.run("true")
    assert ran.code == 1
    assert "too many levels of symbolic links" in ran.errors


def test_2019_16884_runtimes_own_writes_do_not_go_to_a_fake_proc(bundle: Bundle, tmp_path: Path) -> None:
    """A volume over /proc catches neither sysctls nor security labels."""
    fake = tmp_path / "fake"
    for directory in ("sys/net/ipv4", "self/attr/apparmor"):
        (fake / directory).mkdir(parents=True)
    for file in ("sys/net/ipv4/ip_forward", "self/attr/exec", "self/attr/apparmor/exec"):
        (fake / file).write_text("untouched")
    bundle.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.spec["mounts"] += [
        bind(fake, "/proc"),
        {"destination": "/real", "type": "proc", "source": "proc", "options": []},
    ]
    assert bundle.run("cat", "/real/sys/net/ipv4/ip_forward").ok() == "1"
    assert (fake / "sys/net/ipv4/ip_forward").read_text() == "untouched"


def test_2025_52881_sysctl_write_cannot_be_redirected(bundle: Bundle, tmp_path: Path) -> None:
    """A symlink or bind below /proc/sys cannot turn a sysctl into a write of sysrq-trigger and the like."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    bundle.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.spec["mounts"].append(bind(victim, "/proc/sys/net/ipv4/ip_forward"))
    bundle.run("true").ok()
    assert victim.read_text() == "untouched"


# -- CVE-2025-31133: masked paths through a replaced /dev/null --------------------------------------


def test_2025_31133_null_device_replaced_by_a_symlink(bundle: Bundle, tmp_path: Path) -> None:
    """With /dev from a volume, /dev/null is whatever its owner made: a link must not be bound over a masked file."""
    devices = tmp_path / "devices"
    devices.mkdir()
    (devices / "null").symlink_to("/proc/sysrq-trigger")
    bundle.spec["mounts"] = [
        one for one in bundle.spec["mounts"] if not one["destination"].startswith("/dev")
    ]
    bundle.spec["mounts"].append(bind(devices, "/dev"))
    ran = bundle.run("true")
    assert ran.code == 1
    assert "exists and is not this device" in ran.errors


# -- CVE-2025-52565: /dev/console and the pty -------------------------------------------------------


def test_2025_52565_console_as_a_symlink_is_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    devices, victim = tmp_path / "devices", tmp_path / "victim"
    devices.mkdir()
    victim.write_text("untouched")
    (devices / "console").symlink_to("/victim")
    bundle.spec["mounts"] = [one for one in bundle.spec["mounts"] if one["destination"] != "/dev"]
    bundle.spec["mounts"].insert(0, bind(devices, "/dev"))
    bundle.spec["mounts"].append(bind(victim, "/victim"))
    bundle.spec["process"]["terminal"] = True
    bundle.configure("true")
    done = subprocess.run(
        ["script", "-qec", f"{PYD_OCI} --root {bundle.state} run c", "/dev/null"],
        cwd=bundle.directory, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert "symbolic link" in done.stdout
    assert victim.read_text() == "untouched"


def test_2025_52565_exec_refuses_a_fake_devpts(bundle: Bundle) -> None:
    """A container without its devpts that has files called ptmx cannot hand one out as a terminal."""
    bundle.spec["mounts"] = [one for one in bundle.spec["mounts"] if one["destination"] != "/dev/pts"]
    with bundle.running("sh", "-c", "mkdir /dev/pts; touch /dev/pts/ptmx; sleep 60") as container:
        time.sleep(0.1)
        done = subprocess.run(
            ["script", "-qec", f"{PYD_OCI} --root {bundle.state} exec -t {container} tty", "/dev/null"],
            cwd=bundle.directory, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert "is not a devpts" in done.stdout, done


# -- CVE-2021-30465 and 2024-45310: a destination is exchanged for a symlink while it is mounted ----


def test_2021_30465_destination_that_is_a_symlink_stays_inside(bundle: Bundle, tmp_path: Path) -> None:
    outside, source = tmp_path / "outside", tmp_path / "source"
    outside.mkdir()
    source.mkdir()
    (source / "file").write_text("text")
    (bundle.root / "link").symlink_to(outside)
    bundle.spec["mounts"] += [bind(source, "/link/made"), bind(source / "file", "/link/one/file")]
    bundle.run("cat", f"{outside}/made/file", f"{outside}/one/file").ok()
    assert list(outside.iterdir()) == []


def test_2021_30465_and_2024_45310_exchanging_all_the_time(bundle: Bundle, tmp_path: Path) -> None:
    """A busy swapper exchanges a directory and a symlink to the host; nothing is ever made out there."""
    outside, source, volume = tmp_path / "outside", tmp_path / "source", tmp_path / "volume"
    for directory in (outside, source, volume, volume / "real"):
        directory.mkdir()
    (volume / "bait").symlink_to(outside)
    renameat2 = ctypes.CDLL(None).renameat2
    stop = threading.Event()

    def swap() -> None:
        here, there = os.fsencode(volume / "real"), os.fsencode(volume / "bait")
        while not stop.is_set():
            renameat2(-100, here, -100, there, 2)  # RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        bundle.spec["mounts"] += [bind(volume, "/volume"), bind(source, "/volume/real/deep/er")]
        for _ in range(6):
            bundle.run("true")
        root = os.open(volume, os.O_PATH)
        for index in range(300):
            for make, name in ((inroot.make_directory, "dir"), (inroot.make_file, "file")):
                try:
                    os.close(make(root, f"/real/{name}{index}/x"))
                except OSError:
                    continue  # lost a race: refused, which is fine
        os.close(root)
    finally:
        stop.set()
        thread.join()
    assert list(outside.iterdir()) == []


def test_paths_with_dots_and_absolute_links_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "up").symlink_to("../../../../../..")
    (root / "absolute").symlink_to("/outside/there")
    fd = os.open(root, os.O_PATH)
    try:
        for path, made in (
            ("/up/tmp-made", "tmp-made"),
            ("/../../escaped", "escaped"),
            ("/absolute/x", "outside/there/x"),
            ("/a/../b/./c", "b/c"),
        ):
            os.close(inroot.make_directory(fd, path))
            assert (root / made).is_dir(), path
        with pytest.raises(OSError, match="Too many levels"):
            inroot.make_directory(fd, "/absolute/y", symlinks=False)
    finally:
        os.close(fd)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["root"]

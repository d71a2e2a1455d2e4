"""What runs in the virtual machine of test_cgroups_v2_qemu.py: checks of v2 on a kernel with only v2.

Started by the guest's init with the standard library only. Each `check_*` function raises when its claim
does not hold; the results go out on the serial console as one line of JSON after MARK.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.cgroups import CgroupError, detect, drain_oom_event, open_cgroup
from daemon.cgroups.devices import bpf
from daemon.cgroups.devices.rules import policy_of
from daemon.cgroups.killing import signal_all
from tests.system import quota_guest
from tests.system.cgroups_v2_tools import (
    ROOT,
    asker,
    group,
    line,
    python,
    refuses,
    run_container,
    value,
    wait_until,
)

MARK = "PYD-RESULTS "
DENY_ALL: dict[str, Any] = {"allow": False, "access": "rwm"}
CLONE_INTO_CGROUP = 0x200000000
SYS_CLONE3 = 435


def check_layout() -> None:
    layout = detect()
    assert layout.kind == "unified", layout
    assert layout.unified == str(ROOT) and layout.v1 == {}, layout


def check_limits_arrive() -> None:
    resources: dict[str, Any] = {
        "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 16 << 20, "swappiness": 10},
        "pids": {"limit": 33},
        "blockIO": {"weight": 500},
        "unified": {"memory.high": str(48 << 20)},
    }
    wanted = {
        "cpu.weight": "100",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "memory.max": str(64 << 20),
        "memory.swap.max": str(32 << 20),
        "memory.low": str(16 << 20),
        "memory.high": str(48 << 20),
        "pids.max": "33",
        "io.weight": "default 4950",
    }
    with group(resources) as cgroup:
        found = {file: value(cgroup, file) for file in wanted}
        assert found == wanted, found
        cgroup.update({"cpu": {"period": 20_000}, "memory": {"limit": -1}, "pids": {"limit": -1}})
        assert value(cgroup, "cpu.max") == "50000 20000"
        assert (
            value(cgroup, "memory.max")
            == value(cgroup, "memory.swap.max")
            == value(cgroup, "pids.max")
            == "max"
        )
        assert value(cgroup, "cpu.weight") == "100"
        cgroup.update({"cpu": {"quota": -1}})
        assert value(cgroup, "cpu.max").startswith("max")
        stats = cgroup.stats()
        assert stats.memory.limit is None and stats.pids.limit is None


def check_failed_create_leaves_nothing() -> None:
    with group() as cgroup:
        error = refuses("cpuset.cpus", lambda: cgroup.create({"cpu": {"cpus": "99999"}}))
        assert error.value == "99999" and not cgroup.exists()
        refuses("memory limit", lambda: cgroup.create({"memory": {"swap": 1 << 30}}))
        assert not cgroup.exists()
        deep = open_cgroup(detect(), f"{cgroup.path}/a/b")
        refuses("nonesuch", lambda: deep.create({"unified": {"nonesuch.max": "1"}}))
        refuses("not a controller", lambda: deep.create({"unified": {"../memory.max": "1"}}))
        assert not cgroup.exists()


def check_create_refuses_use_and_renews_leftovers() -> None:
    with group({"pids": {"limit": 7}}) as cgroup:
        cgroup.create({})
        assert cgroup.stats().pids.limit is None
        with python(cgroup, "input()"):
            refuses("holds processes", lambda: cgroup.create({}))


def check_memory_limit_kills_counts_and_tells() -> None:
    with group({"memory": {"limit": 32 << 20, "swap": 32 << 20}}) as cgroup:
        event = cgroup.oom_event_fd()
        assert event is not None
        try:
            assert not select.select([event], [], [], 0)[0]
            with python(cgroup, "x = bytearray(200 << 20); print(len(x))") as process:
                assert process.wait(20) == -signal.SIGKILL
            assert select.select([event], [], [], 5)[0] == [event]
            wait_until(lambda: cgroup.oom_kills() == 1)
            drain_oom_event(event)
        finally:
            os.close(event)
        memory = cgroup.stats().memory
        assert memory.oom_kills == 1 and memory.failcnt > 0 and memory.limit == 32 << 20, memory
        assert memory.swap_limit == 0 and memory.by_type["anon"] >= 0


def check_pids_limit() -> None:
    code = """
import os, time
n = 0
try:
    while n < 50:
        if os.fork() == 0: time.sleep(30)
        n += 1
except OSError as e:
    print(n, e.errno, flush=True)
input()
"""
    with group({"pids": {"limit": 5}}) as cgroup, python(cgroup, code) as process:
        assert line(process) == f"4 {errno.EAGAIN}"
        assert tuple(cgroup.stats().pids) == (5, 5)
        assert len(cgroup.pids()) == 5


def check_cpu_quota_throttles() -> None:
    resources = {"cpu": {"quota": 10_000, "period": 50_000}}
    with group(resources) as cgroup, python(cgroup, "while True: pass"):
        wait_until(lambda: cgroup.stats().cpu.throttled_periods >= 4)
        before, start = cgroup.stats().cpu, time.monotonic()
        time.sleep(0.5)
        after, taken = cgroup.stats().cpu, time.monotonic() - start
        assert (after.total_ns - before.total_ns) / 1e9 / taken < 0.35
        assert after.throttled_ns > before.throttled_ns > 0
        assert after.user_ns + after.system_ns > 0 and after.periods > before.periods


PROBE = """
import os, sys
for words in sys.stdin:
    path, how = words.split()
    try:
        if how == 'm':
            os.mknod(path + '.new', 0o20600, os.stat(path).st_rdev); os.unlink(path + '.new')
        else:
            os.close(os.open(path, {'r': os.O_RDONLY, 'w': os.O_WRONLY, 'rw': os.O_RDWR}[how]))
        print('yes', flush=True)
    except OSError as e:
        print(e.errno, flush=True)
"""


def check_devices_are_guarded_by_ebpf() -> None:
    kmsg, no = "/dev/kmsg", str(errno.EPERM)
    allow = {"allow": True, "type": "c", "major": 1, "minor": 11}
    with group({"devices": [DENY_ALL]}) as cgroup, python(cgroup, PROBE) as process:
        ask = asker(process)
        assert ask("/dev/null", "rw") == "yes"
        assert [ask(kmsg, how) for how in ("r", "w", "rw", "m")] == [no, no, no, "yes"]
        cgroup.update({"devices": [DENY_ALL, {**allow, "access": "r"}]})
        assert [ask(kmsg, how) for how in ("r", "w", "rw", "m")] == ["yes", no, no, "yes"]
        cgroup.update({"devices": [DENY_ALL, {**allow, "access": "rw"}]})
        assert [ask(kmsg, how) for how in ("r", "w", "rw")] == ["yes", "yes", "yes"]
        cgroup.update({"pids": {"limit": 9}})
        assert ask(kmsg, "rw") == "yes"
        cgroup.update({"devices": [DENY_ALL]})
        assert ask(kmsg, "r") == no
        everything = {"allow": True, "access": "rwm"}
        cgroup.update({"devices": [everything, {**allow, "allow": False, "access": "w"}]})
        assert [ask(kmsg, how) for how in ("r", "w", "rw", "m")] == ["yes", no, no, "yes"]
        cgroup.update({"devices": [everything]})
        assert ask(kmsg, "rw") == "yes"


def check_device_program_is_replaced_never_piled_up() -> None:
    with group({"devices": [DENY_ALL]}) as cgroup:
        directory = str(ROOT / cgroup.path)
        fd = os.open(directory, os.O_RDONLY)
        try:
            first = bpf.attached(fd)
            cgroup.update({"devices": [DENY_ALL]})
            second = bpf.attached(fd)
            assert len(first) == len(second) == 1 and first != second
            from daemon.cgroups.devices.program import assemble

            other = bpf.load(assemble(policy_of([DENY_ALL])))  # somebody else's beside ours
            bpf._bpf(8, b"".join(v.to_bytes(4, "little") for v in (fd, other, 6, 2)))
            os.close(other)
            assert len(bpf.attached(fd)) == 2
            cgroup.update({"devices": [DENY_ALL]})
            assert len(bpf.attached(fd)) == 1
        finally:
            os.close(fd)


def check_many_device_rules_pass_the_verifier() -> None:
    rules = [
        {
            "allow": True,
            "type": "bc"[n % 2],
            "major": 200 + n,
            "minor": n,
            "access": ("r", "rw", "rwm", "w")[n % 4],
        }
        for n in range(300)
    ]
    with group({"devices": [DENY_ALL, *rules]}) as cgroup, python(cgroup, PROBE) as process:
        assert asker(process)("/dev/null", "rw") == "yes"


def check_freeze_and_thaw() -> None:
    with group({}) as cgroup, python(cgroup, "while True: pass") as process:
        wait_until(lambda: cgroup.stats().cpu.total_ns > 20_000_000)
        cgroup.freeze()
        assert cgroup.frozen()
        before = cgroup.stats().cpu.total_ns
        time.sleep(0.2)
        assert cgroup.stats().cpu.total_ns - before < 5_000_000
        cgroup.thaw()
        assert not cgroup.frozen()
        wait_until(lambda: cgroup.stats().cpu.total_ns > before + 20_000_000)
        cgroup.freeze()
        cgroup.kill()
        assert process.wait(5) == -signal.SIGKILL


BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""


def check_kill_ends_a_fork_bomb() -> None:
    for way in ("cgroup.kill", "freezer"):
        resources = {"pids": {"limit": 50}, "cpu": {"quota": 20_000, "period": 100_000}}
        with group(resources) as cgroup, python(cgroup, BOMB) as process:
            wait_until(lambda: cgroup.stats().pids.current == 50, 40)  # emulated, on a busy machine
            if way == "freezer":
                signal_all(cgroup, signal.SIGKILL)  # type: ignore[arg-type]
            else:
                cgroup.kill()
            assert process.wait(5) == -signal.SIGKILL
            wait_until(lambda: not cgroup.pids())


def check_signals_reach_everyone_below() -> None:
    with group({}) as cgroup:
        inner = open_cgroup(detect(), f"{cgroup.path}/inner")
        inner.create({})
        with python(inner, "import time; print(1, flush=True); time.sleep(60)") as process:
            line(process)
            assert cgroup.pids() == [process.pid]
            cgroup.kill(signal.SIGTERM)
            assert process.wait(5) == -signal.SIGTERM


def check_delete_names_the_living() -> None:
    from daemon.cgroups import files

    with group({}) as cgroup, python(cgroup, "input()") as process:
        try:
            files.remove_tree(str(ROOT / cgroup.path), 0.05)
        except CgroupError as error:
            assert f"processes [{process.pid}]" in str(error)
        else:
            raise AssertionError("removed a cgroup in use")


def check_block_io_is_accounted_and_limited() -> None:
    Path("/tmp/disk").write_bytes(bytes(8 << 20))
    device = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["losetup", device, "/tmp/disk"], check=True)
    number = Path(device).stat().st_rdev
    rule = {"major": os.major(number), "minor": os.minor(number), "rate": 1 << 30}
    code = f"""
import mmap, os
block = mmap.mmap(-1, 1 << 20)
fd = os.open({device!r}, os.O_RDWR | os.O_DIRECT)
for i in range(4): os.pwrite(fd, block, i << 20)
for i in range(2): os.preadv(fd, [block], i << 20)
print('done', flush=True)
"""
    try:
        resources = {"blockIO": {"throttleReadBpsDevice": [rule], "throttleWriteIOPSDevice": [rule]}}
        with group(resources) as cgroup, python(cgroup, code) as process:
            limits = value(cgroup, "io.max")
            assert f"rbps={1 << 30}" in limits and f"wiops={1 << 30}" in limits, limits
            assert line(process) == "done"
            entries = [entry for entry in cgroup.stats().blkio.service_bytes if entry.minor == rule["minor"]]
            counted = {entry.op: entry.value for entry in entries}
            assert counted["read"] == 2 << 20 and counted["write"] == 4 << 20, counted
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def check_pressure_is_read() -> None:
    with group({"cpu": {"quota": 5_000, "period": 50_000}}) as cgroup, python(cgroup, "while True: pass"):
        wait_until(lambda: cgroup.stats().pressure["cpu"].some.total_us > 0)
        pressure = cgroup.stats().pressure
        assert set(pressure) == {"cpu", "memory", "io"}
        assert pressure["memory"].full is not None


def check_clone_into_cgroup() -> None:
    with group({}) as cgroup:
        entry = cgroup.entry()
        assert entry.directory is not None and entry.tasks == ()
        ready_read, ready_write = os.pipe()
        arguments = (ctypes.c_uint64 * 11)(
            CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, entry.directory
        )
        libc = ctypes.PyDLL(None, use_errno=True)
        pid = libc.syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
        if pid == 0:
            entry.step_in()
            os.write(ready_write, Path("/proc/self/cgroup").read_bytes())
            os._exit(0)
        assert pid > 0, os.strerror(ctypes.get_errno())
        assert os.read(ready_read, 4096).decode() == f"0::/{cgroup.path}\n"
        os.waitpid(pid, 0)
        for fd in (ready_read, ready_write):
            os.close(fd)
        entry.close()


def check_foreign_processes_are_never_moved() -> None:
    with group({}, parent="foreign") as outer:
        stranger = subprocess.Popen(["busybox", "setsid", "busybox", "sleep", "100"])
        wait_until(lambda: stranger.poll() is not None or "sleep" in cmdline(stranger.pid))
        parent = cmdline_owner_of_sleep(stranger)
        try:
            # Not a descendant of ours: given to init by a middleman that ended.
            outer.attach(parent)
            inner = open_cgroup(detect(), f"{outer.path}/inner")
            error = refuses("not pyd's", lambda: inner.create({"memory": {"limit": 1 << 24}}))
            assert str(parent) in str(error)
            assert outer.pids() == [parent] and not inner.exists()
            inner.create({})  # asks for nothing that would need it moved
            assert outer.pids() == [parent]
        finally:
            os.kill(parent, signal.SIGKILL)
            stranger.wait()
            wait_until(lambda: not outer.pids())


def cmdline(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def cmdline_owner_of_sleep(middleman: subprocess.Popen[bytes]) -> int:
    """Start a sleep that init adopts, and give its process ID."""
    middleman.kill()
    middleman.wait()
    started = subprocess.run(
        ["busybox", "sh", "-c", "busybox sleep 100 >/dev/null 2>&1 & echo $!"],
        capture_output=True,
        check=True,
    )
    return int(started.stdout)


def check_own_processes_are_moved_down() -> None:
    """A child of ours stands for pyd in a delegated cgroup."""
    with group({}, parent="own") as outer, python(outer, "input()") as process:
        inner = open_cgroup(detect(), f"{outer.path}/inner")
        inner.create({"memory": {"limit": 1 << 24}})
        assert value(inner, "memory.max") == str(1 << 24)
        assert Path(f"/proc/{process.pid}/cgroup").read_text() == f"0::/{outer.path}/pyd-self\n"
        inner.delete()


def check_threaded_subtree() -> None:
    with group({}, parent="threads") as outer:
        part = ROOT / outer.path / "part"
        part.mkdir()
        (part / "cgroup.type").write_text("threaded")
        inner = open_cgroup(detect(), f"{outer.path}/part/inner")
        refuses("memory", lambda: inner.create({"memory": {"limit": 1 << 24}}))
        assert not inner.exists()
        inner.create({"pids": {"limit": 5}})
        assert value(inner, "cgroup.type") == "threaded" and value(inner, "pids.max") == "5"
        with python(outer, "input()") as process:
            inner.attach(process.pid)
            assert inner.pids() == [process.pid]
            inner.kill()
            assert process.wait(5) == -signal.SIGKILL


def check_missing_cgroup_answers_gently() -> None:
    with group() as cgroup:
        assert cgroup.pids() == [] and cgroup.oom_kills() == 0 and not cgroup.frozen()
        assert cgroup.oom_event_fd() is None
        cgroup.kill()
        cgroup.thaw()
        refuses("no such cgroup", cgroup.stats)
        refuses("cgroup.procs", lambda: cgroup.attach(os.getpid()))


def check_create_costs_little_more_than_mkdir() -> None:
    """Relative, since an emulated machine is many times slower than a real one."""
    with group({}) as outer:
        created, bare = [], []
        for number in range(20):
            child = open_cgroup(detect(), f"{outer.path}/{number}")
            start = time.perf_counter()
            child.create({})
            created.append(time.perf_counter() - start)
            start = time.perf_counter()
            (ROOT / outer.path / f"bare{number}").mkdir()
            bare.append(time.perf_counter() - start)
        ratio = min(created) / min(bare)
        print(f"create {min(created) * 1e3:.2f} ms, mkdir {min(bare) * 1e3:.2f} ms", flush=True)
        assert ratio < 5, (ratio, created, bare)


def check_a_container_runs_under_its_limits() -> None:
    """The runtime's own command on a bundle: cloned into the cgroup, seen through a cgroup namespace."""
    script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/memory.max; echo > /dev/null && echo null; "
    script += "cat < /dev/kmsg 2>/dev/null || echo denied"
    resources = {"devices": [DENY_ALL], "memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    devices = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]
    done = run_container(script, {"path": "rootfs"}, resources=resources, devices=devices)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert done.stdout.splitlines() == ["0::/", str(64 << 20), "null", "denied"], (done.stdout, done.stderr)
    assert not open_cgroup(detect(), "pyd/box").exists()


CHECKS: dict[str, Callable[[], None]] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_")
} | quota_guest.CHECKS


def main() -> None:
    results: dict[str, str] = {}
    for name, check in CHECKS.items():
        start = time.monotonic()
        try:
            check()
            results[name] = "ok"
        except BaseException:
            results[name] = traceback.format_exc()
        print(f"{name} {time.monotonic() - start:.2f} s {results[name][:2]}", flush=True)
    print(MARK + json.dumps(results), flush=True)

# ruff: noqa: ASYNC110, ASYNC240 - tests poll, and look into small directories
"""Supervisor and keeper with real containers: start, exit codes, stdio, exec, signals, limits."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.runtime.client import SUPERVISOR, LaunchFailed, LogSpec, NotRunning, Refused, RuntimeClient
from tests.system.supervisor_rig import Rig, make_rootfs, process, spec

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("pyd-supervisor")
    yield make_rootfs(base / "rootfs")
    shutil.rmtree(base)


@pytest.fixture
async def rig(tmp_path: Path, rootfs: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, rootfs)
    await rig.client.connect()
    yield rig
    await rig.close()
    assert not list((rig.exec_root / "containers").iterdir())
    log = (rig.exec_root / "supervisor.log").read_text()
    assert "Traceback" not in log, log


async def test_exit_codes_are_passed_on(rig: Rig) -> None:
    for code in (0, 1, 2, 42, 126, 127, 128, 200, 255):
        await rig.run(f"c{code}", "sh", "-c", f"exit {code}", log=None)
        event = await rig.exit_of(f"c{code}")
        assert (event.status, event.exec_id, event.oom_killed) == (code, None, False)


async def test_all_exit_codes_through_exec(rig: Rig) -> None:
    await rig.run("c", "sleep", "100")
    for code in range(256):
        await rig.exec("c", f"e{code}", "sh", "-c", f"exit {code}")
        assert (await rig.exit_of("c", f"e{code}")).status == code
    assert (await rig.client.states())["c"].execs == {}  # acknowledged ones are forgotten


@pytest.mark.parametrize("number", [1, 2, 6, 9, 15])
async def test_a_signal_ends_with_128_plus_its_number(rig: Rig, number: int) -> None:
    await rig.run("c", "sh", "-c", f"trap - {number}; exec sleep 100", host_pid=True)
    await rig.client.kill("c", number)
    assert (await rig.exit_of("c")).status == 128 + number
    with pytest.raises(NotRunning):
        await rig.client.kill("c", 9)


async def test_a_missing_command_is_127_and_leaves_nothing(rig: Rig) -> None:
    with pytest.raises(LaunchFailed, match="executable file not found") as caught:
        await rig.run("c", "no-such-command")
    assert caught.value.exit_code == 127
    assert await rig.client.states() == {}
    assert not (rig.exec_root / "containers" / "c" / "state.json").exists()
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        assert not (hierarchy / rig.cgroup / "c").exists()
    await rig.client.delete("c")


async def test_a_command_that_cannot_be_executed_is_126(rig: Rig) -> None:
    with pytest.raises(LaunchFailed) as caught:
        await rig.run("c", "/etc")
    assert caught.value.exit_code == 126
    await rig.client.delete("c")


async def test_a_bad_log_option_fails_the_start(rig: Rig) -> None:
    with pytest.raises(LaunchFailed, match="invalid size"):
        await rig.run("c", "true", log=LogSpec("json-file", str(rig.log("c")), {"max-size": "-3"}))
    assert await rig.client.states() == {}
    await rig.client.delete("c")


async def test_output_goes_to_log_and_clients(rig: Rig) -> None:
    first = await rig.attach("c")
    second = await rig.attach("c", stdin=False)
    await rig.run("c", "sh", "-c", "echo out; echo err >&2; printf tail")
    for client in (first, second):
        assert await client.frames() == {1: b"out\ntail", 2: b"err\n"}
    await rig.exit_of("c")
    assert rig.logged("c") == "out\ntail"
    assert rig.logged("c", "stderr") == "err\n"


async def test_the_exit_is_announced_after_the_output(rig: Rig) -> None:
    await rig.run("c", "seq", "1", "100000")
    await rig.exit_of("c")
    assert rig.logged("c") == "".join(f"{n}\n" for n in range(1, 100001))


@pytest.mark.parametrize("log", [None, "json"])
async def test_50_mb_through_stdin_and_back(rig: Rig, log: str | None) -> None:
    data = os.urandom(1 << 20) * 50
    client = await rig.attach("c")
    await rig.run("c", "md5sum", stdin=True, log=log)
    await client.send(data)
    client.half_close()
    assert (await client.frames())[1].split()[0].decode() == hashlib.md5(data).hexdigest()
    await rig.exit_of("c")


async def test_exec_cat_returns_what_it_was_given(rig: Rig) -> None:
    data = os.urandom(1 << 20) * 30
    await rig.run("c", "sleep", "100")
    client = await rig.attach("c", "e")
    await rig.exec("c", "e", "cat", stdin=True)

    async def feed() -> None:
        await client.send(data)
        client.half_close()

    feeding = asyncio.create_task(feed())
    assert (await client.frames())[1] == data
    await feeding
    assert (await rig.exit_of("c", "e")).status == 0


async def test_stdin_of_several_clients_and_without_stdin_once(rig: Rig) -> None:
    first, second = await rig.attach("c"), await rig.attach("c")
    await rig.run("c", "cat", stdin=True, once=False)
    await first.send(b"one\n")
    await first.until(b"one\n")
    await second.send(b"two\n")
    await second.until(b"two\n")
    first.half_close()  # lets the client go, stdin stays open
    await first.end()
    third = await rig.attach("c", early=b"three\n")
    await third.until(b"three\n")
    await second.until(b"three\n")
    assert (await rig.client.states())["c"].status == "running"


async def test_a_tty_with_size_resize_and_detach(rig: Rig) -> None:
    client = await rig.attach("c", tty=True)
    await rig.run("c", "sh", tty=True, stdin=True, size=(33, 99))
    await client.send(b"stty size\n")
    await client.until(b"33 99")
    await rig.client.resize("c", None, 40, 120)
    await client.send(b"stty size\n")
    await client.until(b"40 120")
    await client.send(b"echo kept\x10\x10x\x08\n")
    await client.send(b"\x10\x11")
    await client.end()
    assert rig.detached == [("c", None)]
    again = await rig.attach("c", tty=True, detach_keys=b"\x01b")
    await again.send(b"exit 7\n")
    await again.end()
    assert (await rig.exit_of("c")).status == 7
    assert "40 120" in rig.logged("c")


async def test_a_tty_exec(rig: Rig) -> None:
    await rig.run("c", "sleep", "100")
    client = await rig.attach("c", "e", tty=True)
    await rig.client.exec(
        "c", "e", process(["sh", "-c", "tty; stty size; read x; exit $x"], tty=True), open_stdin=True, tty=True,
        console_size=(20, 70),
    )  # fmt: skip
    await client.until(b"20 70")
    await client.send(b"9\n")
    await client.end()
    assert (await rig.exit_of("c", "e")).status == 9


async def test_exec_is_refused_where_it_makes_no_sense(rig: Rig) -> None:
    with pytest.raises(NotRunning):
        await rig.exec("c", "e", "true")
    await rig.run("c", "sleep", "100")
    await rig.client.pause("c")
    assert (await rig.client.states())["c"].status == "paused"
    with pytest.raises(Refused, match="paused"):
        await rig.exec("c", "e", "true")
    await rig.client.resume("c")
    with pytest.raises(LaunchFailed) as caught:
        await rig.exec("c", "e", "no-such-command")
    assert caught.value.exit_code == 127
    await rig.client.kill("c", 9)
    assert (await rig.exit_of("c")).status == 137
    with pytest.raises(NotRunning):
        await rig.exec("c", "e", "true")


async def test_an_exec_into_a_container_that_dies_meanwhile_says_so(rig: Rig) -> None:
    """Whatever the moment: never as if the command were at fault."""
    for number in range(40):
        name = f"c{number}"
        await rig.run(name, "sleep", "100")

        async def killed(name: str = name, after: float = number * 0.0002) -> None:
            await asyncio.sleep(after)
            await rig.client.kill(name, 9)

        outcomes = await asyncio.gather(
            rig.exec(name, "e", "true"), killed(), rig.exec(name, "f", "true"), return_exceptions=True
        )
        assert outcomes[1] is None
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        assert all(isinstance(each, NotRunning) for each in failures), outcomes
        assert (await rig.exit_of(name)).status == 137


async def test_an_exec_that_leaves_a_child_behind_ends_in_bounded_time(rig: Rig) -> None:
    await rig.run("c", "sleep", "100")
    client = await rig.attach("c", "e")
    await rig.exec("c", "e", "sh", "-c", "echo before; sleep 50 & exit 3")
    began = time.monotonic()
    assert (await rig.exit_of("c", "e")).status == 3
    assert time.monotonic() - began < 4
    assert (await client.frames())[1] == b"before\n"


async def test_the_end_of_a_host_pid_container_takes_its_stragglers_along(rig: Rig) -> None:
    await rig.run("c", "sh", "-c", "sleep 987 & sleep 986 & echo started; exit 5", host_pid=True)
    assert (await rig.exit_of("c")).status == 5
    assert not await rig.client.pids("c")


async def test_kill_everything(rig: Rig) -> None:
    await rig.run("c", "sh", "-c", "sleep 100 & sleep 100 & wait; wait", host_pid=True)
    while len(await rig.client.pids("c")) < 3:
        await asyncio.sleep(0.01)
    await rig.client.kill("c", 9, everything=True)
    assert (await rig.exit_of("c")).status == 137


async def test_the_oom_killer_is_noticed(rig: Rig) -> None:
    await rig.run(
        "c", "sh", "-c", "x=0123456789; while :; do x=$x$x$x; done", change={"memory": {"limit": 16 << 20}}
    )
    event = await rig.exit_of("c")
    assert event.oom_killed
    assert event.status == 137
    assert rig.ooms == ["c"]


async def test_limits_of_a_living_container_change(rig: Rig) -> None:
    await rig.run("c", "sleep", "100", change={"memory": {"limit": 64 << 20}})
    await rig.client.update("c", {"memory": {"limit": 128 << 20}})
    assert (await rig.client.stats("c")).memory.limit == 128 << 20
    with pytest.raises(Refused):
        await rig.client.update("c", {"memory": {"limit": 1 << 10}})


async def test_a_start_replaces_what_a_stopped_container_left(rig: Rig) -> None:
    await rig.run("c", "sh", "-c", "exit 4")
    await rig.exit_of("c")
    client = await rig.attach("c")
    rig.exits.clear()
    started = await rig.client.start(
        "c", rig.exec_root / "containers" / "c", log=None, open_stdin=False, stdin_once=False, tty=False
    )
    assert (await rig.exit_of("c")).pid == started.pid
    assert await client.frames() == {1: b"", 2: b""}


async def test_no_descriptor_signal_or_limit_of_ours_reaches_a_container(rig: Rig) -> None:
    await rig.run(
        "c", "sh", "-c", "ls /proc/self/fd; grep -E 'SigIgn|SigBlk' /proc/self/status; ulimit -n; env"
    )
    await rig.exit_of("c")
    text = rig.logged("c")
    assert text.split("Sig")[0].split() == ["0", "1", "2", "3"]  # 3 is ls' own
    masks = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Sig")]
    assert masks == [0, 0]
    names = sorted(line.partition("=")[0] for line in text.splitlines() if "=" in line)
    assert names == ["HOME", "PATH", "PWD", "SHLVL", "TERM"]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_foreign_runtime(rig: Rig, runtime: str) -> None:
    path = shutil.which(runtime)
    assert path is not None
    client = await rig.attach("c")
    try:
        await rig.run("c", "sh", "-c", "echo in; read line; echo $line; exit 6", stdin=True, runtime=path)
    except LaunchFailed as error:
        if "hybrid mode not supported" not in str(error):
            raise
        assert runtime == "crun"  # whose own refusal this is; elsewhere it runs
        assert await rig.client.states() == {}
        await rig.client.delete("c")
        return
    other = await rig.attach("c", "e")
    await rig.exec("c", "e", "sh", "-c", "echo exec; exit 8")
    assert (await other.frames())[1] == b"exec\n"
    assert (await rig.exit_of("c", "e")).status == 8
    await rig.client.pause("c")
    await rig.client.resume("c")
    await client.send(b"words\n")
    assert (await client.frames())[1] == b"in\nwords\n"
    assert (await rig.exit_of("c")).status == 6
    with pytest.raises(LaunchFailed) as caught:
        await rig.run("d", "no-such-command", runtime=path)
    assert caught.value.exit_code == 127
    await rig.client.delete("d")


async def test_a_foreign_runtime_with_a_tty(rig: Rig) -> None:
    client = await rig.attach("c", tty=True)
    await rig.run("c", "sh", tty=True, stdin=True, runtime=shutil.which("runc"), size=(22, 88))
    await client.send(b"stty size; exit 3\n")
    assert b"22 88" in await client.end()
    assert (await rig.exit_of("c")).status == 3


async def test_100_quick_starts(rig: Rig) -> None:
    took = []
    for number in range(100):
        began = time.perf_counter()
        await rig.run(f"c{number}", "true", log=None)
        took.append(time.perf_counter() - began)
        await rig.exit_of(f"c{number}")
        await rig.client.delete(f"c{number}")
    took.sort()
    print(f"start: median {took[50] * 1000:.1f} ms, 90th percentile {took[90] * 1000:.1f} ms")
    assert took[50] < 0.05


async def test_1000_attaches_leak_nothing(rig: Rig) -> None:
    await rig.run("c", "cat", stdin=True, once=False)
    keeper = rig.pid_of("keeper")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{keeper}/fd"))

    before = descriptors()
    for _ in range(1000):
        (await rig.attach("c")).close()
    client = await rig.attach("c")
    await client.send(b"still there\n")
    await client.until(b"still there\n")
    client.close()
    while descriptors() > before:
        await asyncio.sleep(0.01)


async def test_a_slow_client_delays_its_own_container_only(rig: Rig) -> None:
    slow = await rig.attach("loud")
    await rig.run("loud", "sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done")
    await asyncio.sleep(0.5)
    size = rig.log("loud").stat().st_size
    await asyncio.sleep(0.5)
    assert rig.log("loud").stat().st_size == size  # blocked by the client that does not read
    quick = await rig.attach("quick")
    await rig.run("quick", "echo", "hello")
    assert (await quick.frames())[1] == b"hello\n"
    slow.close()
    while rig.log("loud").stat().st_size == size:
        await asyncio.sleep(0.01)


async def test_memory_of_both_processes_together(rig: Rig) -> None:
    def resident() -> int:
        pids = [rig.pid_of(name) for name in ("supervisor", "keeper")]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids)

    await rig.run("c", "sleep", "100")
    one = resident()
    assert one <= 30 << 20
    for number in range(20):
        await rig.run(f"c{number}", "sleep", "100")
    assert (resident() - one) / 20 < 300_000


async def test_it_says_ready_to_systemd_and_sigterm_ends_both(tmp_path: Path) -> None:
    exec_root = tmp_path / "run"
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(10)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(SUPERVISOR), "--exec-root", str(exec_root), "--cgroup-root", "pydrignotify",
        env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert await asyncio.to_thread(notify.recv, 100) == b"READY=1"
    notify.close()
    client = RuntimeClient(exec_root, cgroup_root="pydrignotify")
    await client.connect()
    assert await client.states() == {}
    await client.close()
    keepers = [pid for pid in Path("/proc").iterdir() if is_child(pid, process.pid)]
    assert len(keepers) == 1
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 10) == 0
    while keepers[0].exists():
        await asyncio.sleep(0.01)


def is_child(entry: Path, parent: int) -> bool:
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
    except OSError:
        return False


async def test_a_second_supervisor_of_the_same_root_steps_back(rig: Rig) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(SUPERVISOR),
        "--exec-root",
        str(rig.exec_root),
        stderr=asyncio.subprocess.PIPE,
    )
    _, text = await asyncio.wait_for(second.communicate(), 10)
    assert b"another one runs here" in text
    await rig.run("c", "true")
    assert (await rig.exit_of("c")).status == 0


async def test_hooks_run_at_their_points(rig: Rig, tmp_path: Path) -> None:
    config = spec(rig.rootfs, ["true"], f"/{rig.cgroup}/c")
    kinds = ("prestart", "createRuntime", "poststart", "poststop")
    note = tmp_path / "hooks"
    config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} >> {note}; cat >/dev/null"]}]
        for kind in kinds
    }
    await rig.client.start(
        "c", rig.bundle("c", config), log=None, open_stdin=False, stdin_once=False, tty=False
    )
    await rig.exit_of("c")
    await rig.client.delete("c")
    assert note.read_text().split() == list(kinds)
    config["hooks"] = {"prestart": [{"path": "/bin/false"}]}
    with pytest.raises(LaunchFailed, match="hook"):
        await rig.client.start(
            "d", rig.bundle("d", config), log=None, open_stdin=False, stdin_once=False, tty=False
        )
    await rig.client.delete("d")

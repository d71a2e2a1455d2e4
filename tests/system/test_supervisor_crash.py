# ruff: noqa: ASYNC110, ASYNC240 - tests poll, and look into small directories
"""kill -9 of daemon, supervisor and keeper while containers run: nothing is lost that need not be."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.runtime.client import RuntimeCallError, RuntimeState
from tests.system.supervisor_rig import Rig, make_rootfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
COUNT = "i=0; while [ $i -lt {0} ]; do echo line $i; i=$((i+1)); done"
SLOWLY = "i=0; while :; do echo line $i; i=$((i+1)); [ $((i % 50)) -eq 0 ] && sleep 0.01; done"


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
    log = (rig.exec_root / "supervisor.log").read_text()
    assert "Traceback" not in log, log


async def resynced(rig: Rig) -> dict[str, RuntimeState]:
    """Kills the supervisor and waits until the client has found its successor."""
    states: asyncio.Future[dict[str, RuntimeState]] = asyncio.get_running_loop().create_future()
    rig.client.on_resync = states.set_result
    rig.kill("supervisor")
    found = await asyncio.wait_for(states, 15)
    rig.client.on_resync = lambda states: None
    return found


def numbers(rig: Rig, container: str) -> list[int]:
    lines = [json.loads(line)["log"] for line in rig.log(container).read_text().splitlines()]
    assert all(line.startswith("line ") and line.endswith("\n") for line in lines)
    return [int(line.split()[1]) for line in lines]


async def grown(rig: Rig, container: str, by: int = 20_000) -> None:
    target = rig.log(container).stat().st_size + by
    while rig.log(container).stat().st_size < target:
        await asyncio.sleep(0.01)


def gapless(found: list[int]) -> None:
    wrong = [(a, b) for a, b in itertools.pairwise(found) if b != a + 1]
    assert found
    assert found[0] == 0
    assert not wrong


async def test_containers_survive_the_supervisor(rig: Rig) -> None:
    started = await rig.run("c", "sh", "-c", SLOWLY)
    client = await rig.attach("c")
    await client.more(1000)
    state = (await resynced(rig))["c"]
    assert (state.pid, state.status) == (started.pid, "running")
    await client.more(10_000)  # its connection is the keeper's and did not break
    await rig.client.kill("c", 9)
    event = await rig.exit_of("c")
    assert (event.status, event.pid) == (137, started.pid)
    await client.end()
    gapless(numbers(rig, "c"))


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_an_orphans_exit_code_is_learnt(rig: Rig, code: int) -> None:
    client = await rig.attach("c")
    await rig.run("c", "sh", "-c", f"read x; exit {code}", stdin=True)
    await resynced(rig)
    await client.send(b"\n")
    await client.end()
    assert (await rig.exit_of("c")).status == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_exit_while_there_is_no_supervisor(rig: Rig, number: int) -> None:
    """Its successor asks the kernel, by the pidfd that the keeper kept."""
    started = await rig.run("c", "sh", "-c", "trap - 15; exec sleep 100", host_pid=True)
    await rig.client.close()
    rig.kill("supervisor")
    os.kill(started.pid, number)
    await asyncio.sleep(0.1)
    rig.client = rig.new_client()
    await rig.client.connect()
    state = (await rig.client.states())["c"]
    assert (state.status, state.exit_status) == ("stopped", 128 + number)


async def test_execs_survive_the_supervisor(rig: Rig) -> None:
    await rig.run("c", "sleep", "100")
    client = await rig.attach("c", "e")
    await rig.exec("c", "e", "sh", "-c", "read x; echo got $x; exit 9", stdin=True)
    state = (await resynced(rig))["c"]
    assert state.execs["e"].running
    await client.send(b"it\n")
    assert (await client.frames())[1] == b"got it\n"
    assert (await rig.exit_of("c", "e")).status == 9
    await rig.exec("c", "f", "true")
    assert (await rig.exit_of("c", "f")).status == 0


async def test_stdin_ends_and_ttys_work_after_the_supervisor_was_killed(rig: Rig) -> None:
    piped = await rig.attach("p")
    await rig.run("p", "md5sum", stdin=True)
    terminal = await rig.attach("t", tty=True)
    await rig.run("t", "sh", tty=True, stdin=True)
    await resynced(rig)
    await piped.send(b"abc")
    piped.half_close()
    assert b"900150983cd24fb0d6963f7d28e17f72" in await piped.end()
    await rig.client.resize("t", None, 11, 22)
    await terminal.send(b"stty size; exit 2\n")
    assert b"11 22" in await terminal.end()
    assert (await rig.exit_of("t")).status == 2


async def test_a_paused_container_is_found_paused(rig: Rig) -> None:
    await rig.run("c", "sleep", "100")
    await rig.client.pause("c")
    assert (await resynced(rig))["c"].status == "paused"
    await rig.client.resume("c")


async def test_an_unacknowledged_exit_is_told_again(rig: Rig) -> None:
    await rig.run("c", "sh", "-c", "exit 5")
    await rig.exit_of("c")
    state = (await resynced(rig))["c"]
    assert (state.status, state.exit_status) == ("stopped", 5)
    assert len(rig.all_exits) == 1  # this client had it already


async def test_a_half_started_container_is_undone(rig: Rig) -> None:
    for delay in (0.0005, 0.002, 0.004, 0.006, 0.01):
        name = f"c{int(delay * 10000)}"
        starting = asyncio.create_task(rig.run(name, "sleep", "100"))
        await asyncio.sleep(delay)
        states = await resynced(rig)
        try:
            await starting
        except RuntimeCallError:
            if name in states:  # it had been started, only the answer got lost
                await rig.client.kill(name, 9)
                await rig.exit_of(name)
                continue
            assert name not in states
            assert not (rig.exec_root / "containers" / name / "state.json").exists()
            for hierarchy in Path("/sys/fs/cgroup").iterdir():
                assert not (hierarchy / rig.cgroup / name).exists()
            await rig.client.delete(name)
            await rig.run(name, "true")
            assert (await rig.exit_of(name)).status == 0
        else:
            assert states[name].status == "running"
            await rig.client.kill(name, 9)
            await rig.exit_of(name)


async def test_the_log_has_no_gap_through_kills_of_the_keeper(rig: Rig) -> None:
    await rig.run("c", "sh", "-c", SLOWLY)
    for _ in range(5):
        await grown(rig, "c")
        old = rig.kill("keeper")
        while True:
            try:
                if rig.pid_of("keeper") != old:
                    break
            except LookupError:
                await asyncio.sleep(0.005)
    await grown(rig, "c")
    await rig.client.kill("c", 9)
    assert (await rig.exit_of("c")).status == 137
    gapless(numbers(rig, "c"))


async def test_the_keeper_killed_under_full_load(rig: Rig) -> None:
    await rig.run("c", "sh", "-c", COUNT.format(300_000))
    for _ in range(6):
        await asyncio.sleep(0.1)
        try:
            rig.kill("keeper")
        except LookupError:
            continue
    assert (await rig.exit_of("c", within=60)).status == 0
    found = numbers(rig, "c")
    gapless(found)
    assert len(found) == 300_000


async def test_after_the_keeper_was_killed_all_goes_on(rig: Rig) -> None:
    before = await rig.attach("c")
    await rig.run("c", "cat", stdin=True, once=False)
    await before.send(b"one\n")
    await before.until(b"one\n")
    rig.kill("keeper")
    assert await before.end() == before.raw  # dropped
    after = await rig.attach("c")
    await after.send(b"two\n")
    await after.until(b"two\n")
    await rig.run("d", "echo", "new")
    await rig.exit_of("d")
    assert rig.logged("d") == "new\n"
    await rig.client.kill("c", 9)
    await rig.exit_of("c")
    assert rig.logged("c") == "one\ntwo\n"


async def test_containers_survive_both_at_once(rig: Rig) -> None:
    """Without anybody reading, writing waits; nothing is lost but what the keeper had in its hands."""
    await rig.run("c", "sh", "-c", SLOWLY)
    await grown(rig, "c")
    keeper = rig.pid_of("keeper")
    os.kill(rig.pid_of("supervisor"), signal.SIGSTOP)  # so that it cannot start another keeper meanwhile
    os.kill(keeper, signal.SIGKILL)
    assert (await resynced(rig))["c"].status == "running"
    await grown(rig, "c")
    client = await rig.attach("c")
    await client.more(1000)
    assert len(await rig.client.pids("c")) >= 1
    await rig.client.kill("c", 9)
    assert (await rig.exit_of("c")).status == 137
    await client.end()


async def test_an_exit_that_nobody_saw_is_unknown(rig: Rig) -> None:
    """Both killed and the container dead and reaped before a successor came: 255, as documented."""
    started = await rig.run("c", "sleep", "100")
    await rig.client.close()
    keeper = rig.pid_of("keeper")
    os.kill(rig.pid_of("supervisor"), signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    os.kill(started.pid, signal.SIGKILL)
    while Path(f"/proc/{started.pid}").exists():
        await asyncio.sleep(0.01)
    rig.client = rig.new_client()
    await rig.client.connect()
    state = (await rig.client.states())["c"]
    assert (state.status, state.exit_status) == ("stopped", 255)


async def test_a_killed_daemon_changes_nothing(rig: Rig) -> None:
    started = await rig.run("c", "sh", "-c", "sleep 0.3; echo end; exit 6")
    await rig.client.close()
    await asyncio.sleep(0.6)
    rig.client = rig.new_client()
    await rig.client.connect()
    state = (await rig.client.states())["c"]
    assert (state.pid, state.status, state.exit_status) == (started.pid, "stopped", 6)
    assert rig.logged("c") == "end\n"
    await rig.run("d", "true")
    await rig.exit_of("d")

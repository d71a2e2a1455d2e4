# ruff: noqa: ASYNC240 - tests look into small directories
"""The spare clone: it is what the next container becomes, and it holds and outlives nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.cgroups import detect
from daemon.runtime import spare
from daemon.runtime.client import LaunchFailed, Unavailable
from tests.system.supervisor_rig import Rig, make_rootfs, spec

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(detect().kind == "unified", reason="spares are for v1 hierarchies"),
]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("pyd-spare")
    yield make_rootfs(base / "rootfs")
    shutil.rmtree(base)


@pytest.fixture
async def rig(tmp_path: Path, rootfs: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, rootfs)
    await rig.client.connect()
    yield rig
    await rig.close()
    assert "Traceback" not in (rig.exec_root / "supervisor.log").read_text()


def spares(rig: Rig) -> list[int]:
    supervisor = rig.pid_of("supervisor")
    text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    return [pid for pid in map(int, text.split()) if comm(pid) == "pyd-spare"]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def spare_of(rig: Rig) -> int:
    """The spare, made if there is none, waiting for its plan."""
    rig.client.expect()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = spares(rig)
        if found and "recv" in Path(f"/proc/{found[0]}/wchan").read_text() + blocked_in(found[0]):
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError("there is no spare")


def blocked_in(pid: int) -> str:
    """ "recv" when it sleeps in recvmsg(2), for kernels that do not tell wchan."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return "recv" if number in ("47", "212") else ""


async def test_the_next_container_is_the_spare(rig: Rig) -> None:
    for name in ("first", "second", "third"):
        waiting = await spare_of(rig)
        started = await rig.run(name, "sh", "-c", "echo $$; cat /proc/1/comm; exec sleep 100")
        assert started.pid == waiting
    for name in ("first", "third"):
        await until_logged(rig, name, "sh\n")
        assert rig.logged(name).split() == ["1", "sh"]


async def test_it_is_like_any_other_init(rig: Rig) -> None:
    """Signals, session, descriptors, cgroups, limits and namespaces are those of a container started anew."""
    look = (
        "grep -E '^(Sig|Shd|Cap|Seccomp|NoNew|Groups|Uid|Umask|NSpid|NSsid|NSpgid)' /proc/1/status; ls /proc/1/fd;"
        "cat /proc/1/limits /proc/1/cgroup /proc/1/oom_score_adj; env;"
        "busybox stat -c '%n %F %a %t:%T' /dev/* /dev/pts/*; busybox readlink /dev/stdin /dev/fd /dev/ptmx;"
        "busybox sort /proc/1/mounts"
    )
    texts = []
    for name, wanted in (("ordinary", False), ("spare", True)):
        waiting = await spare_of(rig) if wanted else None
        started = await rig.run(name, "sh", "-c", f"{look}; echo done; sleep 100")
        assert (started.pid == waiting) == wanted
        await until_logged(rig, name, "done")
        lines = rig.logged(name).replace(name, "NAME").splitlines()
        texts.append(
            [line for line in lines if not line.startswith("0::")]
        )  # a hybrid's v2, limiting nothing
    assert texts[0] == texts[1]
    assert "character special file 666 1:3" in " ".join(texts[1])


async def until_logged(rig: Rig, name: str, text: str) -> None:
    deadline = time.monotonic() + 5
    while text not in rig.logged(name):
        assert time.monotonic() < deadline, rig.logged(name)
        await asyncio.sleep(0.02)


async def test_it_gets_the_network_namespace_it_is_given(rig: Rig) -> None:
    waiting = await spare_of(rig)
    config = spec(rig.rootfs, ["sleep", "100"], f"/{rig.cgroup}/net")
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        started = await rig.client.start(
            "net",
            rig.bundle("net", config),
            log=None,
            open_stdin=False,
            stdin_once=False,
            tty=False,
            netns_fd=fd,
        )
    finally:
        os.close(fd)
    assert started.pid == waiting
    assert os.readlink(f"/proc/{waiting}/ns/net") == os.readlink("/proc/self/ns/net")


async def test_its_cgroup_namespace_begins_at_its_own_cgroup(rig: Rig) -> None:
    waiting = await spare_of(rig)
    started = await rig.run(
        "own", "sh", "-c", "cat /proc/1/cgroup; echo done; sleep 100", namespaces=("cgroup",)
    )
    assert started.pid == waiting
    await until_logged(rig, "own", "done")
    assert {line.split(":")[2] for line in rig.logged("own").split()[:-1]} == {"/"}


@pytest.fixture
def overlay(rig: Rig, tmp_path: Path) -> dict[str, Any]:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return {"lower": [str(rig.rootfs)], "upper": f"{tmp_path}/upper", "work": f"{tmp_path}/work"}


def prepare(rig: Rig, name: str, overlay: dict[str, Any]) -> None:
    rig.client.prepare(name, overlay, ["/proc", "/dev", "/made/here"], ["/etc/some/file"])


async def until_made(overlay: dict[str, Any]) -> None:
    deadline = time.monotonic() + 5
    while not Path(overlay["upper"], "etc/some/file").exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_it_mounts_the_root_before_its_plan_comes(rig: Rig, overlay: dict[str, Any]) -> None:
    waiting = await spare_of(rig)
    prepare(rig, "c", overlay)
    await until_made(overlay)
    assert "upper" not in Path("/proc/self/mounts").read_text()
    assert "upper" not in Path(f"/proc/{waiting}/mounts").read_text()
    script = (
        "echo x > /written; ls -d /made/here /etc/some/file; grep -c '^overlay / ' /proc/mounts; sleep 100"
    )
    started = await rig.run("c", "sh", "-c", script, overlay=overlay)
    assert started.pid == waiting
    await until_logged(rig, "c", "1\n")
    assert rig.logged("c").split() == ["/etc/some/file", "/made/here", "1"]
    assert Path(overlay["upper"], "written").exists()


async def test_with_a_root_it_is_that_containers_alone(rig: Rig, overlay: dict[str, Any]) -> None:
    waiting = await spare_of(rig)
    prepare(rig, "c", overlay)
    assert (await rig.run("other", "sleep", "100")).pid != waiting
    prepare(rig, "third", overlay)
    assert (await rig.run("third", "sleep", "100")).pid != waiting
    assert (await rig.run("c", "sleep", "100", overlay=overlay)).pid == waiting


async def test_a_root_whose_start_does_not_come_is_let_go_of(rig: Rig, overlay: dict[str, Any]) -> None:
    waiting = await spare_of(rig)
    prepare(rig, "c", overlay)
    await until_made(overlay)
    await rig.client.delete("c")
    assert not Path(f"/proc/{waiting}").exists()
    waiting = await spare_of(rig)
    prepare(rig, "c", overlay)
    started = await rig.run(
        "c", "ls", "/etc/some/file", overlay=overlay, host_pid=True
    )  # what no spare is for
    assert not Path(f"/proc/{waiting}").exists()
    assert started.pid != waiting
    assert (await rig.exit_of("c")).status == 0


async def test_another_root_than_was_told_is_mounted(rig: Rig, overlay: dict[str, Any]) -> None:
    waiting = await spare_of(rig)
    prepare(rig, "c", {**overlay, "lower": ["/etc", *overlay["lower"]]})
    await until_made(overlay)
    started = await rig.run("c", "ls", "/passwd", overlay=overlay)
    assert started.pid == waiting
    assert (await rig.exit_of("c")).status == 1


async def test_a_tty(rig: Rig) -> None:
    waiting = await spare_of(rig)
    started = await rig.run("tty", "sh", "-c", "tty; stty size; sleep 100", tty=True, size=(33, 101))
    assert started.pid == waiting
    await until_logged(rig, "tty", "33 101")


async def test_a_failed_start_is_reported_and_leaves_nothing(rig: Rig) -> None:
    waiting = await spare_of(rig)
    with pytest.raises(LaunchFailed, match="executable file not found") as failure:
        await rig.run("bad", "no-such-program")
    assert failure.value.exit_code == 127
    assert not Path(f"/proc/{waiting}").exists()
    waiting = await spare_of(rig)
    with pytest.raises(LaunchFailed, match="memory"):
        await rig.run("worse", "true", change={"memory": {"limit": 1 << 62, "swap": 5}})
    assert not Path(f"/proc/{waiting}").exists()
    assert await rig.client.states() == {}


async def test_a_plan_with_other_namespaces_leaves_the_spare_alone(rig: Rig) -> None:
    waiting = await spare_of(rig)
    started = await rig.run("other", "sleep", "100", host_pid=True)
    assert started.pid != waiting
    assert spares(rig) == [waiting]


async def test_it_holds_nothing_of_a_container(rig: Rig) -> None:
    await rig.run("c", "sleep", "100", stdin=True)
    waiting = await spare_of(rig)
    links = [os.readlink(f"/proc/{waiting}/fd/{fd}") for fd in os.listdir(f"/proc/{waiting}/fd")]
    kinds = sorted(link.partition(":")[0] for link in links)
    assert kinds[-1:] == ["socket"]
    assert all(kind.startswith("/") for kind in kinds[:-1]), (
        kinds
    )  # /dev/null, the log, ready mounts: no pipe
    assert os.readlink(f"/proc/{waiting}/ns/mnt") == os.readlink("/proc/self/ns/mnt")


async def test_there_is_at_most_one_and_none_when_idle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.gather(*(rig.run(f"c{number}", "sleep", "100") for number in range(5)))
    waiting = await spare_of(rig)
    assert spares(rig) == [waiting]
    await asyncio.sleep(spare.AGE + 0.3)
    assert spares(rig) == []


async def test_one_that_was_killed_is_done_without(rig: Rig) -> None:
    waiting = await spare_of(rig)
    os.kill(waiting, 9)
    assert (await rig.run("c", "sleep", "100")).pid != waiting
    assert await spare_of(rig) != waiting


@pytest.mark.parametrize("tty", [False, True])
async def test_one_that_is_killed_after_it_was_taken_is_done_without(rig: Rig, tty: bool) -> None:
    """It is stopped, so that it cannot go on before it is killed, with the plan and all that follows in its socket."""
    waiting = await spare_of(rig)
    os.kill(waiting, signal.SIGSTOP)
    script = "cat /proc/1/cgroup; echo out; echo err >&2; cat; exit 7"
    starting = asyncio.create_task(rig.run("c", "sh", "-c", script, stdin=True, tty=tty))
    attached = await rig.attach("c", tty=tty)
    deadline = time.monotonic() + 5
    while not (rig.exec_root / "containers/c/state.json").exists():  # written once it is taken
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    os.kill(waiting, signal.SIGKILL)
    assert (await starting).pid not in (waiting, 0)
    await attached.send(b"in\n\4" if tty else b"in\n")
    if not tty:
        attached.half_close()
    assert (await rig.exit_of("c")).status == 7
    assert f"pids:/{rig.cgroup}/c" in rig.logged("c")
    await attached.end()
    assert b"out" in attached.raw and b"err" in attached.raw and b"in" in attached.raw
    states = await rig.client.states()
    assert states["c"].exit_status == 7


async def test_it_dies_with_the_supervisor(rig: Rig) -> None:
    waiting = await spare_of(rig)
    rig.kill("supervisor")
    deadline = time.monotonic() + 5
    while comm(waiting) == "pyd-spare" and "Z" not in Path(f"/proc/{waiting}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    with contextlib.suppress(Unavailable):  # where we have not noticed its death yet
        await rig.client.states()
    await rig.run("after", "sh", "-c", "echo on")
    assert (await rig.exit_of("after")).status == 0

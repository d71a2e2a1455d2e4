"""kill -9 of daemon and supervisor at the worst moments: nothing acknowledged is lost, nothing half-made stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import holdings
from tests.system.host import Host
from tests.system.terminal import terminal

LINES = 60_000
COUNT = f"seq 1 {LINES}; echo end; exec sleep 600"


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, registry: str) -> Iterator[Host]:
    """A pydd that each test leaves running and empty, and `REGISTRY/layered:1`, an image of three layers."""
    made = Host(tmp_path_factory.mktemp("crash"))
    made.start()
    try:
        made.docker("import", "--change", 'CMD ["sh"]', str(busybox_tar), "busybox:latest")
        for number, base in enumerate(("busybox", f"{registry}/layered:1")):
            made.docker(
                "run", "--name", "layer", base, "sh", "-c", f"head -c 3000000 /dev/urandom > /file{number}"
            )
            made.docker("commit", "layer", f"{registry}/layered:1")
            made.docker("rm", "layer")
        made.docker("push", "-q", f"{registry}/layered:1")
        made.docker("rmi", "-f", f"{registry}/layered:1")
        yield made
    finally:
        made.undo()


@pytest.fixture
def empty(crashing: Host) -> Iterator[Host]:
    """It holds nothing but busybox before and after the test."""
    crashing.environment = {}
    before = holdings.settled(crashing)
    yield crashing
    crashing.environment = {}
    if crashing.process is None or crashing.process.poll() is not None:
        crashing.start()
    ids = crashing.docker("ps", "-aq").split()
    if ids:
        crashing.docker("rm", "-f", "-v", *ids)
    for image in crashing.docker("images", "-q", "--filter", "reference=127.0.0.1:*/layered").split():
        crashing.docker("rmi", "-f", image)
    holdings.compare(crashing, before)


def crash_and_restart(host: Host) -> None:
    host.kill()
    host.start()


def until(true: object, what: str, seconds: float = 30) -> None:
    """Wait for what no event tells us."""
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def follow_to_the_end(host: Host, name: str) -> list[str]:
    """All lines up to "end", by following."""
    command = host._docker("logs", "-f", name)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1] == "end":
                break
        process.kill()
    return lines


def log_size(host: Host, name: str) -> int:
    return Path(host.inspect(name)["LogPath"]).stat().st_size


# -- the daemon dies while containers run


def test_logs_at_full_speed_have_no_gap_and_no_duplicate(empty: Host) -> None:
    empty.docker("run", "-d", "--name", "talker", "busybox", "sh", "-c", COUNT)
    path = Path(empty.inspect("talker")["LogPath"])
    for share in (0.2, 0.6):  # two crashes while it writes
        until(lambda share=share: path.stat().st_size > share * LINES * 75, f"{share} of the log")
        crash_and_restart(empty)
    lines = follow_to_the_end(empty, "talker")
    assert lines == [*map(str, range(1, LINES + 1)), "end"]
    assert empty.docker("ps", "--format", "{{.Names}} {{.State}}") == "talker running\n"
    assert empty.docker("logs", "--tail", "1", "talker") == "end\n"


def test_containers_go_on_and_are_still_ours(empty: Host) -> None:
    script = "trap 'echo stopping; exit 5' TERM; echo up; while :; do sleep 0.1; done"
    empty.docker("run", "-d", "--name", "one", "busybox", "sh", "-c", script)
    empty.docker("run", "-d", "--name", "two", "-it", "busybox", "cat")
    empty.docker("run", "-d", "--name", "held", "busybox", "sleep", "600")
    empty.docker("pause", "held")
    before = {name: empty.inspect(name) for name in ("one", "two", "held")}
    crash_and_restart(empty)
    for name, shown in before.items():
        after = empty.inspect(name)
        assert after["State"] == shown["State"], name
        assert after["NetworkSettings"] == shown["NetworkSettings"], name
    assert empty.docker("exec", "one", "echo", "reached") == "reached\n"
    empty.docker("unpause", "held")
    with terminal(empty._docker("attach", "--detach-keys", "ctrl-x", "two")) as attached:
        attached.type("hello\n")
        attached.until("hello\nhello\n")
        attached.type("\x18")
        attached.code()
    assert "up" in empty.docker("logs", "one")
    empty.docker("stop", "one")
    assert empty.inspect("one")["State"]["ExitCode"] == 5
    assert empty.docker("logs", "--tail", "1", "one") == "stopping\n"
    empty.docker("start", "one")
    assert empty.docker("stats", "--no-stream", "--format", "{{.PIDs}}", "held") == "1\n"


def test_an_exit_while_the_daemon_is_dead_keeps_its_code(empty: Host, tmp_path: Path) -> None:
    """Also: what should be removed is, what should be restarted is."""
    script = "until [ -e /go/now ]; do sleep 0.02; done; echo last words; exit 42"
    flags = ["-d", "-v", f"{tmp_path}:/go"]
    for name, more in (("plain", ()), ("gone", ("--rm",)), ("again", ("--restart", "on-failure:1"))):
        empty.docker("run", *flags, *more, "--name", name, "busybox", "sh", "-c", script)
    pids = [empty.inspect(name)["State"]["Pid"] for name in ("plain", "gone", "again")]
    since = empty.docker("info", "-f", "{{.SystemTime}}").strip()
    empty.kill()
    (tmp_path / "now").touch()
    for pid in pids:
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), f"end of {pid}")
    empty.start()
    assert empty.docker("wait", "plain") == "42\n"
    state = empty.inspect("plain")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 42, 0)
    assert empty.docker("logs", "plain") == "last words\n"
    until(lambda: empty.try_docker("inspect", "gone").returncode == 1, "removal of a --rm container")
    until(lambda: empty.inspect("again")["State"]["Status"] == "exited", "end of the restarted container")
    again = empty.inspect("again")
    assert (again["RestartCount"], again["State"]["ExitCode"]) == (1, 42)
    assert empty.docker("logs", "again") == "last words\n" * 2
    form = ["--format", "{{.Action}} {{.Actor.Attributes.exitCode}}"]
    until_now = empty.docker("info", "-f", "{{.SystemTime}}").strip()
    window = ["--since", since, "--until", until_now, "--filter", "event=die", "--filter", "container=plain"]
    assert empty.docker("events", *window, *form) == "die 42\n"


def test_a_follower_and_an_attached_client_meet_the_crash(empty: Host) -> None:
    """The follower's connection ends with the daemon; the container, its stdin included, does not."""
    empty.docker("run", "-d", "-i", "--name", "cat", "busybox", "cat")
    command = empty._docker("attach", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attached:
        assert attached.stdin and attached.stdout
        attached.stdin.write(b"before\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"before\n"
        empty.kill()
        attached.stdin.write(b"while it is dead\n")  # the keeper has the connection, not the daemon
        attached.stdin.flush()
        assert attached.stdout.readline() == b"while it is dead\n"
        empty.start()
        attached.kill()
    assert empty.docker("logs", "cat") == "before\nwhile it is dead\n"
    assert empty.docker("ps", "-q", "--no-trunc") == empty.docker("inspect", "-f", "{{.Id}}", "cat")


# -- the daemon dies in the middle


def at_point(host: Host, point: str, *command: str) -> bool:
    """Run a client against a daemon that dies at a failpoint, then start it again; whether it did die."""
    host.stop()
    host.environment = {"PYD_FAILPOINTS": f"{point}=kill"}
    host.start()
    told = host.try_docker(*command)
    assert host.process
    died = told.returncode != 0 and _ends(host.process)
    host.kill()
    host.environment = {}
    host.start()
    return died


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """A killed process closes its connections before it can be waited for."""
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize(
    "point",
    ["content.commit", "images.layer.commit", "snapshots.committed"],
)
def test_killed_in_the_middle_of_a_pull(empty: Host, registry: str, point: str) -> None:
    """Some points are in the unpacking workers: then the pull fails, or is done again, without the daemon's end."""
    image = f"{registry}/layered:1"
    at_point(empty, point, "pull", image)
    assert "Downloaded newer image" in empty.docker("pull", image) or point.endswith("committed")
    assert empty.docker("run", "--rm", image, "sh", "-c", "cat /file0 /file1 | wc -c") == "6000000\n"


@pytest.mark.parametrize("point", ["containers.add", "containers.added"])
def test_killed_in_the_middle_of_a_create(empty: Host, point: str) -> None:
    before = holdings.settled(empty)
    assert at_point(empty, point, "create", "--name", "made", "-v", "/anonymous", "busybox", "true")
    if point == "containers.added":  # it was recorded, only the client does not know
        empty.docker("rm", "-v", "made")
    holdings.compare(empty, before)
    empty.docker("create", "--name", "made", "busybox", "echo", "works")
    assert empty.docker("start", "-a", "made") == "works\n"


@pytest.mark.parametrize("point", ["containers.start", "containers.started"])
def test_killed_in_the_middle_of_a_start(empty: Host, point: str) -> None:
    script = "hostname -i; exec sleep 600"
    empty.docker("create", "--name", "late", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script)
    before = holdings.settled(empty)
    assert at_point(empty, point, "start", "late")
    state = empty.inspect("late")["State"]
    assert (state["Running"], state["Pid"]) == (False, 0), state
    holdings.compare(empty, before)
    empty.docker("start", "late")
    assert empty.docker("exec", "late", "hostname", "-i").startswith("172.")
    empty.docker("port", "late", "80")


@pytest.mark.parametrize("point", ["containers.drop", "containers.dropped"])
def test_killed_in_the_middle_of_a_removal(empty: Host, point: str) -> None:
    before = holdings.settled(empty)
    empty.docker("create", "--name", "old", "busybox")
    at_point(empty, point, "rm", "old")
    empty.try_docker("rm", "old")
    assert empty.docker("ps", "-a", "-q") == ""
    holdings.compare(empty, before)


def test_killed_at_random_times(empty: Host, registry: str) -> None:
    """Clients run, remove and pull all the time while the daemon dies; then all is as if nothing had been."""
    image, dice = f"{registry}/layered:1", random.Random(4)
    over = threading.Event()

    def work(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            empty.try_docker("run", "--name", f"c{number}-{turn}", "busybox", "true")
            empty.try_docker("run", "-d", "--rm", "busybox", "sleep", "0.3")
            empty.try_docker("pull", "-q", image)
            empty.try_docker("rmi", image)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(4):
            time.sleep(dice.uniform(0.1, 1.0))
            crash_and_restart(empty)
    finally:
        over.set()
        for worker in workers:
            worker.join()
    crash_and_restart(empty)
    assert empty.docker("run", "--rm", "busybox", "echo", "fine") == "fine\n"
    empty.docker("pull", "-q", image)
    assert empty.docker("run", "--rm", image, "sh", "-c", "cat /file0 /file1 | wc -c") == "6000000\n"
    for row in empty.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines():
        assert row.split()[1] in ("created", "exited", "running"), row


# -- the supervisor dies


def kill_supervisor(host: Host) -> int:
    """kill -9 of the supervisor alone, not of the keeper; its pid."""
    for pid in host.supervisor_pids():
        if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return pid
    raise AssertionError("no supervisor")


def test_containers_survive_their_supervisor(empty: Host) -> None:
    empty.docker("run", "-d", "--name", "talker", "busybox", "sh", "-c", COUNT)
    ending = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
    empty.docker("run", "-d", "--name", "stopped", "busybox", "sh", "-c", ending)
    empty.docker("run", "-d", "--name", "cat", "-it", "busybox", "cat")
    pids = {name: empty.inspect(name)["State"]["Pid"] for name in ("talker", "stopped", "cat")}
    dead = kill_supervisor(empty)
    until(lambda: any(pid != dead for pid in supervisors(empty)), "a new supervisor")
    assert {name: empty.inspect(name)["State"]["Pid"] for name in pids} == pids
    assert sorted(empty.docker("ps", "--format", "{{.Names}}").split()) == ["cat", "stopped", "talker"]
    assert empty.docker("exec", "stopped", "echo", "reached") == "reached\n"
    lines = follow_to_the_end(empty, "talker")
    assert lines == [*map(str, range(1, LINES + 1)), "end"]
    with terminal(empty._docker("attach", "--detach-keys", "ctrl-x", "cat")) as attached:
        attached.type("still\n")
        attached.until("still\nstill\n")
        attached.type("\x18")
        attached.code()
    empty.docker("stop", "stopped")
    assert empty.inspect("stopped")["State"]["ExitCode"] == 9
    empty.docker("kill", "talker")
    assert empty.docker("wait", "talker") == "137\n"
    assert empty.docker("run", "--rm", "busybox", "echo", "new ones start") == "new ones start\n"


def supervisors(host: Host) -> list[int]:
    return [p for p in host.supervisor_pids() if b"supervisor.py" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_an_exit_while_daemon_and_supervisor_are_dead(empty: Host, tmp_path: Path) -> None:
    script = "until [ -e /go/now ]; do sleep 0.02; done; exit 43"
    empty.docker("run", "-d", "--name", "orphan", "-v", f"{tmp_path}:/go", "busybox", "sh", "-c", script)
    empty.docker("run", "-d", "--name", "other", "busybox", "sleep", "600")
    pid = empty.inspect("orphan")["State"]["Pid"]
    kill_supervisor(empty)
    empty.kill()
    (tmp_path / "now").touch()
    until(lambda: not os.path.exists(f"/proc/{pid}") or is_zombie(pid), "the end of the container")
    empty.start()
    assert empty.docker("wait", "orphan") == "43\n"
    assert empty.docker("ps", "--format", "{{.Names}}") == "other\n"
    empty.docker("stop", "-t", "0", "other")
    assert empty.inspect("other")["State"]["ExitCode"] == 137


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True

"""A container's life without its user: restart policies, health checks, OOM kills, the daemon's own end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.clock import SECOND, parse_rfc3339
from tests.system.conftest import load_busybox
from tests.system.host import Host


def until(condition: Callable[[], Any], what: str, seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


def state(host: Host, name: str) -> dict[str, Any]:
    return host.inspect(name)["State"]  # type: ignore[no-any-return]


def events(host: Host, since: float, *filters: str) -> list[dict[str, Any]]:
    flags = [word for text in filters for word in ("--filter", text)]
    end = f"{time.time():.9f}"  # not "0s", which the client makes the beginning of this second
    text = host.docker("events", "--since", f"{since:.9f}", "--until", end, "--format", "{{json .}}", *flags)
    return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def daemon_with(busybox_tar: Path, *flags: str) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        running = Host(Path(directory), *flags)
        running.start()
        try:
            load_busybox(running, busybox_tar)
            yield running
        finally:
            running.undo()


# -- restart policies


def test_always_restarts_with_a_doubling_back_off(host: Host) -> None:
    began = time.time()
    host.docker("run", "-d", "--name", "c1", "--restart", "always", "busybox", "sh", "-c", "exit 3")
    until(lambda: host.inspect("c1")["RestartCount"] >= 5, "four restarts and one to come")
    host.docker("stop", "-t", "0", "c1")
    found = events(host, began, "container=c1")
    deaths = [e["timeNano"] for e in found if e["Action"] == "die"]
    starts = [e["timeNano"] for e in found if e["Action"] == "start"]
    pauses = [(after - death) / SECOND for death, after in zip(deaths, starts[1:], strict=False)][:4]
    for pause, expected in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert expected <= pause < expected * 2 + 0.5, pauses
    time.sleep(0.3)
    assert state(host, "c1")["Status"] == "exited"  # stopped stays stopped


def test_a_restarting_container_is_shown_so_and_can_be_stopped(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "--restart", "always", "busybox", "sh", "-c", "exit 3")
    until(lambda: host.inspect("c1")["RestartCount"] >= 3 and state(host, "c1")["Restarting"], "restarting")
    shown = host.docker("ps", "--format", "{{.Status}}", "--filter", "status=restarting").strip()
    assert re.fullmatch(r"Restarting \(3\) (Less than a|\d+) seconds? ago", shown)
    assert (
        "restarting, wait until the container is running"
        in host.try_docker("exec", "c1", "true").stderr.decode()
    )
    host.docker("stop", "c1")
    assert (state(host, "c1")["Status"], state(host, "c1")["ExitCode"]) == ("exited", 3)


LEAVES_ON_USR1 = 'trap "exit 3" USR1; while :; do sleep 0.02; done'


@pytest.mark.parametrize(
    ("flags", "restarts"),
    [
        (["--restart", "always"], False),  # no stop signal named: each signal is one
        (["--restart", "on-failure"], False),
        (["--restart", "always", "--stop-signal", "TERM"], True),
        (["--restart", "on-failure", "--stop-signal", "TERM"], True),
        (["--restart", "unless-stopped", "--stop-signal", "TERM"], False),
        (["--restart", "always", "--stop-signal", "USR1"], False),
    ],
)
def test_a_signal_by_hand_and_the_restarts_after_it(host: Host, flags: list[str], restarts: bool) -> None:
    """As dockerd 28.5 was seen to do it with each of these."""
    host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sh", "-c", LEAVES_ON_USR1)
    caught = f"/proc/{state(host, 'c1')['Pid']}/status"
    until(lambda: "SigCgt:\t0000000000000000" not in Path(caught).read_text(), "the trap")
    host.docker("kill", "-s", "USR1", "c1")
    if restarts:
        until(lambda: host.inspect("c1")["RestartCount"] == 1 and state(host, "c1")["Pid"] > 0, "its restart")
        return
    until(lambda: state(host, "c1")["Status"] == "exited", "its end")
    time.sleep(0.3)
    assert (state(host, "c1")["Status"], host.inspect("c1")["RestartCount"]) == ("exited", 0)


def test_killing_what_restarts_calls_the_restart_off(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "--restart", "always", "busybox", "sh", "-c", "exit 3")
    until(lambda: host.inspect("c1")["RestartCount"] >= 3 and state(host, "c1")["Restarting"], "restarting")
    host.docker("kill", "c1")
    assert (state(host, "c1")["Status"], state(host, "c1")["ExitCode"]) == ("exited", 3)
    assert "is not running" in host.try_docker("kill", "c1").stderr.decode()


def test_a_paused_container_is_thawed_by_what_stops_it_alone(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "--stop-signal", "TERM", "busybox", "sleep", "1000")
    host.docker("pause", "c1")
    host.docker("kill", "-s", "USR2", "c1")
    assert state(host, "c1")["Status"] == "paused"
    host.docker("kill", "-s", "TERM", "c1")
    assert state(host, "c1")["Status"] != "paused"


def test_on_failure_stops_after_its_count_and_not_at_success(host: Host) -> None:
    flags = ["-d", "--restart", "on-failure:2"]
    host.docker("run", *flags, "--name", "bad", "busybox", "sh", "-c", "exit 7")
    host.docker("run", *flags, "--name", "good", "busybox", "true")
    until(lambda: state(host, "bad")["Status"] == "exited", "the end of its restarts")
    assert (host.inspect("bad")["RestartCount"], state(host, "bad")["ExitCode"]) == (2, 7)
    assert (host.inspect("good")["RestartCount"], state(host, "good")["Status"]) == (0, "exited")


def test_a_run_of_ten_seconds_resets_the_back_off(own_host: Host) -> None:
    host = own_host
    script = "n=$(cat /n 2>/dev/null || echo 0); echo $((n+1)) > /n; [ $n -eq 3 ] && sleep 10.2; exit 1"
    began = time.time()
    host.docker("run", "-d", "--name", "c1", "--restart", "always", "busybox", "sh", "-c", script)
    until(lambda: host.inspect("c1")["RestartCount"] >= 5, "a restart after the long run", 25)
    host.docker("kill", "c1") if state(host, "c1")["Running"] and not state(host, "c1")[
        "Restarting"
    ] else None
    found = [e for e in events(host, began, "container=c1") if e["Action"] in ("die", "start")]
    fourth = [e["timeNano"] for e in found if e["Action"] == "die"][3]
    after = next(e["timeNano"] for e in found if e["Action"] == "start" and e["timeNano"] > fourth)
    assert 0.1 <= (after - fourth) / SECOND < 0.6  # it would be 0.8 without the reset
    host.docker("rm", "-f", "c1")


def test_policies_across_a_killed_daemon_and_a_reboot(own_host: Host) -> None:
    host = own_host
    for name, policy in (
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("forced", "always"),
        ("no", "no"),
        ("failing", "on-failure"),
    ):
        host.docker("run", "-d", "--name", name, "--restart", policy, "busybox", "sleep", "1000")
    host.docker("stop", "-t", "0", "stopped", "forced")
    pids = {name: state(host, name)["Pid"] for name in ("always", "unless", "no", "failing")}
    host.kill()
    host.start()
    assert {name: state(host, name)["Pid"] for name in pids} == pids  # nothing happened to them
    until(lambda: state(host, "forced")["Running"], "always means even after a stop, once a daemon starts")
    assert not state(host, "stopped")["Running"]
    host.kill()
    reboot(host)
    host.start()
    until(lambda: all(state(host, n)["Pid"] for n in ("always", "unless", "forced", "failing")), "restarts")
    assert not state(host, "stopped")["Running"]
    dead = state(host, "no")
    assert (dead["Status"], dead["ExitCode"], dead["Pid"]) == ("exited", 255, 0)
    assert all(state(host, name)["Pid"] != pids[name] for name in ("always", "unless"))
    assert host.docker("exec", "always", "echo", "works") == "works\n"


def reboot(host: Host) -> None:
    """What a power cut does: all processes gone at once, /run empty. The daemon must be dead already."""

    def left() -> list[int]:
        return _runtime_processes(host) + [int(pid) for pid in _cgroup_processes(host)]

    for pid in left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not left(), "everything dead")
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in points[::-1]:
        if point.startswith(f"{host.exec_root}/"):
            subprocess.run(["umount", "-l", point], check=True)
    subprocess.run(["rm", "-rf", *map(str, host.exec_root.iterdir())], check=True)


def _runtime_processes(host: Host) -> list[int]:
    """Supervisor and keeper."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            command = (entry / "cmdline").read_bytes()
            if str(host.exec_root).encode() in command and b"/daemon/runtime/" in command:
                found.append(int(entry.name))
    return found


def _cgroup_processes(host: Host) -> list[str]:
    from daemon.config import DaemonConfig

    name = DaemonConfig(data_root=host.data_root, exec_root=host.exec_root).cgroup_root
    found: list[str] = []
    for base in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        for path in Path(base, name).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found += path.read_text().split()
    return found


# -- health


def test_health_goes_from_starting_to_healthy_to_unhealthy(host: Host) -> None:
    began = time.time()
    flags = [
        "--health-cmd",
        "test ! -e /bad && echo fine",
        "--health-interval",
        "300ms",
        "--health-retries",
        "2",
    ]
    host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sleep", "1000")
    assert state(host, "c1")["Health"]["Status"] == "starting"
    assert host.docker("ps", "--format", "{{.Status}}").strip().endswith("(health: starting)")
    until(lambda: state(host, "c1")["Health"]["Status"] == "healthy", "healthy")
    assert (
        host.docker("ps", "--format", "{{.Status}}", "--filter", "health=healthy")
        .strip()
        .endswith("(healthy)")
    )
    host.docker("exec", "c1", "touch", "/bad")
    until(lambda: state(host, "c1")["Health"]["Status"] == "unhealthy", "unhealthy")
    assert host.docker("ps", "--format", "{{.Status}}").strip().endswith("(unhealthy)")
    until(lambda: state(host, "c1")["Health"]["FailingStreak"] >= 4, "a streak")
    health = state(host, "c1")["Health"]
    assert len(health["Log"]) <= 5
    assert {e["ExitCode"] for e in health["Log"]} <= {0, 1}
    assert health["Log"][-1]["ExitCode"] == 1
    for entry in health["Log"]:
        assert parse_rfc3339(entry["Start"]) < parse_rfc3339(entry["End"])
    host.docker("exec", "c1", "rm", "/bad")
    until(lambda: state(host, "c1")["Health"]["Status"] == "healthy", "healthy again")
    assert state(host, "c1")["Health"]["FailingStreak"] == 0
    actions = [e["Action"] for e in events(host, began, "container=c1", "event=health_status")]
    assert actions == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]
    probe = [e["Action"] for e in events(host, began, "container=c1")]
    assert "exec_create: /bin/sh -c test ! -e /bad && echo fine" in probe
    assert {"exec_die"} <= set(probe)


def test_failures_in_the_start_period_do_not_count(host: Host) -> None:
    flags = ["--health-cmd", "test -e /ready", "--health-interval", "10s", "--health-retries", "1"]
    flags += ["--health-start-period", "20s", "--health-start-interval", "200ms"]
    host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sleep", "1000")
    until(lambda: len(state(host, "c1")["Health"]["Log"]) >= 3, "probes at the start interval", 5)
    health = state(host, "c1")["Health"]
    assert (health["Status"], health["FailingStreak"]) == ("starting", 0)
    host.docker("exec", "c1", "touch", "/ready")
    until(lambda: state(host, "c1")["Health"]["Status"] == "healthy", "healthy", 3)


def test_a_probe_that_hangs_is_killed_and_its_output_kept(host: Host) -> None:
    flags = ["--health-cmd", "echo out; echo err >&2; exec sleep 77", "--health-interval", "200ms"]
    flags += ["--health-timeout", "500ms", "--health-retries", "1"]
    host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sleep", "1000")
    until(lambda: state(host, "c1")["Health"]["Status"] == "unhealthy", "unhealthy")
    first = state(host, "c1")["Health"]["Log"][0]
    assert (first["ExitCode"], first["Output"]) == (-1, "Health check exceeded timeout (500ms): out\nerr\n")
    until(lambda: host.docker("top", "c1").count("sleep 77") <= 1, "killed probes gone")


def test_output_is_cut_at_4096_bytes(host: Host) -> None:
    flags = ["--health-cmd", "head -c 5000 /dev/zero | tr '\\0' x", "--health-interval", "200ms"]
    host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sleep", "1000")
    until(lambda: state(host, "c1")["Health"]["Log"], "a result")
    assert state(host, "c1")["Health"]["Log"][0]["Output"] == "x" * 4096 + "..."


def test_health_stops_with_pause_and_end_and_starts_with_unpause_and_start(host: Host) -> None:
    host.docker(
        *("run", "-d", "--name", "c1", "--health-cmd", "true", "--health-interval", "200ms"),
        *("busybox", "sleep", "1000"),
    )
    until(lambda: state(host, "c1")["Health"]["Status"] == "healthy", "healthy")
    host.docker("pause", "c1")
    assert host.docker("ps", "--format", "{{.Status}}").strip().endswith("(Paused)")
    paused = state(host, "c1")["Health"]
    time.sleep(0.6)
    assert state(host, "c1")["Health"]["Log"][-1] == paused["Log"][-1]
    host.docker("unpause", "c1")
    until(lambda: state(host, "c1")["Health"]["Status"] == "healthy", "healthy after unpause")
    host.docker("kill", "c1")
    assert state(host, "c1")["Health"]["Status"] == "unhealthy"  # as dockerd's, for compatibility's sake
    host.docker("start", "c1")
    until(lambda: state(host, "c1")["Health"]["Status"] == "healthy", "healthy after start")


def test_health_goes_on_after_a_daemon_was_killed(own_host: Host) -> None:
    flags = ["--health-cmd", "true", "--health-interval", "300ms"]
    own_host.docker("run", "-d", "--name", "c1", *flags, "busybox", "sleep", "1000")
    until(lambda: state(own_host, "c1")["Health"]["Status"] == "healthy", "healthy")
    own_host.kill()
    own_host.start()
    until(lambda: state(own_host, "c1")["Health"]["Status"] == "healthy", "healthy again")


def test_no_healthcheck_and_no_such_command(host: Host) -> None:
    host.docker("run", "-d", "--name", "none", "--no-healthcheck", "busybox", "sleep", "1000")
    assert state(host, "none").get("Health") is None
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"]}
    body["Healthcheck"] = {"Test": ["CMD", "/no/such"], "Interval": 200_000_000, "Retries": 1}  # type: ignore[assignment]
    host.curl("POST", "/containers/create?name=c1", body)
    host.docker("start", "c1")
    until(lambda: state(host, "c1")["Health"]["Status"] == "unhealthy", "unhealthy")
    entry = state(host, "c1")["Health"]["Log"][0]
    assert entry["ExitCode"] == -1 and "/no/such" in entry["Output"]


# -- ends of other kinds


def test_an_oom_kill_is_seen_and_reported(host: Host) -> None:
    began = time.time()
    script = "x=a; while true; do x=$x$x; done"
    flags = ["--memory", "16m", "--memory-swap", "16m"]
    assert host.try_docker("run", "--name", "c1", *flags, "busybox", "sh", "-c", script).returncode == 137
    assert state(host, "c1")["OOMKilled"] is True
    assert "oom" in [e["Action"] for e in events(host, began, "container=c1")]
    host.docker("run", "--name", "calm", *flags, "busybox", "true")
    assert state(host, "calm")["OOMKilled"] is False


def test_auto_remove_leaves_nothing(host: Host) -> None:
    container = host.docker("run", "-d", "--rm", "-v", "/data", "busybox", "sleep", "1000").strip()
    volume = host.inspect(container)["Mounts"][0]["Name"]
    host.docker("kill", container)
    until(lambda: host.curl("GET", f"/containers/{container}/json")[0] == 404, "removed")
    until(lambda: not (host.data_root / "containers" / container).exists(), "its files gone")
    assert host.curl("GET", f"/volumes/{volume}")[0] == 404


def test_what_is_removed_at_its_end_is_not_synced_to_disk_and_can_be_restarted(host: Host) -> None:
    script = "grep -q ' / .*volatile' /proc/mounts && echo volatile; cat /kept; echo kept >/kept; echo life; sleep 99"
    for name, marks, *flags in (("passing", 2, "--rm"), ("lasting", 0)):
        host.docker("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", script)
        until(lambda name=name: "life" in host.docker("logs", name), "its first life")  # type: ignore[misc]
        host.docker("restart", "-t", "0", name)
        until(lambda name=name: host.docker("logs", name).count("life") == 2, "its second life")  # type: ignore[misc]
        logged = host.docker("logs", name)
        assert (logged.count("volatile"), logged.count("kept\n")) == (marks, 1)


def test_times_of_a_life(host: Host) -> None:
    never = "0001-01-01T00:00:00Z"
    host.docker("create", "--name", "c1", "busybox", "sh", "-c", "sleep 0.5; exit 5")
    assert (state(host, "c1")["StartedAt"], state(host, "c1")["FinishedAt"]) == (never, never)
    before = time.time_ns()
    host.docker("start", "c1")
    running = state(host, "c1")
    assert running["FinishedAt"] == never and running["Pid"] > 0
    assert host.docker("wait", "c1") == "5\n"
    done = state(host, "c1")
    started, finished = parse_rfc3339(done["StartedAt"]), parse_rfc3339(done["FinishedAt"])
    assert before < started < finished < time.time_ns()
    assert 0.4 < (finished - started) / SECOND < 3
    host.docker("start", "c1")  # the end of the life before stays until the next
    assert parse_rfc3339(state(host, "c1")["FinishedAt"]) == finished


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "10", "sigusr1", "RTMIN+3"])
def test_stop_signals_by_name_and_number(host: Host, name: str) -> None:
    number = 37 if name.startswith("RT") else 10
    script = f"trap 'exit 42' {number}; while true; do sleep 0.05; done"
    host.docker("run", "-d", "--name", "c1", "--stop-signal", name, "busybox", "sh", "-c", script)
    time.sleep(0.2)
    host.docker("stop", "-t", "5", "c1")
    assert state(host, "c1")["ExitCode"] == 42
    assert host.inspect("c1")["Config"]["StopSignal"] == name


def test_init_reaps_zombies_and_passes_signals(host: Host) -> None:
    script = "(sleep 0.3 &); exec sleep 1000"
    host.docker("run", "-d", "--init", "--name", "c1", "busybox", "sh", "-c", script)
    time.sleep(0.6)
    listing = host.docker("exec", "c1", "ps", "-o", "pid,stat,comm")
    assert "Z" not in listing and re.search(r"^ *1 .*(docker-init|tini)", listing, re.MULTILINE)
    host.docker("stop", "-t", "5", "c1")
    assert state(host, "c1")["ExitCode"] == 143


def test_device_cgroup_rule_allows_a_device(host: Host) -> None:
    allowed = host.try_docker(
        *("run", "--rm", "--device-cgroup-rule", "c 4:* rwm", "busybox"),
        *("sh", "-c", "mknod /tty0 c 4 0 && (: < /tty0) && echo opened"),
    )
    refused = host.try_docker("run", "--rm", "busybox", "sh", "-c", "mknod /tty0 c 4 0 && (: < /tty0)")
    assert b"opened" in allowed.stdout or b"No such device" in allowed.stderr
    assert b"Operation not permitted" in refused.stderr or b"Permission denied" in refused.stderr
    assert b"not permitted" not in allowed.stderr
    body = {"Image": "busybox", "HostConfig": {"DeviceCgroupRules": ["x 1:1 rwm"]}}
    status, answer = host.curl("POST", "/containers/create", body)
    assert (status, answer) == (400, {"message": "invalid device cgroup rule format: 'x 1:1 rwm'"})


# -- the daemon's end


def test_containers_go_on_when_the_daemon_ends_in_order(own_host: Host) -> None:
    own_host.docker("run", "-d", "--name", "c1", "busybox", "sleep", "1000")
    pid = state(own_host, "c1")["Pid"]
    own_host.restart()
    assert state(own_host, "c1")["Pid"] == pid
    assert '"LiveRestoreEnabled":true' in own_host.docker("info", "--format", "{{json .}}").replace(" ", "")


def test_without_live_restore_a_daemon_stops_containers_within_its_timeout(busybox_tar: Path) -> None:
    with daemon_with(busybox_tar, "--live-restore=false", "--shutdown-timeout", "1") as host:
        polite = "trap 'sleep 0.2; exit 9' TERM; while true; do sleep 0.05; done"
        host.docker("run", "-d", "--name", "polite", "busybox", "sh", "-c", polite)
        host.docker("run", "-d", "--name", "stubborn", "busybox", "sh", "-c", "trap '' TERM; sleep 1000")
        host.docker("run", "-d", "--name", "back", "--restart", "unless-stopped", "busybox", "sleep", "1000")
        time.sleep(0.3)
        began = time.monotonic()
        host.stop()
        assert 1 <= time.monotonic() - began < 6
        host.start()
        assert (state(host, "polite")["Status"], state(host, "polite")["ExitCode"]) == ("exited", 9)
        assert (state(host, "stubborn")["Status"], state(host, "stubborn")["ExitCode"]) == ("exited", 137)
        until(lambda: state(host, "back")["Running"], "nobody stopped it but the daemon")


# -- devices by name


def test_cdi_devices_are_injected(busybox_tar: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the vendor\n")
    edits = {
        "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": str(tmp_path / "file"), "containerPath": "/opt/file", "options": ["ro"]}],
        "env": ["THING=1"],
    }
    spec = {"cdiVersion": "0.6.0", "kind": "vendor.com/class"}
    content = {**spec, "devices": [{"name": "name", "containerEdits": edits}]}
    (tmp_path / "vendor.json").write_text(json.dumps(content))
    with daemon_with(busybox_tar, "--cdi-spec-dir", str(tmp_path)) as host:
        script = "head -c 3 /dev/thing | wc -c; cat /opt/file; echo $THING; touch /opt/file"
        result = host.try_docker(
            *("run", "--rm", "--device", "vendor.com/class=name", "busybox", "sh", "-c", script)
        )
        assert result.stdout.decode().split("\n")[:3] == ["3", "from the vendor", "1"]
        assert b"Read-only" in result.stderr
        (tmp_path / "broken.json").write_text("{}")
        info = host.curl("GET", "/info")[1]
        assert info["DiscoveredDevices"] == [{"Source": "cdi", "ID": "vendor.com/class=name"}]
        assert str(tmp_path / "broken.json") in info["Warnings"][0]
        assert "DiscoveredDevices" not in host.curl("GET", "/v1.49/info")[1]
        unknown = host.try_docker("run", "--rm", "--device", "vendor.com/class=none", "busybox", "true")
        assert (
            b"CDI device injection failed: unresolvable CDI devices vendor.com/class=none" in unknown.stderr
        )
        gpus = host.try_docker("run", "--rm", "--gpus", "all", "busybox", "true")
        assert b'could not select device driver "" with capabilities: [[gpu]]' in gpus.stderr
        assert not host.docker("ps", "-aq")

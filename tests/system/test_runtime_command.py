"""`pyd-oci` as a command: life cycle, exec, terminals, hooks, errors, and what it leaves behind: nothing."""

from __future__ import annotations

import array
import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.runtime_bundle import PYD_OCI, Bundle

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def status(bundle: Bundle, container: str) -> str:
    return str(json.loads(bundle.command("state", container).stdout)["status"])


def wait_for(bundle: Bundle, container: str, wanted: str) -> None:
    deadline = time.monotonic() + 5
    while status(bundle, container) != wanted:
        assert time.monotonic() < deadline, f"never {wanted}"
        time.sleep(0.02)


def quiet(bundle: Bundle, *arguments: str) -> int:
    """For commands whose container keeps the standard streams open."""
    done = bundle.command(
        *arguments, capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return done.returncode


def cgroups_of(bundle: Bundle) -> list[Path]:
    path = bundle.spec["linux"]["cgroupsPath"]
    return [one for one in Path("/sys/fs/cgroup").glob(f"*/{path}") if one.exists()]


def test_life_from_create_to_delete(bundle: Bundle) -> None:
    bundle.configure("sh", "-c", "touch /started; sleep 60")
    assert quiet(bundle, "create", "--pid-file", "pid", "c") == 0
    state = json.loads(bundle.command("state", "c").stdout)
    assert (state["status"], state["bundle"]) == ("created", str(bundle.directory))
    assert int((bundle.directory / "pid").read_text()) == state["pid"]
    assert not (bundle.root / "started").exists()
    assert bundle.command("start", "c").returncode == 0
    wait_for(bundle, "c", "running")
    assert "cannot start a container that is running" in bundle.command("start", "c").stderr
    assert bundle.command("delete", "c").returncode == 1
    assert bundle.command("kill", "c", "SIGKILL").returncode == 0
    wait_for(bundle, "c", "stopped")
    assert bundle.command("kill", "c").returncode == 1
    assert bundle.command("delete", "c").returncode == 0
    assert "does not exist" in bundle.command("state", "c").stderr
    assert (bundle.root / "started").exists()
    assert not cgroups_of(bundle)


def test_start_tells_when_a_hook_keeps_the_program_from_running(bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"startContainer": [{"path": "/bin/false", "args": ["false"]}]}
    bundle.configure("true")
    assert quiet(bundle, "create", "c") == 0
    assert "startContainer hook /bin/false: exit status 1" in bundle.command("start", "c").stderr
    assert quiet(bundle, "delete", "c") == 0


@pytest.mark.parametrize("arguments", [["nosuch"], ["/etc/passwd"]])
def test_create_of_what_cannot_run_leaves_nothing(bundle: Bundle, arguments: list[str]) -> None:
    bundle.configure(*arguments)
    assert bundle.command("create", "c").returncode == 1
    assert bundle.command("list", "-q").stdout == ""
    assert not cgroups_of(bundle)


def test_id_in_use_and_invalid_ids(bundle: Bundle) -> None:
    with bundle.running() as container:
        assert "already exists" in bundle.command("run", container).stderr
        assert status(bundle, container) == "running"
    for name in ("..", "a/b", "ä", ""):
        assert bundle.command("run", name).returncode == 1


def test_list_and_ps(bundle: Bundle) -> None:
    with bundle.running("sh", "-c", "sleep 61 & sleep 60") as container:
        assert bundle.command("list", "-q").stdout.split() == [container]
        header, row = bundle.command("list").stdout.splitlines()
        assert header.split()[:3] == ["ID", "PID", "STATUS"]
        assert row.split()[2] == "running"
        assert json.loads(bundle.command("list", "-f", "json").stdout)[0]["id"] == container
        deadline = time.monotonic() + 5
        while len(json.loads(bundle.command("ps", "-f", "json", container).stdout)) < 2:
            assert time.monotonic() < deadline
        assert "sleep 61" in bundle.command("ps", container).stdout


def test_kill_all_signals_every_process(bundle: Bundle) -> None:
    with bundle.running("sh", "-c", "sleep 62 & sleep 60") as container:
        assert bundle.command("kill", "--all", container, "9").returncode == 0
        wait_for(bundle, container, "stopped")


def test_pause_and_resume(bundle: Bundle) -> None:
    with bundle.running("sh", "-c", "while :; do echo x >> /ticks; usleep 10000; done") as container:
        assert bundle.command("pause", container).returncode == 0
        assert status(bundle, container) == "paused"
        assert "paused container" in bundle.command("exec", container, "true").stderr
        ticks = bundle.root / "ticks"
        before = ticks.stat().st_size
        time.sleep(0.2)
        assert ticks.stat().st_size == before
        assert bundle.command("resume", container).returncode == 0
        time.sleep(0.2)
        assert ticks.stat().st_size > before


def test_paused_container_can_be_killed_and_deleted(bundle: Bundle) -> None:
    with bundle.running() as container:
        bundle.command("pause", container)
        assert bundle.command("delete", "--force", container).returncode == 0
    assert not cgroups_of(bundle)


def test_update_changes_limits_and_events_show_them(bundle: Bundle) -> None:
    with bundle.running() as container:
        assert bundle.command("update", "--memory", "64m", "--pids-limit", "33", container).returncode == 0
        event = json.loads(bundle.command("events", "--stats", container).stdout)
        assert event["data"]["memory"]["usage"]["limit"] == 64 << 20
        assert event["data"]["pids"] == {"current": 1, "limit": 33}
        changed = bundle.command("update", "-r", "-", container, stdin=None, input='{"pids": {"limit": 44}}')
        assert changed.returncode == 0
        assert (
            json.loads(bundle.command("events", "--stats", container).stdout)["data"]["pids"]["limit"] == 44
        )


# -- exec ------------------------------------------------------------------------------------------


def test_exec_runs_in_all_of_the_containers_namespaces(bundle: Bundle) -> None:
    script = (
        "for n in cgroup ipc mnt net pid uts; do readlink /proc/$1/ns/$n; done; cut -d: -f3 /proc/$1/cgroup"
    )
    with bundle.running() as container:
        own = bundle.command("exec", container, "sh", "-c", script, "-", "self").stdout
        init = bundle.command("exec", container, "sh", "-c", script, "-", "1").stdout
    assert own == init
    assert len(own.split()) > 6


def test_exec_options(bundle: Bundle) -> None:
    with bundle.running() as container:
        options = ["--user", "1000:1001", "-g", "7", "--env", "X=y z", "--cwd", "/tmp", "--no-new-privs"]
        script = "id -u; id -g; id -G; echo $X; pwd; echo $HOME; grep NoNewPrivs /proc/self/status"
        done = bundle.command("exec", *options, container, "sh", "-c", script)
        assert done.stdout.splitlines() == [
            "1000",
            "1001",
            "1001 0 7",
            "y z",
            "/tmp",
            "/home/user",
            "NoNewPrivs:\t1",
        ]
        process = {"args": ["/bin/sh", "-c", "exit 9"], "cwd": "/", "user": {"uid": 5, "gid": 5}}
        (bundle.directory / "process.json").write_text(json.dumps(process))
        assert bundle.command("exec", "--process", "process.json", container).returncode == 9


def test_exec_is_under_the_same_seccomp_and_capabilities(bundle: Bundle) -> None:
    with bundle.running() as container:
        done = bundle.command(
            "exec", container, "sh", "-c", "grep -E 'Seccomp:|CapBnd' /proc/self/status; unshare -U true"
        )
    assert done.stdout.split() == ["CapBnd:", "00000000a80425fb", "Seccomp:", "2"]
    assert "not permitted" in done.stderr


@pytest.mark.parametrize(("name", "code"), [("nosuch", 127), ("/etc", 126), ("/etc/passwd", 126)])
def test_exec_of_what_cannot_run(bundle: Bundle, name: str, code: int) -> None:
    with bundle.running() as container:
        assert bundle.command("exec", container, name).returncode == code


def test_exec_detached_and_in_a_stopped_container(bundle: Bundle) -> None:
    with bundle.running() as container:
        assert quiet(bundle, "exec", "-d", "--pid-file", "pid", container, "sleep", "61") == 0
        pid = int((bundle.directory / "pid").read_text())
        assert pid in json.loads(bundle.command("ps", "-f", "json", container).stdout)
        bundle.command("kill", container, "KILL")
        wait_for(bundle, container, "stopped")
        assert "stopped container" in bundle.command("exec", container, "true").stderr


# -- terminals -------------------------------------------------------------------------------------


def on_terminal(bundle: Bundle, *arguments: str, send: bytes = b"") -> tuple[str, int]:
    """Run the command with a terminal of 24x80 as its standard streams."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(bundle.directory)
        os.execv(PYD_OCI, [PYD_OCI, "--root", str(bundle.state), *arguments])
    import fcntl
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, array.array("H", [24, 80, 0, 0]))
    output = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        output += data
        if send and b"ready" in output:
            os.write(master, send)
            send = b""
    os.close(master)
    return output.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def terminal(spec: dict[str, Any]) -> None:
    spec["process"]["terminal"] = True


def test_run_on_a_terminal(bundle: Bundle) -> None:
    script = "tty; test -c /dev/console && echo console; ps -o pid,tty | grep '^ *1 '; sleep 0.2; stty size; exit 3"
    bundle.configure("sh", "-c", script, change=terminal)
    output, code = on_terminal(bundle, "run", "t")
    lines = output.replace("\r", "").splitlines()
    assert lines[:2] == ["/dev/pts/0", "console"]
    assert "136,0" in lines[2]
    assert lines[3] == "24 80"
    assert code == 3


def test_interrupt_character_reaches_the_program(bundle: Bundle) -> None:
    bundle.configure(
        "sh",
        "-c",
        "trap 'echo interrupted; exit 4' INT; echo ready; while :; do usleep 20000; done",
        change=terminal,
    )
    output, code = on_terminal(bundle, "run", "t", send=b"\x03")
    assert "interrupted" in output
    assert code == 4


def test_exec_on_a_terminal(bundle: Bundle) -> None:
    with bundle.running() as container:
        output, code = on_terminal(bundle, "exec", "-t", container, "sh", "-c", "tty; exit 6")
    assert (output.strip(), code) == ("/dev/pts/0", 6)


def test_console_socket_gets_the_master(bundle: Bundle) -> None:
    def change(spec: dict[str, Any]) -> None:
        terminal(spec)
        spec["process"]["consoleSize"] = {"height": 11, "width": 22}

    bundle.configure("sh", "-c", "stty size; read x; echo got $x", change=change)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.directory / "console"))
        listener.listen(1)
        assert bundle.command("create", "--console-socket", "console", "t").returncode == 0
        connection, _ = listener.accept()
    with connection:
        name, fds, _, _ = socket.recv_fds(connection, 100, 1)
    master = fds[0]
    assert name == b"/dev/ptmx"
    try:
        assert bundle.command("start", "t").returncode == 0
        os.write(master, b"text\n")
        output = b""
        while b"got text" not in output and select.select([master], [], [], 5)[0]:
            output += os.read(master, 4096)
        assert output.split() == [b"11", b"22", b"text", b"got", b"text"] or b"got text" in output
    finally:
        os.close(master)
        bundle.command("delete", "-f", "t")


def test_terminal_needs_a_console_socket_when_detached(bundle: Bundle) -> None:
    bundle.configure("true", change=terminal)
    for arguments in (["create", "t"], ["run", "-d", "t"]):
        done = bundle.command(*arguments)
        assert (done.returncode, "--console-socket" in done.stderr) == (1, True)


# -- hooks and errors ------------------------------------------------------------------------------


def test_hooks_run_in_order_with_the_state(bundle: Bundle) -> None:
    log = bundle.directory / "hooks.log"
    script = bundle.directory / "hook"
    script.write_text(f'#!/bin/sh\necho $1 $(cat | grep -o \'"status": "[a-z]*"\') >> {log}\n')
    script.chmod(0o755)
    inside = bundle.root / "hook"
    inside.write_text("#!/bin/sh\necho startContainer > /start-container\n")
    inside.chmod(0o755)
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.spec["hooks"] = {kind: [{"path": str(script), "args": ["hook", kind]}] for kind in kinds}
    bundle.spec["hooks"]["startContainer"] = [{"path": "/hook"}]
    assert bundle.run("cat", "/start-container").ok() == "startContainer"
    assert [line.split()[0] for line in log.read_text().splitlines()] == list(kinds)
    assert '"status": "stopped"' in log.read_text().splitlines()[-1]


def test_failing_hook_stops_the_start(bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    ran = bundle.run("true")
    assert (ran.code, "createRuntime hook /bin/false: exit status 1" in ran.errors) == (1, True)
    bundle.spec["hooks"] = {
        "createContainer": [{"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}]
    }
    assert "did not finish within 1 s" in bundle.run("true").errors
    assert bundle.command("list", "-q").stdout == ""
    assert not cgroups_of(bundle)


def test_log_has_the_error_as_json(bundle: Bundle) -> None:
    bundle.configure("nosuch")
    bundle.command("--log", "log.json", "--log-format", "json", "run", "c")
    entry = json.loads((bundle.directory / "log.json").read_text())
    assert entry["level"] == "error"
    assert 'exec: "nosuch": executable file not found in $PATH' in entry["msg"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda spec: spec["process"].update(args=[]), "process.args"),
        (lambda spec: spec["process"].update(args="sh"), "process.args: must be an array"),
        (lambda spec: spec["process"].update(cwd="relative"), "process.cwd"),
        (lambda spec: spec["process"].update(env=["NOEQUALS"]), "process.env[0]"),
        (
            lambda spec: spec["process"].update(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "RLIMIT_X",
        ),
        (lambda spec: spec["process"].update(apparmorProfile="none-such"), "process.apparmorProfile"),
        (lambda spec: spec["process"].update(selinuxLabel="x"), "process.selinuxLabel: is not supported"),
        (
            lambda spec: spec["linux"].update(sysctl={"kernel.panic": "1"}),
            "not in a separate kernel namespace",
        ),
        (lambda spec: spec["linux"].update(intelRdt={"closID": "x"}), "linux.intelRdt: is not supported"),
        (lambda spec: spec["linux"].update(namespaces=[{"type": "pid"}]), "mount namespace"),
        (lambda spec: spec["linux"]["namespaces"].append({"type": "pid"}), "second time"),
        (lambda spec: spec["linux"]["seccomp"].update(defaultAction="SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY"),
        (lambda spec: spec["mounts"].append({"destination": "/x", "type": "nosuchfs"}), "nosuchfs"),
        (lambda spec: spec["linux"].update(cgroupsPath="a:b:c"), "systemd"),
    ],
)
def test_errors_name_the_field_and_leave_nothing(bundle: Bundle, change: Any, text: str) -> None:
    ran = bundle.run("true", change=change)
    assert ran.code == 1
    assert text in ran.errors, ran
    assert bundle.command("list", "-q").stdout == ""
    assert not cgroups_of(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": 1}', '{"root": {"path": "x"}} x'])
def test_malformed_configurations(bundle: Bundle, text: str) -> None:
    (bundle.directory / "config.json").write_text(text)
    done = bundle.command("run", "c")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_usage_errors(bundle: Bundle) -> None:
    for arguments, text in (
        (["nosuch"], "no such command"),
        (["run"], "container id is needed"),
        (["run", "--nosuch", "c"], "not defined"),
        (["--systemd-cgroup", "list"], "--systemd-cgroup is not supported"),
        (["kill", "c", "SIGNOSUCH"], "does not exist"),
    ):
        done = bundle.command(*arguments)
        assert (done.returncode, text in done.stderr) == (1, True), done
    assert "pyd-oci version" in bundle.command("--version").stdout
    assert json.loads(bundle.command("features").stdout)["linux"]["seccomp"]["enabled"] is True


def test_spec_writes_a_bundle_that_runs(bundle: Bundle) -> None:
    assert bundle.command("spec").returncode == 0
    assert "exists" in bundle.command("spec").stderr
    spec = json.loads((bundle.directory / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["hostname"]}
    (bundle.directory / "config.json").write_text(json.dumps(spec))
    assert bundle.command("run", "c").stdout == "pyd-oci\n"


def test_killed_runtime_leaves_a_container_that_can_be_deleted(bundle: Bundle) -> None:
    bundle.configure("sleep", "60")
    process = subprocess.Popen([PYD_OCI, "--root", str(bundle.state), "run", "c"], cwd=bundle.directory)
    deadline = time.monotonic() + 5
    while bundle.command("state", "c").returncode or status(bundle, "c") != "running":
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert status(bundle, "c") == "running"
    assert bundle.command("delete", "--force", "c").returncode == 0
    assert not cgroups_of(bundle)

"""The vertical slice: a real Debian from a real registry, by the stock client and by `pyd`, saying the same."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.system import images
from tests.system.host import ENVIRONMENT, REPOSITORY, Host
from tests.system.images_registry import archive, docker_registry, htpasswd
from tests.system.terminal import Terminal, terminal
from tests.system.transcript import Client, alike


@pytest.fixture(scope="module")
def slice_host(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, debian: str) -> Iterator[Host]:
    """A pydd of this file's own, with the Debian pulled once."""
    running = Host(tmp_path_factory.mktemp("slice"))
    running.start()
    try:
        running.docker("import", "--change", 'CMD ["sh"]', str(busybox_tar), "busybox:latest")
        running.docker("pull", debian)
        yield running
    finally:
        running.undo()


@pytest.fixture(autouse=True)
def nothing_of_the_test_left(slice_host: Host) -> Iterator[None]:
    yield
    ids = slice_host.docker("ps", "-aq").split()
    if ids:
        slice_host.docker("rm", "-f", "-v", *ids)


# -- images


def test_pull_push_and_pull_back(slice_host: Host, debian: str, registry: str) -> None:
    other = f"{registry}/copies/debian:v1"

    def scene(client: Client) -> None:
        slice_host.try_docker("rmi", "-f", debian, other)
        fresh = client("pull", debian, sorted_lines=True)
        assert fresh.count("Pull complete") == 3
        assert f"Status: Downloaded newer image for {debian}\n{debian}\n" in fresh
        assert f"Status: Image is up to date for {debian}" in client("pull", debian)
        client("tag", debian, other)
        pushed = client("push", other, sorted_lines=True)
        assert f"The push refers to repository [{registry}/copies/debian]" in pushed
        client("rmi", debian, other, sorted_lines=True)
        client("image", "inspect", other, code=1)
        client("pull", "-q", other)
        assert client("run", "--rm", other, "cat", "/opt/layer-three") == "layer 3\n"
        client("rmi", other, sorted_lines=True)
        client("pull", debian, sorted_lines=True)

    slice_host.docker("push", "-q", _tagged(slice_host, debian, other))  # both then meet layers that exist
    alike(slice_host, scene)


def _tagged(host: Host, image: str, name: str) -> str:
    host.docker("tag", image, name)
    return name


def test_an_unknown_image_in_a_known_registry(slice_host: Host, registry: str) -> None:
    def scene(client: Client) -> None:
        assert "manifest unknown" in client("pull", f"{registry}/debian:none", code=1)
        client("pull", f"{registry}/none/such", code=1)
        client("run", "--rm", f"{registry}/none/such", code=125)
        client("push", f"{registry}/never/tagged", code=1)

    alike(slice_host, scene)


def test_login(slice_host: Host, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "private", htpasswd("someone", "secret")) as private:

        def scene(client: Client) -> None:
            client.config = str(tmp_path / str(len(client.name)))
            name = f"{private}/private:1"
            client("tag", "busybox", name)
            assert "no basic auth credentials" in client("push", name, code=1)
            wrong = client("login", "-u", "someone", "--password-stdin", private, code=1, input=b"wrong")
            assert "401 Unauthorized" in wrong
            right = client("login", "-u", "someone", "--password-stdin", private, input=b"secret")
            assert "Login Succeeded" in right
            client("push", "-q", name)
            client("rmi", name, sorted_lines=True)
            client("pull", "-q", name)
            client("rmi", name)
            assert "Removing login credentials" in client("logout", private)
            client("pull", name, code=1)
            client.said = [tuple(part.replace(client.config, "C") for part in step) for step in client.said]

        alike(slice_host, scene)


def test_images_history_and_inspect(slice_host: Host, debian: str) -> None:
    def scene(client: Client) -> None:
        rows = client("images", "--digests")
        assert debian.rpartition(":")[0] in rows
        client("images", "-q", "--no-trunc")
        client("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}", "--filter", "reference=busybox")
        client("history", "--no-trunc", debian)
        shown = json.loads(client("image", "inspect", debian))[0]
        assert shown["Config"]["Cmd"] == ["/bin/bash"]
        assert len(shown["RootFS"]["Layers"]) == 3

    alike(slice_host, scene)


def test_rmi_of_an_image_in_use(slice_host: Host) -> None:
    tar = archive({"file": b"x"})

    def scene(client: Client) -> None:
        client.quietly("import", "--change", "CMD true", "-", "used:1", input=tar)
        client("create", "--name", "user", "used:1")
        assert "conflict: unable to remove repository reference" in client("rmi", "used:1", code=1)
        identity = slice_host.docker("images", "-q", "used:1").strip()
        assert "must be forced" in client("rmi", identity, code=1)
        client("rmi", "-f", "used:1")
        assert "<id>" in normal_row(client("ps", "-a", "--format", "{{.Image}} {{.Names}}"))
        client("rm", "user")

    alike(slice_host, scene)


def normal_row(text: str) -> str:
    name, _, rest = text.partition(" ")
    return f"<id> {rest}" if len(name) == 12 else text


def test_save_load_import_export_commit(slice_host: Host, debian: str, tmp_path: Path) -> None:
    def scene(client: Client) -> None:
        saved = tmp_path / f"{client.name}.tar"
        client("tag", debian, "kept:1")
        client("save", "-o", str(saved), "kept:1")
        client("rmi", "kept:1")
        assert "Loaded image: kept:1" in client("load", "-q", "-i", str(saved))
        client("rmi", "kept:1")
        assert "Loaded image: kept:1" in client("load", "-q", input=saved.read_bytes())
        client("run", "--name", "source", "kept:1", "sh", "-c", "echo new > /file; rm /etc/debian_version")
        client("diff", "source")
        client("commit", "-m", "why", "--change", "CMD cat /file", "source", "made:1")
        assert client("run", "--rm", "made:1") == "new\n"
        tree = client.quietly("export", "source")
        client("import", "--change", "CMD cat /file", "-", "flat:1", input=tree)
        assert client("run", "--rm", "flat:1") == "new\n"
        client("rm", "source")
        for name in ("flat:1", "made:1", "kept:1"):
            client("rmi", name, sorted_lines=True)
        shown = str(saved).replace(client.name, "docker")  # as transcripts name either client
        client.said = [
            tuple(part.replace(str(saved), "F").replace(shown, "F") for part in step) for step in client.said
        ]

    alike(slice_host, scene)


def test_load_of_what_skopeo_wrote(slice_host: Host, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    source = f"oci:{images.debian_layout()}:test"
    subprocess.run(["skopeo", "copy", "-q", source, f"docker-archive:{archive}:by/skopeo:1"], check=True)

    def scene(client: Client) -> None:
        assert "Loaded image: by/skopeo:1" in client("load", "-q", "-i", str(archive))
        assert client("run", "--rm", "by/skopeo:1", "cat", "/etc/layer-two") == "layer 2\n"
        client("rmi", "by/skopeo:1", sorted_lines=True)

    alike(slice_host, scene)


def test_what_save_writes_skopeo_reads(slice_host: Host, debian: str, tmp_path: Path) -> None:
    slice_host.docker("save", "-o", str(tmp_path / "saved.tar"), debian)
    listed = ["skopeo", "inspect", f"docker-archive:{tmp_path / 'saved.tar'}"]
    shown = json.loads(subprocess.run(listed, capture_output=True, check=True).stdout)
    assert len(shown["Layers"]) == 3
    assert "LANG=C.UTF-8" in shown["Env"]
    copied = ["skopeo", "copy", "-q", f"docker-archive:{tmp_path / 'saved.tar'}", f"oci:{tmp_path}/oci:x"]
    subprocess.run(copied, check=True)


# -- containers


def test_run_and_its_ends(slice_host: Host, debian: str) -> None:
    def scene(client: Client) -> None:
        assert client("run", "--rm", debian, "cat", "/etc/layer-two") == "layer 2\n"
        assert client("run", "--rm", "-i", debian, "wc", "-c", input=b"x" * 100_000) == "100000\n"
        client("run", "--rm", debian, "sh", "-c", "echo out; echo err >&2; exit 77", code=77)
        client("run", "--rm", debian, "no-such-command", code=127)
        client("run", "--rm", debian, "/etc/passwd", code=126)
        client("run", "--rm", "--init", debian, "bash", "-c", "kill -TERM $$", code=143)

    alike(slice_host, scene)


def test_a_life_in_the_background(slice_host: Host, debian: str) -> None:
    script = "trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.1; done"

    def scene(client: Client) -> None:
        identity = client("run", "-d", "--name", "life", debian, "bash", "-c", script).strip()
        assert len(identity) == 64
        until_logged(slice_host, "life", "up")
        client("ps")
        client("ps", "-a", "--format", "table {{.Names}}\t{{.Image}}\t{{.State}}\t{{.Command}}")
        client("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.Config.Image}}", "life")
        client("pause", "life")
        assert "(Paused)" in client("ps", "--format", "{{.Status}}")
        client("pause", "life", code=1)
        client("unpause", "life")
        assert client("stop", "life") == "life\n"
        client("logs", "life")
        assert client("wait", "life") == "3\n"
        assert "Exited (3)" in client("ps", "-a", "--format", "{{.Status}}")
        client("stop", "life")
        client("kill", "life", code=1)
        client("start", "life")
        client("start", "life")
        client("restart", "-t", "5", "life")
        client("rename", "life", "after")
        client("kill", "-s", "KILL", "after")
        assert client("wait", "after") == "137\n"
        client("rm", "after")
        client("rm", "after", code=1)

    alike(slice_host, scene)


def until_logged(host: Host, name: str, line: str) -> None:
    """Follows the log until a line is there: no guess at how long a start takes."""
    process = subprocess.Popen(
        host._docker("logs", "-f", name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout
    try:
        for each in process.stdout:
            if each.strip() == line.encode():
                return
        raise AssertionError(f"{line!r} never came")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_stop_is_a_signal_and_then_sigkill(slice_host: Host, debian: str) -> None:
    deaf = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    usr = "trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done"

    def scene(client: Client) -> None:
        client("run", "-d", "--name", "deaf", debian, "bash", "-c", deaf)
        client("run", "-d", "--name", "named", "--stop-signal", "SIGUSR1", debian, "bash", "-c", usr)
        client("run", "-d", "--name", "asked", debian, "bash", "-c", usr)
        for name in ("deaf", "named", "asked"):
            until_logged(slice_host, name, "up")
        client("stop", "-t", "1", "deaf")
        client("stop", "named")
        client("stop", "-s", "USR1", "asked")
        codes = client("inspect", "-f", "{{.State.ExitCode}}", "deaf", "named", "asked")
        assert codes.split() == ["137", "9", "9"]
        client("rm", "deaf", "named", "asked")

    alike(slice_host, scene)


def test_start_attached_and_rm_of_the_running(slice_host: Host) -> None:
    def scene(client: Client) -> None:
        client("create", "--name", "made", "-i", "busybox", "sh", "-c", "cat; echo end >&2; exit 6")
        client("start", "-ai", "made", code=6, input=b"in\n")
        client("rm", "made")
        client("run", "-d", "--name", "busy", "busybox", "sleep", "60")
        refused = client("rm", "busy", code=1)
        assert "stop the container before removing or force remove" in refused
        client("rm", "-f", "busy")
        client("rm", "-f", "busy")

    alike(slice_host, scene)


def test_logs(slice_host: Host) -> None:
    script = "for i in 1 2 3 4; do echo line $i; done; read x; sleep 0.1; echo $x"

    def scene(client: Client) -> None:
        client("run", "--name", "told", "-i", "busybox", "sh", "-c", script, input=b"said\n")
        assert client("logs", "--tail", "2", "told").splitlines() == ["line 4", "said"]
        client("logs", "told")
        stamped = client("logs", "-t", "--tail", "1", "told")
        at = stamped.split()[0]
        assert client("logs", "--since", at, "told") == "said\n"
        client("logs", "--until", "1h", "told")
        client("logs", "-f", "told")
        client("logs", "none-such", code=1)
        client("logs", "--since", "no time", "told", code=1)
        client("rm", "told")

    alike(slice_host, scene)


def test_logs_are_followed_to_the_end(slice_host: Host) -> None:
    for name in ("docker", "pyd"):
        client = Client(slice_host, name)
        client.quietly("run", "-d", "-i", "--name", "talker", "busybox", "sh", "-c", "echo a; cat")
        command = client.command("logs", "-f", "talker")
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=ENVIRONMENT) as follower:
            assert follower.stdout
            assert follower.stdout.readline() == b"a\n"
            client.quietly("exec", "talker", "sh", "-c", "echo b > /proc/1/fd/1")
            assert follower.stdout.readline() == b"b\n"
            client.quietly("kill", "talker")
            assert follower.stdout.read() == b""
            assert follower.wait() == 0
        client.quietly("rm", "-f", "talker")


# -- terminals


@pytest.fixture(params=["docker", "pyd"])
def client(request: pytest.FixtureRequest, slice_host: Host) -> Client:
    return Client(slice_host, request.param)


def test_a_terminal_resizes(client: Client, debian: str) -> None:
    """Not by an interactive shell: it gives each job a process group, which then gets the signal instead."""
    script = "trap 'stty size' WINCH; tty; stty size; while :; do sleep 0.1; done"
    with terminal(
        client.command("run", "--rm", "-it", debian, "sh", "-c", script), rows=31, columns=101
    ) as shell:
        shell.until("/dev/pts/0\n31 101\n")
        time.sleep(0.5)  # docker's client listens for SIGWINCH only a moment after it has set the first size
        shell.resize(40, 120)
        shell.until("40 120\n")
        shell.resize(41, 121)
        shell.until("41 121\n")
        shell.type("\x03")
        assert shell.code() == 130


def test_ctrl_c_interrupts_what_runs_in_the_terminal(client: Client, debian: str) -> None:
    with terminal(client.command("run", "--rm", "-it", debian, "bash")) as shell:
        shell.until("# ")
        shell.type("sh -c 'echo wait\"\"ing; exec sleep 1000'\n")
        shell.until("waiting\n")
        shell.type("\x03")
        shell.until("^C")
        shell.until("# ")
        shell.type("echo code=$?\n")
        shell.until("code=130\n")
        shell.type("exit 201\n")
        assert shell.code() == 201


def test_a_terminal_is_left_by_its_keys_and_found_again(client: Client) -> None:
    with terminal(client.command("run", "-it", "--name", "left", "busybox", "sh")) as first:
        first.until("# ")
        first.type("kept=yes\n")
        first.until("# ")
        first.type("\x10\x11")  # ctrl-p ctrl-q
        assert first.code() == 0
    assert client("inspect", "-f", "{{.State.Status}}", "left") == "running\n"
    with terminal(client.command("attach", "--detach-keys", "ctrl-x", "left")) as second:
        second.type("echo kept=$kept\n")
        second.until("\nkept=yes\n")
        second.type("\x18")
        assert second.code() != 0
        assert "read escape sequence" in second.rest()
    with terminal(client.command("attach", "left")) as third:
        third.type("exit 5\n")
        assert third.code() == 5


def test_exec_on_a_terminal(client: Client) -> None:
    client("run", "-d", "--name", "inside", "busybox", "sleep", "60")
    with terminal(client.command("exec", "-it", "inside", "sh"), rows=22, columns=66) as shell:
        shell.until("# ")
        shell.type("stty size\n")
        shell.until("\n22 66\n")
        shell.resize(23, 67)
        until_resized(shell, "23 67")
        shell.type("exit 4\n")
        assert shell.code() == 4


def until_resized(shell: Terminal, size: str) -> None:
    """The resize travels beside the input, so the shell may be asked before it arrives."""
    for _ in range(100):
        shell.type("stty size; echo do''ne\n")
        if size in shell.until("\ndone\n"):
            return
    raise AssertionError(f"never {size}")


def test_ctrl_c_ends_a_run_without_a_terminal_in_the_container(client: Client) -> None:
    script = "trap 'echo interrupted; exit 7' INT; echo up; while :; do sleep 0.1; done"
    with terminal(client.command("run", "--rm", "busybox", "sh", "-c", script)) as running:
        running.until("up\n")
        running.type("\x03")
        running.until("interrupted\n")
        assert running.code() == 7


# -- exec, files, and what is inside


def test_exec(slice_host: Host) -> None:
    def scene(client: Client) -> None:
        client("run", "-d", "--name", "host", "-e", "OWN=1", "busybox", "sleep", "60")
        told = client(
            "exec",
            "-e",
            "A=b",
            "-w",
            "/tmp",
            "-u",
            "1000",
            "host",
            "sh",
            "-c",
            "echo $A $OWN $(pwd) $(id -u)",
        )
        assert told == "b 1 /tmp 1000\n"
        assert client("exec", "-i", "host", "cat", input=b"piped") == "piped"
        caps = client("exec", "--privileged", "host", "grep", "CapEff", "/proc/self/status")
        assert caps.split()[1] != "00000000a80425fb"
        client("exec", "-d", "host", "sh", "-c", "echo there > /tmp/made; sleep 50")
        client("exec", "host", "sh", "-c", "until [ -s /tmp/made ]; do sleep 0.05; done; cat /tmp/made")
        client("exec", "host", "sh", "-c", "echo out; echo err >&2; exit 66", code=66)
        client("exec", "host", "none-such", code=127)
        client("exec", "host", "/tmp", code=126)
        client("exec", "-w", "/none", "host", "true", code=127)
        client("exec", "-u", "nobody-here", "host", "true", code=126)
        titles = client("top", "host").splitlines()
        assert titles[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        del client.said[-1]
        assert b"sleep" in client.quietly("top", "host", "-eo", "pid,args")
        client("kill", "host")
        client("exec", "host", "true", code=1)
        client("rm", "host")

    alike(slice_host, scene)


def test_cp_diff_and_port(slice_host: Host, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("copied\n")

    def scene(client: Client) -> None:
        back = tmp_path / f"back-{client.name}"
        client("run", "-d", "--name", "files", "-p", "127.0.0.1::80", "busybox", "sleep", "60")
        client.quietly("cp", str(tmp_path / "tree"), "files:/in")
        assert client("exec", "files", "cat", "/in/deep/file") == "copied\n"
        client.quietly("cp", "files:/in/deep", str(back))
        assert (back / "file").read_text() == "copied\n"
        packed = client.quietly("cp", "files:/in/deep/file", "-")
        client.quietly("exec", "files", "mkdir", "/second")
        client.quietly("cp", "-", "files:/second", input=packed)
        assert client("exec", "files", "cat", "/second/file") == "copied\n"
        client("cp", "files:/none/such", str(tmp_path), code=1)
        client("cp", str(tmp_path / "tree"), "none-such:/", code=1)
        assert set(client("diff", "files").splitlines()) >= {"A /in", "A /in/deep/file", "A /second"}
        assert client.quietly("port", "files", "80").startswith(b"127.0.0.1:")
        client("port", "files", "81", code=1)
        client("kill", "files")
        client.quietly("cp", "files:/second/file", str(tmp_path / "stopped"))
        assert (tmp_path / "stopped").read_text() == "copied\n"
        client("rm", "files")

    alike(slice_host, scene)


def test_update_and_stats(slice_host: Host) -> None:
    def scene(client: Client) -> None:
        client("run", "-d", "--name", "limits", "--memory", "64m", "busybox", "sleep", "60")
        client("update", "--memory", "128m", "--memory-swap", "128m", "--cpus", "0.5", "limits")
        client("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "limits")
        client("update", "--restart", "bad", "limits", code=1)
        stats = client.quietly(
            "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "limits"
        )
        assert stats.startswith(b"limits ") and stats.endswith(b" / 128MiB 1\n")
        client("rm", "-f", "limits")

    alike(slice_host, scene)


# -- the daemon


def test_events(slice_host: Host) -> None:
    def scene(client: Client) -> None:
        start = slice_host.docker("info", "-f", "{{.SystemTime}}").strip()
        client("run", "--name", "told", "--label", "k=v", "busybox", "true")
        client("rm", "told")
        end = slice_host.docker("info", "-f", "{{.SystemTime}}").strip()
        window = ["--since", start, "--until", end]
        form = ["--format", "{{.Type}} {{.Action}}"]
        said = client("events", *window, "--filter", "container=told", *form).split("\n")
        assert said[:-1] == [f"container {verb}" for verb in ("create", "attach", "start", "die", "destroy")]
        said = client("events", *window, "--filter", "type=network", *form).split("\n")
        assert said[:-1] == ["network connect", "network disconnect"]
        client("events", *window, "--filter", "label=k=v", "--filter", "event=die")

    alike(slice_host, scene)


def test_events_come_as_they_happen(client: Client) -> None:
    watch = client.command("events", "--filter", "event=rename", "--format", "{{json .Actor.Attributes}}")
    client.quietly("create", "--name", "one", "busybox")
    with subprocess.Popen(watch, stdout=subprocess.PIPE, cwd=REPOSITORY, env=ENVIRONMENT) as watcher:
        assert watcher.stdout
        renamed = renaming(client, watcher.stdout)
        watcher.kill()
    assert renamed["oldName"].strip("/") in ("one", "two")


def renaming(client: Client, told: IO[bytes]) -> dict[str, str]:
    """Nothing says when a watcher is connected: rename to and fro until it hears of one."""
    for number in range(100):
        client.quietly("rename", *(("one", "two") if number % 2 == 0 else ("two", "one")))
        if select.select([told], [], [], 0.2)[0]:
            attributes: dict[str, str] = json.loads(told.readline())
            return attributes
    raise AssertionError("no event came")


def test_version_and_info(slice_host: Host) -> None:
    def scene(client: Client) -> None:
        client(
            "version",
            "-f",
            "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}",
        )
        info = json.loads(client.quietly("info", "-f", "{{json .}}"))
        assert (info["OSType"], info["Driver"], info["LiveRestoreEnabled"]) == ("linux", "overlay2", True)

    alike(slice_host, scene)


def test_volumes_networks_and_prune(slice_host: Host) -> None:
    def scene(client: Client) -> None:
        client("volume", "create", "--label", "k=v", "kept")
        client("volume", "ls")
        client("volume", "inspect", "kept")
        client("run", "--rm", "-v", "kept:/data", "busybox", "sh", "-c", "echo stays > /data/f")
        assert client("run", "--rm", "-v", "kept:/data:ro", "busybox", "cat", "/data/f") == "stays\n"
        client("create", "--name", "holder", "-v", "kept:/data", "busybox")
        assert "volume is in use" in client("volume", "rm", "kept", code=1)
        client("network", "create", "--subnet", "10.199.7.0/24", "named")
        client("network", "ls")
        client("network", "inspect", "named", "-f", "{{(index .IPAM.Config 0).Subnet}} {{.Driver}}")
        client("run", "--rm", "--network", "named", "--ip", "10.199.7.77", "busybox", "hostname", "-i")
        client("network", "rm", "named")
        assert "network named not found" in client("network", "rm", "named", code=1)
        del client.said[-1]  # docker 28 goes on with a stray "exit status 1"
        client("container", "prune", "-f")
        client("volume", "prune", "-af")
        client("image", "prune", "-f")
        client("network", "prune", "-f")

    alike(slice_host, scene)

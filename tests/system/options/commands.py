"""The other sub-commands of `docker container`, a scene for each option or few."""

from __future__ import annotations

import json
import os
import tarfile
import time

from tests.system.options.bench import Bench
from tests.system.options.table import Scenes

SCENES = Scenes()
scene = SCENES.scene

READY_CAT = "sh -c 'echo ready; cat'"
DETACH = b"\x18"


# -- attach, start, exec: terminals


@scene("attach", "--detach-keys")
def detach_keys(bench: Bench) -> None:
    """the client leaves at the keys, the container runs on"""
    name = bench.container("-it", run="cat")
    with bench.terminal(f"attach --detach-keys ctrl-x {name}") as terminal:
        terminal.type(b"echo\n")
        terminal.until(b"echo\r\necho")
        terminal.type(DETACH)
        terminal.end()
    assert bench.state(name) == "running"


@scene("attach", "--no-stdin", "--sig-proxy")
def attach(bench: Bench) -> None:
    """stdin stays with the client; SIGTERM goes to the container or stays too"""
    name = bench.container("-i", run="sh -c 'trap \"exit 9\" TERM; while :; do echo tick; sleep 0.05; done'")
    with bench.process("attach", "--no-stdin", "--sig-proxy=false", name, stdin=None) as client:
        assert client.stdout and client.stdout.readline() == b"tick\n"
        client.terminate()
        time.sleep(0.3)
        assert bench.state(name) == "running"
    with bench.process("attach", "--sig-proxy=true", "--no-stdin", name) as client:
        assert client.stdout and client.stdout.readline() == b"tick\n"
        client.terminate()
        assert client.wait(20) == 9


@scene("start", "--attach", "--interactive")
def start(bench: Bench) -> None:
    """output comes, input goes, the exit code is the container's"""
    name = bench.name
    bench("create", "-i", "--name", name, "busybox", "sh", "-c", "cat; exit 4")
    done = bench.attempt("start", "-a", "--interactive", name, input=b"through")
    assert (done.stdout, done.returncode) == (b"through", 4)
    done = bench.attempt("start", "--attach", "-i", name, input=b"again")
    assert (done.stdout, done.returncode) == (b"again", 4)


@scene("start", "--detach-keys")
def start_detach_keys(bench: Bench) -> None:
    """the client leaves at the keys, the container runs on"""
    name = bench.name
    bench(f"create -it --name {name} busybox {READY_CAT}")
    with bench.terminal(f"start -ai --detach-keys ctrl-x {name}") as terminal:
        terminal.until(b"ready")
        terminal.type(DETACH)
        terminal.end()
    assert bench.state(name) == "running"


@scene("start", "--checkpoint", "--checkpoint-dir", refused=True)
def checkpoint(bench: Bench) -> None:
    """checkpoints are experimental in Docker, and experimental things are not on"""
    name = bench.name
    bench(f"create --name {name} busybox true")
    for option in ("--checkpoint", "--checkpoint-dir"):
        assert "experimental" in bench.fails(f"start {option} x {name}")


@scene("exec", "--detach-keys", "--tty", "--interactive")
def exec_terminal(bench: Bench) -> None:
    """a terminal inside; input goes; the keys leave the command"""
    name = bench.container()
    assert bench("exec", "-i", name, "cat", input=b"piped") == "piped"
    with bench.terminal(f"exec -it --detach-keys ctrl-x {name} sh -c 'tty; cat'") as terminal:
        terminal.until(b"/dev/pts/")
        terminal.type(DETACH)
        terminal.end()
    with bench.terminal(f"exec --interactive --tty {name} sh -c 'read code; exit $code'") as terminal:
        terminal.type(b"7\n")
        assert terminal.end() == 7
    assert bench.state(name) == "running"


@scene("exec", "--env", "--env-file", "--user", "--workdir", "--privileged")
def exec_surroundings(bench: Bench) -> None:
    """variables, user, directory and capabilities of the command"""
    (bench.tmp / "env").write_text("FROM_FILE=2\n")
    name = bench.container()
    seen = bench(
        f"exec -e A=1 --env B=2 --env-file {bench.tmp}/env -u user -w /tmp {name} "
        "sh -c 'echo $A $B $FROM_FILE $(id -un) $PWD'"
    )
    assert seen == "1 2 2 user /tmp\n"
    assert bench(f"exec --user 1000:50 --workdir /etc {name} sh -c 'id -g; pwd'") == "50\n/etc\n"
    powers = f"{name} grep CapEff /proc/self/status"
    assert int(bench(f"exec --privileged {powers}").split()[1], 16) > int(
        bench(f"exec {powers}").split()[1], 16
    )


@scene("exec", "--detach")
def exec_detach(bench: Bench) -> None:
    """nothing is shown, the command is done all the same"""
    name = bench.container()
    assert bench(f"exec -d {name} touch /one") == bench(f"exec --detach {name} touch /two") == ""
    bench.until(lambda: bench.attempt("exec", name, "ls", "/one", "/two").returncode == 0, "the files")


# -- images and files


@scene("commit", "--author", "--change", "--message", "--pause")
def commit(bench: Bench) -> None:
    """`Author`, `Config`, `Comment` of the image; a running container pauses for it or not"""
    name, image = bench.container(), f"made{bench.name}"
    try:
        bench("commit", "-a", "Ann <a@b>", "-c", "ENV X=1", "-m", "why", "-p", name, image)
        found = bench.inspect(image)
        assert (found["Author"], found["Comment"]) == ("Ann <a@b>", "why")
        assert "X=1" in found["Config"]["Env"]
        pauses = _pauses(bench, name)
        words = ("--author=Bob", "--change", "WORKDIR /tmp", "--message=then", "--pause=false")
        bench("commit", *words, name, image)
        found = bench.inspect(image)
        assert (found["Author"], found["Config"]["WorkingDir"]) == ("Bob", "/tmp")
        assert _pauses(bench, name) == pauses
    finally:
        bench.host.try_docker("rmi", "-f", image)


def _pauses(bench: Bench, name: str) -> int:
    """How often the container has been paused."""
    words = ("--since", "5m", "--until", "0s", "--filter", f"container={name}", "--format", "{{.Action}}")
    return bench.host.docker("events", *words).split().count("pause")


@scene("cp", "--archive", "--follow-link", "--quiet")
def cp(bench: Bench) -> None:
    """the container's user owns what is copied, links are followed, nothing is said"""
    name = bench.container("-u", "user")
    (bench.tmp / "file").write_text("text")
    os.chown(bench.tmp / "file", 1234, 1234)
    (bench.tmp / "link").symlink_to("file")
    assert bench(f"cp -a -q {bench.tmp}/file {name}:/kept") == ""
    assert bench(f"cp --quiet {bench.tmp}/file {name}:/given") == ""
    assert bench(f"exec {name} stat -c %u /kept /given").split() == ["1000", "1234"]
    bench(f"cp -L {bench.tmp}/link {name}:/followed")
    bench(f"cp --follow-link {bench.tmp}/link {name}:/followed2")
    bench(f"cp {bench.tmp}/link {name}:/linked")
    assert bench(f"exec {name} ls -d -F /followed /linked /followed2") == "/followed\n/followed2\n/linked@\n"
    bench(f"cp --archive {name}:/kept {bench.tmp}/back")
    assert (bench.tmp / "back").read_text() == "text"


@scene("diff")
def diff(bench: Bench) -> None:
    """A, C and D lines"""
    name = bench.container()
    bench(f"exec {name} sh -c 'touch /home/new; rm /etc/group'")
    assert sorted(bench(f"diff {name}").splitlines()) == ["A /home/new", "C /etc", "C /home", "D /etc/group"]


@scene("export", "--output")
def export(bench: Bench) -> None:
    """the file is a tar of the root"""
    name = bench.container()
    for option in ("-o", "--output"):
        bench(f"export {option} {bench.tmp}/root.tar {name}")
        with tarfile.open(bench.tmp / "root.tar") as archive:
            assert "bin/busybox" in [member.name.removeprefix("./") for member in archive]
        (bench.tmp / "root.tar").unlink()


# -- looking


@scene("inspect", "--format", "--size")
def inspect(bench: Bench) -> None:
    """a template's text; `SizeRw` and `SizeRootFs`"""
    name = bench.container("-l", "a=b")
    for short in ("-f", "--format"):
        assert bench("inspect", short, '{{.Name}} {{index .Config.Labels "a"}}', name) == f"/{name} b\n"
    for size in ("-s", "--size"):
        assert json.loads(bench("inspect", size, name))[0]["SizeRootFs"] > 100_000
    assert "SizeRw" not in json.loads(bench("inspect", name))[0]


@scene("logs", "--details", "--follow", "--since", "--tail", "--timestamps", "--until")
def logs(bench: Bench) -> None:
    """details of --log-opt, new lines as they come, a window of time, the last lines, a time before each"""
    script = "echo one; sleep 1.2; echo two; sleep 0.2; echo three; sleep 600"
    name = bench.container("--log-opt", "env=WHO", "-e", "WHO=me", run=f"sh -c '{script}'")
    bench.until(lambda: "three" in bench(f"logs {name}"), "the log")
    assert bench(f"logs -n 1 {name}") == bench(f"logs --tail 1 {name}") == "three\n"
    assert bench(f"logs --details --tail=1 {name}") == "WHO=me three\n"
    stamped = bench(f"logs -t {name}")
    assert stamped == bench(f"logs --timestamps {name}")
    first, second = (line.split()[0] for line in stamped.splitlines()[:2])
    assert bench(f"logs --since {second} {name}") == "two\nthree\n"
    assert bench(f"logs --until {first} {name}") == "one\n"
    for follow in ("-f", "--follow"):
        with bench.process("logs", follow, "--tail=1", name) as client:
            assert client.stdout and client.stdout.readline() == b"three\n"
            assert client.poll() is None


@scene("ls", "--all", "--last", "--latest", "--quiet", "--no-trunc")
def ls(bench: Bench) -> None:
    """stopped ones too, the newest ones, IDs only, whole IDs"""
    running = bench.container()
    stopped = bench("create busybox true").strip()
    assert bench("ls -q") == bench("ls --quiet") == bench.inspect(running)["Id"][:12] + "\n"
    assert bench("ls -aq --no-trunc").split()[0] == stopped
    assert len(bench("ls --all -q").split()) == 2
    assert bench("ls -lq") == bench("ls --latest -q") == bench("ls -n 1 -q") == stopped[:12] + "\n"
    assert len(bench("ls --last 5 -q").split()) == 2


@scene("ls", "--filter", "--format", "--size")
def ls_filtered(bench: Bench) -> None:
    """what the filter names, as the template says, with sizes"""
    name = bench.container("-l", f"only={bench.name}")
    bench.container()
    for option in ("-f", "--filter"):
        words = ("ls", option, f"name={name}", "--format", "{{.Names}} {{.Image}} {{.Status}}")
        assert bench(*words).startswith(f"{name} busybox Up ")
    for size in ("-s", "--size"):
        assert "(virtual " in bench(f"ls {size} --filter name={name}")


@scene("port")
def port(bench: Bench) -> None:
    """the published ports"""
    name = bench.container("-p", "127.0.0.1::80")
    lines = bench(f"port {name}")
    assert lines.startswith("80/tcp -> 127.0.0.1:")
    assert bench(f"port {name} 80").strip() == bench(f"port {name} 80/tcp").strip() == lines.split()[-1]


@scene("stats", "--all", "--format", "--no-stream", "--no-trunc")
def stats(bench: Bench) -> None:
    """one answer, a template, stopped ones too, whole IDs"""
    name = bench.container()
    bench("create busybox true")
    whole = bench.inspect(name)["Id"]
    line = bench("stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.Name}} {{.PIDs}}", name)
    assert line == f"{whole} {name} 1\n"
    assert len(bench("stats", "--all", "--no-stream", "--format", "{{.ID}}").split()) == 2


@scene("top")
def top(bench: Bench) -> None:
    """the processes, with ps's own options too"""
    name = bench.container()
    assert "sleep 600" in bench(f"top {name}")
    assert bench(f"top {name} -o pid,comm").split()[1::2] == ["COMMAND", "sleep"]


# -- life and death


@scene("kill", "--signal")
def kill(bench: Bench) -> None:
    """that signal arrives; SIGKILL without it"""
    script = "sh -c 'trap \"exit 5\" USR1; while :; do sleep 0.05; done'"
    for option in ("-s USR1", "--signal SIGUSR1", "--signal=10"):
        name = bench.container(run=script)
        bench(f"kill {option} {name}")
        assert bench(f"wait {name}") == "5\n"
    name = bench.container()
    bench(f"kill {name}")
    assert bench(f"wait {name}") == "137\n"


@scene("stop restart", "--signal", "--timeout")
def stop(bench: Bench) -> None:
    """that signal first, SIGKILL after that time"""
    script = 'sh -c \'trap "exit 5" USR1; trap "" TERM; while :; do sleep 0.05; done\''
    name = bench.container(run=script)
    bench(f"stop -s USR1 {name}")
    assert bench.inspect(name)["State"]["ExitCode"] == 5
    bench(f"restart {name}")
    began = time.monotonic()
    bench(f"restart --signal SIGUSR1 --timeout 60 {name}")
    bench(f"restart -t 0 -s TERM {name}")
    assert bench.state(name) == "running"
    bench(f"stop --signal TERM --timeout 1 {name}")
    assert time.monotonic() - began < 20
    assert bench.inspect(name)["State"]["ExitCode"] == 137
    bench(f"start {name}")
    bench(f"stop -t 0 {name}")
    assert bench.state(name) == "exited"


@scene("pause unpause")
def pause(bench: Bench) -> None:
    """`State.Status` is paused, then running"""
    names = [bench.container(), bench.container()]
    assert bench("pause", *names).split() == names
    assert [bench.state(name) for name in names] == ["paused", "paused"]
    assert bench("unpause", *names).split() == names
    assert bench.state(names[0]) == "running"


@scene("rename")
def rename(bench: Bench) -> None:
    """the new name"""
    name, other = bench.container(), bench.name
    bench(f"rename {name} {other}")
    assert bench.inspect(other)["Name"] == f"/{other}"


@scene("wait")
def wait(bench: Bench) -> None:
    """the exit codes, when they are there"""
    names = [bench.container(run="sh -c 'exit 3'"), bench.container(run="sh -c 'sleep 0.3; exit 4'")]
    assert bench("wait", *names) == "3\n4\n"


@scene("prune", "--filter", "--force")
def prune(bench: Bench) -> None:
    """what is stopped and matches goes, without a question"""
    label = bench.name
    mine = bench(f"create --label {label} busybox true").strip()
    other = bench("create busybox true").strip()
    assert bench(f"prune -f --filter label={label}").startswith(f"Deleted Containers:\n{mine}\n")
    assert bench.state(other) == "created"
    declined = bench.attempt("prune", input=b"n\n")
    assert b"WARNING! This will remove all stopped containers." in declined.stdout + declined.stderr
    assert bench.state(other) == "created"
    assert other in bench("prune --force")


@scene("rm", "--force", "--volumes", "--link")
def rm(bench: Bench) -> None:
    """a running one too; its anonymous volumes too; only the link"""
    name = bench.container("-v", "/data")
    volume = bench.inspect(name)["Mounts"][0]["Name"]
    linked = bench.name
    bench(f"create --name {linked} --link {name}:db busybox true")
    for option in ("-l", "--link"):
        done = bench.attempt("rm", option, f"/{linked}/db")
        assert (done.returncode == 0) == (option == "-l"), done
    assert not bench.inspect(linked)["HostConfig"]["Links"]
    assert "container is running" in bench.fails(f"rm {name}")
    bench(f"rm -f -v {name}")
    assert bench.host.try_docker("volume", "inspect", volume).returncode == 1
    name = bench.container("-v", "/data")
    volume = bench.inspect(name)["Mounts"][0]["Name"]
    bench(f"rm --force --volumes {name}")
    assert bench.host.try_docker("volume", "inspect", volume).returncode == 1


# -- limits of a living container


UPDATES = (
    ("--memory", "64m", "Memory", 64 << 20),
    ("--memory-reservation", "32m", "MemoryReservation", 32 << 20),
    ("--memory-swap", "128m", "MemorySwap", 128 << 20),
    ("--cpu-shares", "512", "CpuShares", 512),
    ("--cpuset-cpus", "0", "CpusetCpus", "0"),
    ("--cpuset-mems", "0", "CpusetMems", "0"),
    ("--pids-limit", "40", "PidsLimit", 40),
    ("--restart", "on-failure:2", "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 2}),
    ("--cpu-period", "50000", "CpuPeriod", 50_000),
    ("--cpu-quota", "20000", "CpuQuota", 20_000),
)


@scene("update", *(option for option, *_ in UPDATES))
def update(bench: Bench) -> None:
    """the fields of `HostConfig`, and what `pids.max` and others inside the cgroup say"""
    name = bench.container("-m", "96m")
    bench("update", *(f"{option}={value}" for option, value, _, _ in UPDATES), name)
    host = bench.inspect(name)["HostConfig"]
    assert {field: host[field] for _, _, field, _ in UPDATES} == {
        field: value for _, _, field, value in UPDATES
    }
    assert bench(f"exec {name} grep Cpus_allowed_list /proc/self/status").split()[1] == "0"
    bench(f"update -m 80m -c 300 {name}")
    host = bench.inspect(name)["HostConfig"]
    assert (host["Memory"], host["CpuShares"]) == (80 << 20, 300)


@scene("update", "--cpus")
def update_cpus(bench: Bench) -> None:
    """`HostConfig.NanoCpus`"""
    name = bench.container()
    bench(f"update --cpus 0.25 {name}")
    assert bench.inspect(name)["HostConfig"]["NanoCpus"] == 250_000_000


@scene("update", "--blkio-weight", "--cpu-rt-period", "--cpu-rt-runtime")
def update_by_kernel(bench: Bench) -> None:
    """the fields of `HostConfig`, where the kernel has such a limit"""
    name = bench.container()
    done = bench.attempt(f"update --blkio-weight 300 {name}")
    kept = bench.inspect(name)["HostConfig"]["BlkioWeight"] == 300
    assert done.returncode == 0 and (kept or b"does not support" in done.stdout + done.stderr), done
    for option, field in (
        ("--cpu-rt-period", "CpuRealtimePeriod"),
        ("--cpu-rt-runtime", "CpuRealtimeRuntime"),
    ):
        done = bench.attempt(f"update {option} 1000 {name}")
        kept = bench.inspect(name)["HostConfig"][field] == 1000
        assert kept == (done.returncode == 0), done
        assert kept or b"cpu.rt_" in done.stderr or b"real-time" in done.stderr, done

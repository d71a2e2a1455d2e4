"""`create` and `run`: options that take a scene, because they are about the client's doing or are refused."""

from __future__ import annotations

import time

from tests.system.options.bench import Bench
from tests.system.options.table import Scenes

SCENES = Scenes()
scene = SCENES.scene

DETACH = b"\x18"
WINDOWS = ("--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops")


@scene("create run", "--cidfile")
def cidfile(bench: Bench) -> None:
    """the file holds the ID"""
    for command in ("create", "run -d"):
        path = bench.tmp / bench.name
        made = bench(f"{command} --cidfile {path} busybox true").strip()
        assert path.read_text() == made


@scene("create run", "--attach", "--interactive", "--tty")
def stdio(bench: Bench) -> None:
    """`Config.AttachStdin`, `OpenStdin`, `StdinOnce`, `Tty`"""
    name, tty = bench.name, bench.name
    bench(f"create --name {name} -i -a stdin -a STDERR busybox cat")
    config = bench.inspect(name)["Config"]
    fields = ("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce", "Tty")
    assert [config[field] for field in fields] == [True, False, True, True, True, False]
    bench(f"create --name {tty} --tty --interactive busybox cat")
    assert bench.inspect(tty)["Config"]["Tty"] is True
    assert (
        bench("run", "--rm", "-i", "-a", "stdin", "-a", "stdout", "busybox", "cat", input=b"piped") == "piped"
    )
    with bench.terminal("run --rm -it busybox sh -c 'tty; exit 3'") as terminal:
        assert terminal.end() == 3
    assert b"/dev/pts/0" in terminal.seen


@scene("create run", "--rm")
def rm(bench: Bench) -> None:
    """`HostConfig.AutoRemove`; gone after its end"""
    name = bench.name
    bench(f"create --rm --name {name} busybox true")
    assert bench.inspect(name)["HostConfig"]["AutoRemove"] is True
    bench(f"start -a {name}")
    bench.until(lambda: bench.attempt("inspect", name).returncode == 1, "removal")
    name = bench.name
    bench(f"run --rm --name {name} busybox true")
    bench.until(lambda: bench.attempt("inspect", name).returncode == 1, "removal")


@scene("run", "--detach", "--detach-keys")
def detach(bench: Bench) -> None:
    """the ID is printed at once; the keys leave the container running"""
    made = bench("run -d busybox sleep 600").strip()
    assert bench.state(made) == "running"
    name = bench.name
    with bench.terminal(
        f"run -it --detach-keys ctrl-x --name {name} busybox sh -c 'echo ready; cat'"
    ) as terminal:
        terminal.until(b"ready")
        terminal.type(DETACH)
        terminal.end()
    assert bench.state(name) == "running"


@scene("run", "--sig-proxy")
def sig_proxy(bench: Bench) -> None:
    """SIGTERM of the client reaches the container, or not with `=false`"""
    trap = ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"]
    with bench.process("run", "--rm", "busybox", *trap) as client:
        assert client.stdout and client.stdout.readline() == b"ready\n"
        client.terminate()
        assert client.wait(20) == 9
    name = bench.name
    with bench.process("run", "--sig-proxy=false", "--name", name, "busybox", *trap) as client:
        assert client.stdout and client.stdout.readline() == b"ready\n"
        client.terminate()
        time.sleep(0.3)
        assert bench.state(name) == "running"


@scene("create run", *WINDOWS, refused=True)
def windows_only(bench: Bench) -> None:
    """ "only supported on a Docker daemon running on windows\""""
    for option in WINDOWS:
        for command in ("create", "run"):
            assert "only supported on a Docker daemon running on windows" in bench.fails(
                f"{command} {option} 1 busybox true"
            )


@scene("create run", "--gpus", refused=True)
def gpus(bench: Bench) -> None:
    """refused where there is no such device: "could not select device driver\""""
    assert 'could not select device driver "" with capabilities: [[gpu]]' in bench.fails(
        "run --gpus all busybox true"
    )
    made = bench.attempt("create --gpus all busybox true")
    if made.returncode == 0:
        requests = bench.inspect(made.stdout.decode().strip())["HostConfig"]["DeviceRequests"]
        assert (requests[0]["Count"], requests[0]["Capabilities"]) == (-1, [["gpu"]])
    else:
        assert b"could not select device driver" in made.stderr


@scene("create run", "--cpu-rt-period", "--cpu-rt-runtime")
def realtime(bench: Bench) -> None:
    """`HostConfig.CpuRealtimePeriod`, `CpuRealtimeRuntime`; refused by a kernel without real-time groups"""
    for command in ("create", "run -d"):
        name = bench.name
        done = bench.attempt(
            f"{command} --name {name} --cpu-rt-period 1000000 --cpu-rt-runtime 1000 busybox sleep 60"
        )
        if (
            done.returncode == 0 or b"cpu.rt_runtime_us" in done.stderr
        ):  # the parent group has no share to give
            host = bench.inspect(name)["HostConfig"]
            assert (host["CpuRealtimePeriod"], host["CpuRealtimeRuntime"]) == (1_000_000, 1000)
        else:
            assert b"does not support CPU real-time scheduler" in done.stderr


@scene("create run", "--storage-opt")
def storage_opt(bench: Bench) -> None:
    """`HostConfig.StorageOpt`; refused on a file system without project quotas"""
    for command in ("create", "run -d"):
        name = bench.name
        done = bench.attempt(f"{command} --name {name} --storage-opt size=1G busybox sleep 60")
        if done.returncode == 0:
            assert bench.inspect(name)["HostConfig"]["StorageOpt"] == {"size": "1G"}
        else:
            assert b"--storage-opt is supported only for" in done.stderr
        assert b"unknown storage option" in bench.attempt(
            f"{command} --storage-opt nope=1 busybox true"
        ).stderr.lower().replace(b"unknown option", b"unknown storage option")


@scene("create run", "--ip6", refused=True)
def ip6(bench: Bench) -> None:
    """the address in `NetworkSettings.Networks`, or a refusal that says what is missing"""
    for command in ("create", "run -d"):
        done = bench.attempt(f"{command} --ip6 2001:db8::33 busybox sleep 60")
        assert b"user specified IP address is supported" in done.stderr

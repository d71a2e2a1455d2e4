"""RUN, stages, configuration and cache through the classic door."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.build.conftest import Builder
from tests.system.host import Host


def test_output_as_people_know_it(builder: Builder) -> None:
    files = {"Dockerfile": 'FROM busybox\nRUN echo hello-there\nCMD ["x"]\n'}
    said = builder.build(files, "-t", "known:1", "--no-cache")
    pattern = (
        r"Step 1/3 : FROM busybox\n ---> \w{12}\nStep 2/3 : RUN echo hello-there\n ---> Running in \w{12}\n"
        r"hello-there\n ---> Removed intermediate container \w{12}\n ---> \w{12}\nStep 3/3 : CMD \[\"x\"\]\n"
        r" ---> \w{12}\nSuccessfully built \w{12}\nSuccessfully tagged known:1\n"
    )
    assert re.search(pattern, said), said
    again = builder.build(files, "-t", "known:2")
    assert " ---> Using cache\n" in again and "Running in" not in again
    assert builder.host.inspect("known:1")["Config"] == builder.host.inspect("known:2")["Config"]


def test_a_cached_build_gives_the_same_image_whatever_the_times(builder: Builder) -> None:
    files = {"Dockerfile": "FROM busybox\nCOPY f /f\nRUN date +%N > /t\nENV a=b\n", "f": "1"}
    builder.build(files, "-t", "same:1")
    touched = builder.context(files)
    os.utime(touched / "f", (1, 1))
    builder.build(touched, "-t", "same:2")
    assert builder.host.inspect("same:1")["Id"] == builder.host.inspect("same:2")["Id"]
    builder.build({**files, "f": "2"}, "-t", "same:3")
    assert builder.host.inspect("same:3")["Id"] != builder.host.inspect("same:1")["Id"]


def test_an_ignored_or_unused_file_invalidates_nothing(builder: Builder) -> None:
    files = {
        "Dockerfile": "FROM busybox\nCOPY used /u\nRUN date +%N > /t\n",
        ".dockerignore": "no",
        "used": "1",
    }
    builder.build(files, "-t", "unused:1")
    said = builder.build({**files, "no": "x", "other": "y"}, "-t", "unused:2")
    assert said.count("Using cache") == 2


def test_independent_stages_run_side_by_side(builder: Builder) -> None:
    stages = "".join(f"FROM busybox AS s{n}\nRUN sleep 2; echo {n} > /out\n" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /out /o{n}\n" for n in range(4))
    begin = time.monotonic()
    builder.build({"Dockerfile": f"{stages}FROM busybox\n{copies}"}, "--no-cache")
    assert time.monotonic() - begin < 6.5


def test_unused_stages_are_not_built(builder: Builder) -> None:
    dockerfile = "FROM busybox AS bad\nRUN false\nFROM no/such/image AS worse\nFROM busybox\nRUN true\n"
    builder.build({"Dockerfile": dockerfile})


def test_target_and_build_arguments(builder: Builder) -> None:
    dockerfile = """ARG BASE=wrong
FROM ${BASE} AS first
ARG A=default
ARG B
ENV GOT=$A-${B:-none}
LABEL before=$TARGETARCH
ARG TARGETARCH
LABEL later=$TARGETARCH
FROM first AS second
RUN false
"""
    arguments = ["--build-arg", "BASE=busybox", "--build-arg", "B=b", "--build-arg", "unused=1"]
    said = builder.build(
        {"Dockerfile": dockerfile}, "--target", "first", "-t", "args", "--label", "l=1", *arguments
    )
    config = builder.config("args")
    assert "GOT=default-b" in config["Env"]
    assert (config["Labels"]["before"], config["Labels"]["l"]) == ("", "1")
    assert config["Labels"]["later"] in ("amd64", "arm64")
    assert "[Warning] One or more build-args [unused] were not consumed" in said
    said = builder.refused({"Dockerfile": dockerfile}, "--target", "frist", "--build-arg", "BASE=busybox")
    assert 'target stage "frist" could not be found (did you mean first?)' in said


def test_onbuild_triggers_run_in_the_child(builder: Builder) -> None:
    builder.build({"Dockerfile": "FROM busybox\nONBUILD COPY f /f\nONBUILD RUN cp /f /g"}, "-t", "trigger")
    builder.build({"Dockerfile": "FROM trigger\nRUN cat /g", "f": "triggered"}, "-t", "child")
    assert builder.run("child", "cat", "/g") == "triggered"
    assert not builder.config("child").get("OnBuild")


def test_run_mounts(builder: Builder) -> None:
    name = os.urandom(4).hex()
    dockerfile = f"""FROM busybox AS other
RUN echo from-other > /data
FROM busybox
WORKDIR /w
RUN --mount=type=bind,source=dir,target=/b ls /b > l && ! touch /b/x
RUN --mount=type=bind,source=dir,target=rw,rw touch rw/y && ls rw >> l
RUN --mount=type=bind,from=other,source=/data,target=/data cat /data >> l
RUN --mount=type=tmpfs,target=/t,size=1m ! dd if=/dev/zero of=/t/f bs=1M count=2 2>/dev/null
RUN --mount=type=cache,id={name},target=/cache echo n >> /cache/count
RUN --mount=type=cache,id={name},target=/cache,sharing=locked wc -l < /cache/count >> l
"""
    builder.build({"Dockerfile": dockerfile, "dir/a": ""}, "-t", "mounts", "--no-cache")
    assert builder.run("mounts", "cat", "/w/l").split() == ["a", "a", "y", "from-other", "1"]
    assert builder.run("mounts", "sh", "-c", "ls -A /cache /t /b /w/rw 2>/dev/null; true").strip() == ""
    builder.build({"Dockerfile": dockerfile, "dir/a": ""}, "-t", "mounts", "--no-cache")
    assert builder.run("mounts", "tail", "-n", "1", "/w/l").split() == ["2"], "the cache outlives the build"


def test_a_secret_leaves_no_trace(builder: Builder, host: Host, tmp_path: Path) -> None:
    secret = f"very-secret-{os.urandom(8).hex()}"
    (tmp_path / "token").write_text(secret)
    dockerfile = """FROM busybox
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" && stat -c %a /run/secrets/token > /mode
RUN --mount=type=secret,id=token,env=TOKEN test "$TOKEN" -a ! -e /run/secrets/token
RUN test ! -e /run/secrets -a -z "$TOKEN"
"""
    context = builder.context({"Dockerfile": dockerfile})
    host.pyd("build", "-t", "secret", "--secret", f"id=token,src={tmp_path}/token", str(context))
    assert builder.run("secret", "cat", "/mode") == "400\n"
    command = ["grep", "-rlF", secret, str(host.data_root), str(host.exec_root), str(host.log)]
    assert subprocess.run(command, capture_output=True, check=False).stdout == b""
    said = builder.refused(
        {"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=x,required cat /run/secrets/x"}
    )
    assert "secret x: not found" in said


def test_limits_hold(builder: Builder) -> None:
    limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    if not Path(limit).exists():
        pytest.skip("memory is not in a v1 hierarchy here")
    files = {"Dockerfile": f"FROM busybox\nRUN ulimit -n; df -k /dev/shm | tail -n 1; cat {limit}"}
    flags = ["--memory", "64m", "--ulimit", "nofile=77:77", "--shm-size", "3m"]
    said = builder.build(files, "--no-cache", *flags)
    assert "\n77\n" in said and " 3072 " in said and "\n67108864\n" in said
    assert "Minimum memory limit allowed is 6MB" in builder.refused(files, "--memory", "1m")


def test_run_network_none(builder: Builder) -> None:
    said = builder.build(
        {"Dockerfile": "FROM busybox\nRUN --network=none ip link\nRUN ip link"}, "--no-cache"
    )
    first, second = said.split("Step 3/3")
    assert "lo:" in first and "eth0" not in first and "eth0" in second


# -- what goes wrong


def test_a_failing_run_says_how(builder: Builder, leftovers: Callable[[], list[str]]) -> None:
    result = builder.attempt({"Dockerfile": "FROM busybox\nRUN echo last words; exit 42\nRUN never"})
    assert result.returncode == 42
    assert result.stdout.endswith(b"last words\n"), result.stdout
    assert b"The command '/bin/sh -c echo last words; exit 42' returned a non-zero code: 42" in result.stderr
    assert leftovers() == []


@pytest.mark.parametrize(
    ("dockerfile", "part"),
    [
        ('FROM busybox\nRUN ["/no/such"]', "no such file or directory"),
        ("FROM busybox\nCOPY absent /x", '"/absent": not found'),
        ("FROM busybox\nCOPY --from=absent-image-x /a /x", "absent-image-x"),
        ("FROM busybox AS a\nCOPY --from=b / /\nFROM busybox AS b\nCOPY --from=a / /", "circular dependency"),
        ("FROM busybox\nUSER nobody-here\nRUN id", "unable to find user nobody-here"),
        ("FROM busybox\nRUN mkdir /f\nCOPY d/e /f/\nCOPY g /f/e/", "cannot copy to non-directory"),
        ("FROM busybox\nCOPY d /etc/passwd", "cannot copy to non-directory"),
        ("FROM busybox\nEXPOSE 99999", "invalid containerPort: 99999"),
        ('FROM busybox\nENV a="${x:?is needed}"', "x: is needed"),
        ("FROM $NOTHING", "should not be blank"),
        ("FROM busybox\nCOPY --from=7 a b", "invalid stage index 7"),
        ("FROM busybox\nCOPY f d /x", "cannot copy to non-directory: /x"),
        ("FROM busybox\nSTOPSIGNAL what now", "invalid signal"),
    ],
)
def test_bad_dockerfiles(builder: Builder, dockerfile: str, part: str) -> None:
    result = builder.attempt({"Dockerfile": dockerfile, "f": "", "g": "", "d/e": ""})
    assert result.returncode in (1, 127), result.stdout
    assert part in result.stderr.decode()


def test_bad_requests_have_dockers_statuses(host: Host) -> None:
    assert host.curl("POST", "/build?buildargs=x")[0] == 400
    assert host.curl("POST", "/build?version=3")[0] == 400
    assert host.curl("POST", "/build?memory=1000")[0] == 400
    status, answer = host.curl("POST", "/build?t=x/UPPER", "")
    assert status == 400 and "invalid reference format" in answer["message"]


@pytest.mark.parametrize("body", [b"", b"no dockerfile \x00" * 100, b"\x1f\x8b\x08broken", b"\0" * 1024])
def test_bodies_that_are_no_context(host: Host, body: bytes) -> None:
    command = [
        "curl",
        "-s",
        "-X",
        "POST",
        "--unix-socket",
        str(host.socket),
        "--data-binary",
        "@-",
        "http://x/build",
    ]
    said = subprocess.run(command, input=body, capture_output=True, check=False, timeout=30).stdout
    assert said.startswith(b'{"message":'), said


def test_a_client_that_vanishes_stops_the_build(
    builder: Builder, host: Host, leftovers: Callable[[], list[str]]
) -> None:
    seconds = str(10_000_000 + int.from_bytes(os.urandom(3)))
    context = builder.context({"Dockerfile": f"FROM busybox\nRUN echo begun now; sleep {seconds}"})
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    command = ["docker", "-H", host.url, "build", "--no-cache", str(context)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert client.stdout is not None
    for line in client.stdout:
        if line.startswith(b"begun now"):
            break
    client.kill()
    client.wait()
    client.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (_sleeping(seconds) or leftovers()):
        time.sleep(0.05)
    assert not _sleeping(seconds) and leftovers() == []


def _sleeping(seconds: str) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes() == f"sleep\0{seconds}\0".encode():
                return True
        except OSError:
            continue
    return False


def test_identical_concurrent_builds_work_once(builder: Builder) -> None:
    name = os.urandom(4).hex()
    run = f"RUN --mount=type=cache,id={name},target=/c echo x >> /c/n; sleep 1; cp /c/n /n"
    contexts = [builder.context({"Dockerfile": f"FROM busybox\n{run}"}) for _ in range(3)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    running = []
    for number, context in enumerate(contexts):
        command = ["docker", "-H", builder.host.url, "build", "-q", "-t", f"once:{number}", str(context)]
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        )
    images = {process.communicate()[0] for process in running}
    assert len(images) == 1
    assert builder.run("once:0", "cat", "/n") == "x\n"


# -- contexts


def test_stdin_as_dockerfile_and_as_tar(host: Host, builder: Builder) -> None:
    host.pyd("build", "-t", "stdin:1", "-", input=b"FROM busybox\nLABEL x=1\n")
    context = builder.context({"other": "FROM busybox\nCOPY f /f\n", "f": "in the tar"})
    for flag in ("-z", "-J", "--zstd"):
        packed = subprocess.run(
            ["tar", "-C", str(context), flag, "-c", "."], capture_output=True, check=True
        ).stdout
        host.pyd("build", "-t", "stdin:2", "-f", "other", "-", input=packed)
    assert builder.run("stdin:2", "cat", "/f") == "in the tar"


def test_a_dockerfile_outside_the_context(host: Host, builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "Elsewhere").write_text("FROM busybox\nCOPY . /c\n")
    context = builder.context({"f": "", ".dockerignore": "g", "g": ""})
    host.pyd("build", "-t", "outside", "-f", str(tmp_path / "Elsewhere"), str(context))
    assert builder.run("outside", "ls", "/c").split() == ["f"]


def test_check_reports_rules(host: Host, builder: Builder) -> None:
    context = builder.context({"Dockerfile": "from scratch as A\nENV x 1\nMAINTAINER m\n"})
    said = host.pyd("build", "--check", str(context))
    for rule in (
        "ConsistentInstructionCasing",
        "StageNameCasing",
        "LegacyKeyValueFormat",
        "MaintainerDeprecated",
    ):
        assert f"WARNING: {rule} - https://docs.docker.com/go/dockerfile/rule/" in said


# -- a daemon of the test's own


def test_prune_takes_what_no_image_uses_and_the_cache_survives_a_restart(
    own_host: Host, tmp_path: Path
) -> None:
    builder = Builder(own_host, tmp_path)
    builder.build(
        {"Dockerfile": "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null"}, "-t", "big"
    )
    own_host.docker("rmi", "big")
    builder.build({"Dockerfile": "FROM busybox\nRUN echo kept"}, "-t", "kept")
    own_host.kill()
    own_host.start()
    assert (
        builder.build({"Dockerfile": "FROM busybox\nRUN echo kept"}, "-t", "kept").count("Using cache") == 1
    )
    status, usage = own_host.curl("GET", "/system/df")
    assert status == 200 and len(usage["BuildCache"]) == 2
    status, done = own_host.curl("POST", "/build/prune")
    assert status == 200 and len(done["CachesDeleted"]) == 1 and done["SpaceReclaimed"] >= 3 << 20
    assert own_host.curl("POST", "/build/prune?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D")[0] == 400
    assert "Total reclaimed space" in own_host.pyd("builder", "prune", "-af")
    assert own_host.curl("GET", "/system/df")[1]["BuildCache"] == []
    assert own_host.docker("run", "--rm", "--network", "none", "kept", "echo", "runs") == "runs\n"


def test_kill_9_in_the_middle_leaves_a_sound_cache(own_host: Host, tmp_path: Path) -> None:
    builder = Builder(own_host, tmp_path)
    files = {"Dockerfile": "FROM busybox\nRUN echo one > /one\nRUN echo begun; sleep 3; echo two > /two\n"}
    command = ["docker", "-H", own_host.url, "build", str(builder.context(files))]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert client.stdout is not None
    for line in client.stdout:
        if line == b"begun\n":
            break
    own_host.kill()
    client.communicate()
    own_host.start()
    assert not list((own_host.data_root / "tmp").glob("build-*"))
    said = builder.build(files, "-t", "sound")
    assert said.count("Using cache") == 1
    assert own_host.docker("run", "--rm", "--network", "none", "sound", "cat", "/one", "/two") == "one\ntwo\n"


def test_a_platform_that_the_base_has_not(builder: Builder) -> None:
    builder.build({"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox\nRUN true"})
    said = builder.refused({"Dockerfile": "FROM --platform=linux/s390x busybox\nRUN true"})
    assert "busybox" in said and (
        "no match for platform" in said or "failed to resolve source metadata" in said
    )


def test_a_named_network_and_extra_hosts(host: Host, builder: Builder) -> None:
    host.docker("network", "create", "--subnet", "10.213.7.0/24", "build-net")
    try:
        files = {
            "Dockerfile": "FROM busybox\nRUN ip -4 addr show eth0; grep other.test /etc/hosts; echo oops >&2"
        }
        flags = ["--network", "build-net", "--add-host", "other.test:10.1.2.3", "--no-cache"]
        said = builder.build(files, *flags)
        assert "10.213.7." in said and "10.1.2.3\tother.test" in said
        assert "\x1b[91moops\n\x1b[0m" in said, "what comes by stderr is red, as dockerd sends it"
    finally:
        host.docker("network", "rm", "build-net")
    assert "not found" in builder.refused(files, "--network", "no-such-net", "--no-cache")


def test_a_step_sees_what_buildkit_shows(builder: Builder) -> None:
    """What was compared with a real BuildKit: files of /etc, mounts of nothing, of memory, of secrets."""
    files = {
        "Dockerfile": "FROM busybox\nRUN echo me > /etc/hostname\n"
        "RUN cat /etc/hostname > /o; for f in hosts resolv.conf; do echo x >> /etc/$f || echo $f >> /o; done\n"
        "RUN --mount=from=scratch,target=/m,rw ls -A /m >> /o; touch /m/x && ls -A /m >> /o\n"
        "RUN --mount=type=tmpfs,target=/t,size=1m,rw stat -c %a /t >> /o\n"
        "WORKDIR /w\nRUN --mount=type=secret,id=s,target=rel/s cat /w/rel/s >> /o\n"
        "RUN --mount=type=secret,id=s,env=E,target=/q/s echo $E >> /o; rm /etc/hostname\nRUN\n",
        "s": "secret\n",
    }
    context = builder.context(files)
    builder.host.pyd("build", "-t", "sees", "--secret", f"id=s,src={context}/s", str(context))
    out = builder.run(
        "sees", "sh", "-c", "cat /o; ls -d /etc/hostname.bak /m/* /t /w /w/* /q 2>/dev/null; true"
    )
    assert out.split() == [
        "me", "hosts", "resolv.conf", "x", "1777", "secret", "secret", "/w",
    ]  # fmt: skip

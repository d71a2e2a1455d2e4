"""The Dockerfile front end through buildx: contexts of every kind, named ones, platforms, entitlements, links."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.build.plugins import Buildx
from tests.system.conftest import load_busybox
from tests.system.host import ENVIRONMENT, REPOSITORY, Host

BINFMT = "/proc/sys/fs/binfmt_misc"


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def repository(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    git = ["git", "-C", str(directory), "-c", "user.email=a@b", "-c", "user.name=x"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run([*git, "update-server-info"], check=True)
    (directory / ".git").rename(directory / "r.git")


def test_a_context_from_git_and_one_from_an_archive(buildx: Buildx, tmp_path: Path) -> None:
    files = {"sub/Dockerfile": "FROM busybox\nCOPY f /f\nRUN cat /f\n", "sub/f": "from-git"}
    repository(tmp_path / "web", files)
    with tarfile.open(tmp_path / "web/c.tgz", "w:gz") as archive:
        archive.add(tmp_path / "web/sub", arcname=".")
    with served(tmp_path / "web") as url:
        said = buildx.try_docker("build", f"{url}/r.git#v1:sub").stderr.decode()
        assert "from-git" in said and f"[internal] load git source {url}/r.git#v1:sub" in said
        said = buildx.try_docker("build", "--no-cache", f"{url}/c.tgz").stderr.decode()
        assert "from-git" in said and "[internal] load remote build context" in said


def test_a_context_from_stdin(buildx: Buildx, tmp_path: Path) -> None:
    lone = buildx.try_docker("build", "-", input=b"FROM busybox\nRUN echo lone-one\n")
    assert lone.returncode == 0 and b"lone-one" in lone.stderr
    context = buildx.context({"Dockerfile": "FROM busybox\nCOPY f /f\nRUN cat /f\n", "f": "packed"})
    packed = subprocess.run(["tar", "-C", str(context), "-c", "."], capture_output=True, check=True).stdout
    said = buildx.try_docker("build", "--no-cache", "-", input=packed)
    assert said.returncode == 0 and b"packed" in said.stderr, said.stderr.decode()


def test_only_what_is_used_travels(buildx: Buildx) -> None:
    files: dict[str, str | bytes] = {"Dockerfile": "FROM busybox\nCOPY used /u\n", "used": "1"}
    context = buildx.context({**files, "big": os.urandom(3 << 20)})
    said = buildx.build(context)
    (line,) = [each for each in said.splitlines() if "transferring context" in each and "MB" in each] or [""]
    assert not line, line


def test_named_contexts(buildx: Buildx, tmp_path: Path) -> None:
    buildx.build({"Dockerfile": "FROM busybox\nRUN echo other > /who\n"}, "-t", "front-other")
    named = tmp_path / "named"
    named.mkdir()
    for name, text in (("f", "named-file"), ("skipped", "x"), (".dockerignore", "skipped")):
        (named / name).write_text(text)
    text = (
        "FROM busybox AS base\nRUN cat /who\nFROM base\nCOPY --from=extra / /x/\nRUN ls /x; cat /x/f\n"
        "RUN --mount=from=extra,target=/m ls /m\n"
    )
    flags = ("--build-context", f"extra={named}", "--build-context", "busybox=docker-image://front-other")
    said = buildx.build({"Dockerfile": text}, *flags)
    assert "named-file" in said and "[context extra] load from client" in said
    assert " other" in said and "skipped" not in said


def test_an_oci_layout_as_a_context(buildx: Buildx, tmp_path: Path) -> None:
    said = buildx.context({"Dockerfile": "FROM busybox\nRUN echo of-the-layout > /lay\n"})
    buildx.docker("buildx", "build", "-o", f"type=oci,dest={tmp_path}/lay,tar=false", str(said))
    context = {"Dockerfile": "FROM base\nRUN cat /lay\nCOPY --from=base /lay /copied\n"}
    shown = buildx.build(context, "--build-context", f"base=oci-layout://{tmp_path}/lay")
    assert " of-the-layout" in shown and "[context base] OCI load from client" in shown
    assert shown.count("load metadata for docker.io/library/base@sha256:") <= 2


def test_a_registrys_base_gets_no_name_and_is_kept_by_the_cache(buildx: Buildx, registry: str) -> None:
    name = f"{registry}/front-base:1"
    buildx.docker("tag", "busybox", name)
    buildx.docker("push", name)
    buildx.docker("rmi", name)
    said = buildx.build({"Dockerfile": f"FROM {name}\nRUN echo upon-it\n"}, "-t", "front-upon")
    assert f"[1/2] FROM {name}@sha256:" in said and " upon-it" in said
    assert "front-base" not in buildx.docker("images")
    assert f"pulled from {name}@sha256:" in buildx.docker("buildx", "du", "--verbose")
    none = f"{registry}/none:2"
    missing = buildx.attempt({"Dockerfile": f"FROM {none}\n"})
    sentence = f"{none}: failed to resolve source metadata for {none}: {none}: not found"
    assert sentence.encode() in missing.stderr, missing.stderr.decode()


BAKE = """
group "default" { targets = ["two"] }
target "one" {
  dockerfile-inline = "FROM busybox\\nENV A=set\\nCOPY a /fromone\\n"
  context = "ctx"
}
target "two" {
  dockerfile-inline = "FROM one\\nRUN cat /fromone; echo A=$A\\n"
  contexts = { one = "target:one" }
}
"""


def test_a_target_of_bake_is_anothers_context(buildx: Buildx, tmp_path: Path) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx/a").write_text("of-one")
    (tmp_path / "docker-bake.hcl").write_text(BAKE)
    said = buildx.try_docker("buildx", "bake", cwd=tmp_path)
    assert said.returncode == 0, said.stderr.decode()
    assert b"of-one" in said.stderr and b"A=set" in said.stderr


# -- platforms


def program(machine: int) -> bytes:
    """An ELF header that says for which machine it is; nobody runs it but an emulator that is played."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, machine, 1)
    return head.ljust(256, b"\0")


@pytest.fixture
def emulator() -> Iterator[None]:
    """busybox as the machine's handler of arm64 programs: it runs its applet of the program's name.

    Handlers belong to a mount of binfmt_misc and go with it: that of a process in a mount namespace of its own.
    """
    if Path(f"{BINFMT}/status").exists():
        pytest.skip("this machine has handlers of its own")
    magic = "\\x7fELF\\x02\\x01\\x01" + "\\x00" * 9 + "\\x02\\x00\\xb7\\x00"
    mask = "\\xff" * 7 + "\\x00" + "\\xff" * 8 + "\\xfe\\xff\\xff\\xff"
    rule = f":pyd-test-aarch64:M::{magic}:{mask}:/bin/busybox:F"
    script = (
        f"mount -t binfmt_misc none {BINFMT} && printf %s '{rule}' > {BINFMT}/register && echo on && read x"
    )
    command = ["unshare", "-m", "bash", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        if holder.stdout.readline() != b"on\n":
            pytest.skip("no binfmt_misc here")
        try:
            yield
        finally:
            holder.stdin.close()


FOREIGN = (
    "FROM --platform=$BUILDPLATFORM busybox AS made\nARG TARGETPLATFORM TARGETARCH\n"
    "RUN echo built-for $TARGETPLATFORM > /for; echo on $(uname -m)\n"
    "FROM scratch\nARG TARGETARCH\nCOPY --from=made /for /for\nCOPY echo-$TARGETARCH /echo\n"
    'RUN ["/echo", "emulated"]\n'
)


def foreign(buildx: Buildx) -> Path:
    busybox = Path("/bin/busybox").read_bytes()
    return buildx.context({"Dockerfile": FOREIGN, "echo-arm64": program(183), "echo-amd64": busybox})


def test_a_foreign_program_without_an_emulator(buildx: Buildx) -> None:
    context = foreign(buildx)
    (context / "echo-arm64").chmod(0o755)
    said = buildx.attempt(context, "--platform", "linux/arm64")
    assert said.returncode != 0 and b"exec format error" in said.stderr, said.stderr.decode()


def test_two_platforms_with_an_emulator(buildx: Buildx, emulator: None) -> None:
    context = foreign(buildx)
    for name in ("echo-arm64", "echo-amd64"):
        (context / name).chmod(0o755)
    said = buildx.build(context, "--platform", "linux/arm64,linux/amd64", "-t", "front-two")
    assert "[linux/arm64 stage-1 3/3] RUN" in said and "[linux/amd64->arm64 made 2/2] RUN" in said
    assert said.count(" emulated") >= 1
    alone = buildx.build(context, "--platform", "linux/arm64", "-t", "front-arm")
    assert "CACHED" in alone
    assert json.loads(buildx.docker("image", "inspect", "front-arm"))[0]["Architecture"] == "arm64"


# -- what takes consent


def test_entitlements(buildx: Buildx) -> None:
    host_network = {"Dockerfile": "FROM busybox\nRUN --network=host ls /sys/class/net | wc -l\n"}
    said = buildx.attempt(host_network)
    assert said.returncode != 0 and b"network.host is not allowed" in said.stderr
    buildx.build(host_network, "--allow", "network.host")
    said = buildx.attempt(INSECURE)
    assert said.returncode != 0 and b"security.insecure is not allowed" in said.stderr
    said = buildx.attempt(INSECURE, "--allow", "security.insecure")
    refusal = b"granting entitlement security.insecure is not allowed by build daemon configuration"
    assert said.returncode != 0 and refusal in said.stderr


def test_devices_are_refused_as_dockerd_refuses_them(buildx: Buildx) -> None:
    """28.5.2, which has no front end for them and no setting to grant them."""
    files = {"Dockerfile": "FROM busybox\nRUN --device=vendor.com/gpu=0,required true\n"}
    said = buildx.attempt(files)
    text = b"failed to solve: device feature is only supported in Dockerfile frontend 1.14.0-labs or later"
    assert said.returncode != 0 and text in said.stderr and b"2 | >>> RUN --device" in said.stderr
    for allowed in ("device", "device=vendor.com/gpu=0"):
        said = buildx.try_docker("buildx", "build", "--allow", allowed, str(buildx.context(files)))
        refusal = b"granting entitlement device is not allowed by build daemon configuration"
        assert said.returncode != 0 and refusal in said.stderr, said.stderr.decode()


INSECURE: dict[str, str | bytes] = {
    "Dockerfile": "FROM busybox\nRUN --security=insecure mkdir /mnt && mount -t tmpfs none /mnt && umount /mnt\n"
    "RUN ! mount -t tmpfs none /mnt\n"
}


def test_an_insecure_step_is_privileged_where_the_daemon_grants_it(busybox_tar: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        host = Host(Path(directory), "--builder", '{"entitlements": {"security-insecure": true}}')
        host.start()
        try:
            load_busybox(host, busybox_tar)
            Buildx(host, tmp_path).build(INSECURE, "--allow", "security.insecure")
        finally:
            host.undo()


# -- layers of their own


def layers(buildx: Buildx, image: str) -> list[str]:
    found: list[str] = json.loads(buildx.docker("image", "inspect", image))[0]["RootFS"]["Layers"]
    return found


def test_a_linked_layer_is_the_same_upon_another_base(buildx: Buildx) -> None:
    context = buildx.context({"f": "linked"})
    text = "FROM busybox\nRUN echo {} > /base\nCOPY --link f /sub/f\nRUN cat /sub/f /base\n"
    (context / "Dockerfile").write_text(text.format("one"))
    buildx.build(context, "-t", "front-link1")
    (context / "Dockerfile").write_text(text.format("two"))
    time.sleep(1.1)  # a layer that was made again would have a directory of another second
    buildx.build(context, "-t", "front-link2")
    one, two = layers(buildx, "front-link1"), layers(buildx, "front-link2")
    assert one[1] != two[1] and one[2] == two[2]


# -- the supervisor dies


def test_a_step_goes_on_when_its_supervisor_dies(own_host: Host, tmp_path: Path) -> None:
    buildx = Buildx(own_host, tmp_path)
    ticking = "for i in 1 2 3 4 5 6 7 8; do echo tick $i; sleep 0.3; done; echo through > /end"
    text = f"FROM busybox\nRUN {ticking}\nRUN cat /end\n"
    context = buildx.context({"Dockerfile": text})
    command = ["docker", "build", str(context)]
    with subprocess.Popen(command, env=buildx.environment, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr
        said = ""
        for line in build.stderr:
            said += line
            if "tick 2" in line:
                _kill_supervisor(own_host)
        assert build.wait(timeout=60) == 0, said
    assert "tick 8" in said and " through" in said


def _kill_supervisor(host: Host) -> None:
    for pid in host.supervisor_pids():
        if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError("no supervisor")


def test_a_step_dies_with_its_daemon(own_host: Host, tmp_path: Path) -> None:
    buildx = Buildx(own_host, tmp_path)
    context = buildx.context({"Dockerfile": "FROM busybox\nRUN echo begun; exec sleep 4711\n"})
    command = ["docker", "build", str(context)]
    with subprocess.Popen(command, env=buildx.environment, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr and any("begun" in line for line in build.stderr)
        own_host.kill()
        assert build.wait(timeout=30) != 0
    own_host.start()
    deadline = time.monotonic() + 10
    while _sleeping() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _sleeping()


def _sleeping() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"sleep\x004711\x00":
                found.append(path.parent.name)
    return found


def test_the_machines_platforms_are_told(buildx: Buildx) -> None:
    """The C library's own reading of the processor is the judge."""
    shown = buildx.docker("buildx", "inspect")
    told = next(line for line in shown.splitlines() if line.startswith("Platforms:")).split(":")[1]
    levels = subprocess.run(
        ["/lib64/ld-linux-x86-64.so.2", "--help"], capture_output=True, text=True, check=True
    ).stdout
    found = sorted(
        line.split()[0][-2:] for line in levels.splitlines() if "x86-64-v" in line and "supported" in line
    )
    expected = ["linux/amd64", *(f"linux/amd64/{level}" for level in found), "linux/386"]
    assert [each.strip() for each in told.split(",")][: len(expected)] == expected


def test_a_handler_is_one_more_platform() -> None:
    """In the kernel's own words; the handler is gone again at once."""
    magic = "\\x7fELF\\x02\\x01\\x01" + "\\x00" * 9 + "\\x02\\x00\\xf3\\x00"
    mask = "\\xff" * 7 + "\\x00" + "\\xff" * 8 + "\\xfe\\xff\\xff\\xff"
    rule = f":pyd-test-riscv64:M::{magic}:{mask}:/bin/busybox:F"
    ask = f"{sys.executable} -c 'from daemon.images.machine import supported; print(*supported())'"
    script = (
        f"mount -t binfmt_misc none {BINFMT}; {ask}; printf %s '{rule}' > {BINFMT}/register; "
        f"{ask}; echo -1 > {BINFMT}/pyd-test-riscv64"
    )
    command = ["unshare", "-m", "bash", "-ec", script]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=REPOSITORY
    )
    before, after = said.stdout.splitlines()
    assert "linux/riscv64" in after.split()
    assert set(after.split()) - set(before.split()) <= {"linux/riscv64"}

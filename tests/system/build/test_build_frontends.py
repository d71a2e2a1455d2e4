"""Front ends as images: `# syntax=`, BUILDKIT_SYNTAX, gateway.v0. A dockerd, where one is, is asked the same."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.build import frontend_image, peers
from tests.system.build.plugins import Buildx
from tests.system.build.test_buildx import normalised, until
from tests.system.host import Host

FRONT, PLAIN, LONELY = (
    "pyd-tests-front:latest",
    "pyd-tests-plain-front:latest",
    "pyd-tests-lonely-front:latest",
)
BASE = f"docker.io/library/{peers.BASE}"
PEER = pytest.param("dockerd", marks=pytest.mark.peer)


@contextlib.contextmanager
def _fronts(url: str, busybox: Path) -> Iterator[str]:
    """The front ends and the base, at a daemon for as long as the block."""
    with peers.based(url, busybox):
        try:
            frontend_image.make(url, FRONT)
            frontend_image.make(url, PLAIN, 'LABEL moby.buildkit.frontend.caps=""')
            frontend_image.make(url, LONELY, "LABEL moby.buildkit.frontend.network.none=true")
            yield url
        finally:
            command = ["docker", "-H", url, "rmi", "-f", FRONT, PLAIN, LONELY]
            subprocess.run(command, check=False, capture_output=True)


@pytest.fixture(scope="module")
def ours(host: Host, busybox_tar: Path) -> Iterator[str]:
    with _fronts(host.url, busybox_tar) as url:
        yield url


@pytest.fixture(scope="module")
def theirs(busybox_tar: Path) -> Iterator[str]:
    with _fronts(peers.SOCKET, busybox_tar) as url:
        yield url


@pytest.fixture(params=["pyd", PEER])
def client(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Buildx:
    """buildx at a daemon that has the images."""
    url: str = request.getfixturevalue("ours" if request.param == "pyd" else "theirs")
    return Buildx(host, tmp_path, url)


@pytest.fixture
def pyd(ours: str, host: Host, tmp_path: Path) -> Buildx:
    return Buildx(host, tmp_path, ours)


def _orders(*lines: str, syntax: str = f"# syntax={FRONT}") -> dict[str, str]:
    return {"Dockerfile": "\n".join([syntax, *lines, ""])}


def _files(client: Buildx, files: dict[str, str], *flags: str) -> tuple[Path, str]:
    """Where the result's files are, and what was said."""
    out = client.directory / f"out{client.count}"
    return out, client.build(files, "--output", f"type=local,dest={out}", *flags)


def test_it_builds_what_it_is_told(client: Buildx) -> None:
    tag = f"pyd-tests-fronts-made-{os.getpid()}"
    lines = (f"FROM {BASE}", "RUN echo ran > /ran; cat /a 2>&1; true", "WRITE /a text", "WARN mind the step")
    said = client.build(_orders(*lines), "--no-cache", "-t", tag)
    try:
        assert client.docker("run", "--rm", "--network", "none", tag, "cat", "/ran", "/a") == "ran\ntext\n"
        assert json.loads(client.docker("image", "inspect", tag))[0]["Config"]["Cmd"] == ["sh"]
    finally:
        client.docker("rmi", tag)
    steps = normalised(said)
    assert steps[f"resolve image config for docker-image://docker.io/library/{FRONT}"] == ["DONE"]
    assert f"[front end] look at {BASE}" in steps
    assert "cat: can't open '/a': No such file or directory" in "".join(steps[f"[front end] {lines[1]}"])
    assert steps["[front end] WRITE /a"] == ["DONE"]
    assert "mind the step" in said


def test_what_it_knows(client: Buildx) -> None:
    flags = ("--build-arg", "A=b c", "--label", "l=m", "--target", "t", "--no-cache")
    out, _ = _files(client, _orders("SEEN /seen", syntax=f"# syntax = {FRONT} and words"), *flags)
    seen = json.loads((out / "seen").read_text())
    wanted = {
        "build-arg:A": "b c", "cmdline": f"{FRONT} and words", "filename": "Dockerfile", "label:l": "m",
        "no-cache": "", "source": FRONT, "target": "t",
    }  # fmt: skip
    assert {name: seen["options"].get(name) for name in wanted} == wanted
    assert seen["environment"]["FRONT"] == "end"
    assert seen["environment"]["BUILDKIT_EXPORTEDPRODUCT"] == "docker"
    assert seen["environment"]["BUILDKIT_SESSION_ID"]
    (worker,) = json.loads(seen["environment"]["BUILDKIT_WORKERS"])
    assert worker["platforms"][0]["os"] == "linux"
    assert {"id", "labels", "gcPolicy", "buildkitVersion", "cdiDevices"} <= set(worker)
    assert (seen["user"], seen["directory"], seen["workers"], seen["inputs"]) == (0, "/", 1, [])
    assert (seen["network"], seen["definition"] > 100) == (["eth0", "lo"], True)
    assert {"solve.base", "frontend.inputs", "gateway.warnings", "proto.refarray"} <= set(seen["caps"])


def test_its_image_may_want_no_network(client: Buildx) -> None:
    out, _ = _files(client, _orders("SEEN /seen", syntax=f"# syntax={LONELY}"))
    assert json.loads((out / "seen").read_text())["network"] == ["lo"]


@pytest.mark.parametrize("syntax", [f"// syntax={FRONT}", f"#!/bin/x\n#syntax={FRONT}"])
def test_files_that_are_no_dockerfiles_name_it_too(client: Buildx, syntax: str) -> None:
    out, _ = _files(client, _orders("WRITE /named by it", syntax=syntax))
    assert (out / "named").read_text() == "by it\n"


def test_the_client_may_name_it(client: Buildx) -> None:
    """buildx then asks for gateway.v0 itself."""
    out, said = _files(client, _orders("SEEN /seen", syntax=""), "--build-arg", f"BUILDKIT_SYNTAX={FRONT} x")
    options = json.loads((out / "seen").read_text())["options"]
    assert (options["source"], options["cmdline"]) == (FRONT, f"{FRONT} x")
    assert "load build definition" not in said


def test_it_looks_into_what_it_plans(pyd: Buildx) -> None:
    """Its stderr is the log of its image (BuildKit's goes to the daemon's log)."""
    lines = ("WRITE /a text", "WRITE /b more", "EVALUATE", "CAT /b", "LIST /", "STAT /a", "SAY that was all")
    said = pyd.build(_orders(*lines))
    told = [line.partition(" ")[2] for line in said.splitlines() if line.startswith("#3 ")]
    shown = [line.partition(" ")[2] for line in told if line[:1].isdigit()]
    assert [line for line in shown if line] == ["more", "a b", "a 644 5", "that was all"]


FAILURES = {
    "it says so": ("FAIL this is wrong", "InvalidArgument: this is wrong"),
    "a status": ("EXIT 3", "exit code: 3"),
    "no result": ("EXIT 0", "no result for incomplete build"),
    "a step of its": (
        f"FROM {BASE}\nRUN exit 7\nEVALUATE",
        "did not complete successfully: exit code: 7",
    ),
    "no such file": ("WRITE /a x\nCAT /missing", "no such file or directory"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failures_show_who_named_it(client: Buildx, what: str) -> None:
    order, sentence = FAILURES[what]
    said = client.refused(_orders(*order.splitlines()))
    last = said.rstrip("\n").splitlines()[-1]
    assert last.startswith("ERROR: failed to build: failed to solve: ")
    assert last.endswith(sentence), last
    assert f"Dockerfile:1\n--------------------\n   1 | >>> # syntax={FRONT}\n" in said


def test_names_that_mean_nothing(client: Buildx) -> None:
    said = client.refused(_orders("X", syntax="# syntax=127.0.0.1:1/pyd-tests-nowhere:1"))
    assert "failed to resolve source metadata for 127.0.0.1:1/pyd-tests-nowhere:1: " in said.splitlines()[-1]
    assert "   1 | >>> # syntax=127.0.0.1:1/pyd-tests-nowhere:1\n" in said
    said = client.refused(_orders("X", syntax="# syntax=UPPER/x:y:z"))
    assert said.rstrip("\n").endswith("invalid context name UPPER/x:y:z: invalid reference format")


def test_another_image_by_a_named_context(client: Buildx) -> None:
    out, _ = _files(
        client,
        _orders("WRITE /named by context", syntax="# syntax=pyd-tests-nowhere"),
        "--build-context", f"pyd-tests-nowhere=docker-image://{FRONT}",
    )  # fmt: skip
    assert (out / "named").read_text() == "by context\n"


BAKE = f"""
target "base" {{ dockerfile-inline = "FROM {peers.BASE}\\nRUN echo base > /base" }}
target "default" {{
  contexts = {{ below = "target:base" }}
  dockerfile-inline = "# syntax=FRONT\\nINPUT\\nRUN cat /base > /a\\nSEEN /seen\\n"
  output = ["type=local,dest=out"]
}}
"""


def test_it_may_be_given_targets(client: Buildx) -> None:
    context = client.context({"docker-bake.hcl": BAKE.replace("FRONT", FRONT)})
    client.docker("buildx", "bake", "--allow=fs=*", cwd=context)
    assert (context / "out/a").read_text() == "base\n"
    assert len(json.loads((context / "out/seen").read_text())["inputs"]) == 1


def test_it_must_promise_to_take_them(client: Buildx) -> None:
    context = client.context({"docker-bake.hcl": BAKE.replace("FRONT", PLAIN)})
    said = client.try_docker("buildx", "bake", "--allow=fs=*", cwd=context).stderr.decode()
    last = said.splitlines()[-1]  # the one or the other of what is wanted; buildx has words of its own for it
    assert "unsupported frontend capability" in last or "current frontend does not support" in last


def test_the_dockerfiles_front_end_is_built_in(pyd: Buildx) -> None:
    """Wherever it is said to come from; and whoever names it."""
    for name in ("docker/dockerfile:1", "127.0.0.1:1/mirror/dockerfile-upstream:master@sha256:" + "0" * 64):
        said = pyd.build({"Dockerfile": f"# syntax={name}\nFROM scratch\nCOPY Dockerfile /\n"})
        assert "resolve image config" not in said
    said = pyd.build(
        {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}, "--build-arg", "BUILDKIT_SYNTAX=x/dockerfile:1"
    )
    assert "resolve image config" not in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_goes_takes_it_along(
    pyd: Buildx, leftovers: Callable[[], list[str]], how: signal.Signals
) -> None:
    context = pyd.context(_orders("HANG"))
    log = pyd.directory / "log"
    with log.open("wb") as file:
        client = subprocess.Popen(
            ["docker", "build", str(context)],
            env=pyd.environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until(lambda: "hanging" in log.read_text(), 20)
    finally:
        os.killpg(client.pid, how)
        client.wait()
    until(lambda: not leftovers())

"""Source policies as people give them to buildx: a file of rules beside the build."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.build.plugins import Buildx
from tests.system.build.real import building
from tests.system.host import Host

VARIABLE = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
Build = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def build(buildx: Buildx, tmp_path: Path) -> Build:
    """`build(dockerfile, rule, ...)` under the rules."""

    def run(dockerfile: str, *rules: dict[str, Any], tag: str = "policies") -> Any:
        path = tmp_path / "policy.json"
        path.write_text(json.dumps({"rules": rules}))
        context = buildx.context({"Dockerfile": dockerfile, "f": "hi\n"})
        return buildx.try_docker("buildx", "build", "-t", tag, str(context), **{VARIABLE: str(path)})

    return run


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    with building.web(tmp_path / "www") as values:
        yield values["web"]


def _deny(identifier: str) -> dict[str, Any]:
    return {"action": "DENY", "selector": {"identifier": identifier}}


def _convert(selected: str, **updates: Any) -> dict[str, Any]:
    return {"action": "CONVERT", "selector": {"identifier": selected}, "updates": updates}


def test_what_is_denied_is_not_read(build: Build, web: str) -> None:
    """The sentences are dockerd's (28.5.2)."""
    place = web.removeprefix("http://")
    dockerfile = f"FROM busybox\nCOPY f /\nADD {web}/script.sh /\nADD {web}/repository.git /g\n"
    asked = "could not resolve image due to policy: "
    loading = "failed to load LLB: error evaluating the source policy: "
    for denied, shown, before in (
        ("docker-image://*busybox*", "docker-image://docker.io/library/busybox:latest", asked),
        ("local://context", "local://context", f"failed to solve: {loading}"),
        ("local://dockerfile", "local://dockerfile", f"failed to read dockerfile: {loading}"),
        ("http://*", f"{web}/script.sh", f"failed to solve: {loading}"),
        ("git://*", f"git://{place}/repository.git", f"failed to solve: {loading}"),
    ):
        result = build(dockerfile, _deny(denied))
        text = f'{before}source "{shown}" denied by policy: source denied by policy'
        assert result.returncode != 0 and text in result.stderr.decode(), result.stderr.decode()
    refused = build(dockerfile, {"action": "DENY"}).stderr.decode()
    assert "failed to solve: invalid nil selector in policy" in refused
    allowed = {"action": "ALLOW", "selector": {"identifier": "*busybox*"}}
    assert build("FROM busybox\n", _deny("docker-image://*"), allowed).returncode == 0


def test_an_image_is_pinned(build: Build, host: Host, registry: str) -> None:
    """The tag moves on, the build stays with the digest; provenance tells what was read."""
    name = f"{registry}/policies/base:1"
    digests = []
    for content in ("old", "new"):
        build(f"FROM busybox\nRUN echo {content} > /which\n", tag=name)
        pushed = host.docker("push", name)
        digests.append(pushed.rpartition("digest: ")[2].split()[0])
        host.docker("rmi", name)
    assert digests[0] != digests[1]
    pin = _convert(f"docker-image://{name}", identifier=f"docker-image://{name}@{digests[0]}")
    built = build(f"FROM {name}\nRUN cat /which > /seen\n", pin)
    assert built.returncode == 0, built.stderr.decode()
    assert f"FROM {name}@{digests[0]}" in built.stderr.decode()
    assert host.docker("run", "--rm", "--network", "none", "policies", "cat", "/seen") == "old\n"
    assert build(f"FROM {name}\nRUN cat /which > /seen\n").returncode == 0
    assert host.docker("run", "--rm", "--network", "none", "policies", "cat", "/seen") == "new\n"


def test_files_and_repositories_are_held_to_checksums(build: Build, host: Host, web: str) -> None:
    url = f"{web}/script.sh"
    right = "sha256:" + hashlib.sha256(b"#!/bin/sh\necho fetched\n").hexdigest()
    dockerfile = f"FROM busybox\nADD {url} /script\n"
    assert build(dockerfile, _convert(url, attrs={"http.checksum": right})).returncode == 0
    wrong = build(dockerfile, _convert(url, attrs={"http.checksum": f"sha256:{'0' * 64}"}))
    assert f"digest mismatch {right}: sha256:{'0' * 64}" in wrong.stderr.decode()
    repository = f"git://{web.removeprefix('http://')}/repository.git"
    held = _convert(repository, attrs={"git.checksum": "0" * 40})
    moved = build(f"FROM busybox\nADD {web}/repository.git /g\n", held)
    assert f"expected checksum to match {'0' * 40}, got " in moved.stderr.decode()
    elsewhere = _convert("https://nowhere.invalid/*", identifier=f"{web}/$1")
    assert build("FROM busybox\nADD https://nowhere.invalid/script.sh /script\n", elsewhere).returncode == 0
    seen = host.docker("run", "--rm", "--network", "none", "policies", "cat", "/script")
    assert seen == "#!/bin/sh\necho fetched\n"

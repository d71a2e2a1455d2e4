"""openapi.yaml describes the daemon truly: schemathesis sends what the document allows and checks the answers.

Every operation gets a few generated requests, the same ones at every run (`nightly`: many more, at random),
half of them about objects that exist. None may be answered with a server error, an undocumented status or
media type, or a body that breaks its schema. The daemon is the module's own: the requests destroy things.

What turns a connection into a stream has no answer to check and is left to test_tls.py and others.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies
from schemathesis.checks import CHECKS

from tests.system import conftest, images
from tests.system.host import REPOSITORY, Host

SCHEMA = schemathesis.openapi.from_path(str(REPOSITORY / "openapi.yaml"))
OPERATIONS = {found.ok().definition.raw["operationId"]: found.ok() for found in SCHEMA.get_all_operations()}
HIJACKED = {"ContainerAttach", "ContainerAttachWebsocket", "ExecStart", "Session", "Grpc"}
STREAMED = {"SystemEvents", "ImageCreate", "ImageLoad", "ImagePush", "ImageBuild"}
"""Answers of many JSON documents: each is checked by itself."""
NO_SUCH_THING_HERE = {501, 503}
"""Documented server errors: there is no swarm."""
DOCKERS_OWN_500 = (b"is not paused", b"Error running ps: ")
"""What dockerd answers with 500 though the request is at fault, and pyd therefore too."""
TIMEOUT = 20.0

CALM: dict[str, dict[str, Any]] = {
    "ContainerLogs": {"follow": "false", "stdout": "true"},
    "ContainerStats": {"stream": "false", "one-shot": "true"},
    "ContainerStop": {"t": "0", "signal": "KILL"},
    "ContainerRestart": {"t": "0", "signal": "KILL"},
    "ContainerWait": {"condition": "not-running"},
    "SystemEvents": {"since": "0", "until": "1"},
    "ImageCreate": {"fromImage": "{registry}/none", "tag": "t", "fromSrc": None},
}
"""Query parameters without which an answer would not end, or would ask the internet."""


@schemathesis.serializer("application/x-tar")
def _tar(context: Any, value: Any) -> Any:
    """Generated archives are rubbish, sent as it is."""
    return value.encode("latin-1", "replace") if isinstance(value, str) else value


@dataclasses.dataclass
class Live:
    """The daemon under test and names of things in it."""

    host: Host
    url: str
    registry: str

    def renew(self) -> None:
        """A running and a stopped container, an image, a network, a volume: whatever was destroyed is back."""
        self.host.try_docker("rm", "-f", "stopped")
        if self.host.try_docker("image", "inspect", "busybox").returncode:
            conftest.load_busybox(self.host, self.host.directory / "busybox.tar")
        if self.host.try_docker("top", "running").returncode:
            self.host.try_docker("rm", "-f", "running")
            self.host.docker("run", "-d", "--init", "--name", "running", "busybox", "sleep", "6000")
        self.host.docker("create", "--name", "stopped", "busybox", "true")
        self.host.try_docker("network", "create", "net")
        self.host.try_docker("volume", "create", "vol")

    def exec_id(self) -> str:
        """An exec that has run."""
        body = {"Cmd": ["true"], "AttachStdout": True}
        made = requests.post(f"{self.url}/containers/running/exec", json=body, timeout=TIMEOUT)
        return str(made.json()["Id"])

    def names(self, name: str, path: str) -> list[str | None]:
        """For the first path parameter of an operation: existing objects, and None for what is generated."""
        kind = path.split("/")[1]
        if kind == "exec":
            return [None, self.exec_id()]
        if name == "ContainerWait":
            return ["stopped", "no-such-container"]  # a made-up name may be a prefix of the running one's ID
        if name == "DistributionInspect":
            return [f"{self.registry}/none"]
        known = {"containers": ("running", "stopped"), "images": ("busybox",), "networks": ("net", "bridge")}
        return [None, *known.get(kind, ("vol",))]

    def aimed(self, case: schemathesis.Case, name: str, target: str | None) -> schemathesis.Case:
        """The case with its query kept from running for ever, its path at something that exists."""
        if name in CALM:
            query = {**(case.query or {}), **CALM[name]}
            case.query = {
                key: value.format(registry=self.registry) if key in CALM[name] else value
                for key, value in query.items()
                if value is not None
            }
        if target and case.path_parameters:
            case.path_parameters = {**case.path_parameters, next(iter(case.path_parameters)): target}
        if name == "SystemAuth" and (isinstance(case.body, dict) or type(case.body).__name__ == "NotSet"):
            given = case.body if isinstance(case.body, dict) else {}
            case.body = {**given, "serveraddress": self.registry}  # and not the internet's
        return case


@pytest.fixture(scope="module")
def live(busybox_tar: Path, registry: str) -> Iterator[Live]:
    port = images.free_port()
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        running = Host(Path(directory), "-H", f"tcp://127.0.0.1:{port}")
        os.link(busybox_tar, Path(directory) / "busybox.tar")
        running.start()
        try:
            yield Live(running, f"http://127.0.0.1:{port}/v1.51", registry)
        finally:
            running.undo()


def describe(response: Any) -> str:
    return f"{response.request.method} {response.request.url} -> {response.status_code} {response.content[:600]!r}"


def check(case: schemathesis.Case, name: str, live: Live) -> None:
    """One request and all that its answer must keep."""
    response = case.call(base_url=live.url, timeout=TIMEOUT)
    excused = response.status_code in NO_SUCH_THING_HERE or any(
        text in response.content for text in DOCKERS_OWN_500
    )
    assert response.status_code < 500 or excused, describe(response)
    checks = [CHECKS.get_one(f"{kind}_conformance") for kind in ("status_code", "content_type")]
    case.validate_response(response, checks=checks)
    if response.status_code >= 400 or name not in STREAMED:
        case.validate_response(response, checks=[CHECKS.get_one("response_schema_conformance")])
        return
    for line in response.content.splitlines():
        single = copy.copy(response)
        single.content = line
        case.validate_response(single, checks=[CHECKS.get_one("response_schema_conformance")])


def try_operation(name: str, live: Live, settings: hypothesis.settings) -> None:
    operation = OPERATIONS[name]
    live.renew()
    targets = live.names(name, operation.path)

    @settings
    @hypothesis.given(operation.as_strategy(), strategies.sampled_from(targets))
    def attempt(case: schemathesis.Case, target: str | None) -> None:
        check(live.aimed(case, name, target), name, live)

    attempt()


CI = hypothesis.settings(
    max_examples=6,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
CHECKED = sorted(OPERATIONS.keys() - HIJACKED)


@pytest.mark.parametrize("name", CHECKED)
def test_answers_are_as_described(live: Live, name: str) -> None:
    try_operation(name, live, CI)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CHECKED)
def test_answers_are_as_described_for_long(live: Live, name: str) -> None:
    try_operation(name, live, hypothesis.settings(CI, max_examples=150, derandomize=False))

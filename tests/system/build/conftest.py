"""Builds on the session's daemon: a context is a dictionary of files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.host import ENVIRONMENT, Host

if TYPE_CHECKING:
    from tests.system.build.plugins import Buildx


class Builder:
    """`build(files)` with the stock client's classic door; what it says is returned."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host, self.directory = host, directory
        self.count = 0

    def context(self, files: Mapping[str, str | bytes]) -> Path:
        self.count += 1
        context = self.directory / f"context{self.count}"
        for name, content in files.items():
            path = context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return context

    def attempt(
        self, files: Mapping[str, str | bytes] | Path, *flags: str, timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        context = files if isinstance(files, Path) else self.context(files)
        command = ["docker", "-H", self.host.url, "build", *flags, str(context)]
        environment = {**ENVIRONMENT, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(self.directory / "none")}
        return subprocess.run(
            command,
            capture_output=True,
            env=environment,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def build(self, files: Mapping[str, str | bytes] | Path, *flags: str, timeout: float = 120) -> str:
        result = self.attempt(files, *flags, timeout=timeout)
        assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()
        return result.stdout.decode()

    def refused(self, files: Mapping[str, str | bytes] | Path, *flags: str) -> str:
        result = self.attempt(files, *flags)
        assert result.returncode != 0, result.stdout.decode()
        return result.stderr.decode()

    def run(self, image: str, *command: str) -> str:
        return self.host.docker("run", "--rm", "--network", "none", image, *command)

    def config(self, image: str) -> dict[str, Any]:
        return self.host.inspect(image)["Config"]  # type: ignore[no-any-return]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where no dockerd is beside us, what it said before is all there is to compare with."""
    asking = [item for item in items if item.get_closest_marker("peer")]
    if not asking:
        return
    from tests.system.build import peers

    if not peers.answers():
        config.hook.pytest_deselected(items=asking)
        items[:] = [item for item in items if item not in asking]


@pytest.fixture
def builder(host: Host, tmp_path: Path) -> Builder:
    return Builder(host, tmp_path)


@pytest.fixture
def buildx(host: Host, tmp_path: Path) -> Buildx:
    from tests.system.build.plugins import Buildx

    return Buildx(host, tmp_path)


@pytest.fixture
def leftovers(host: Host) -> Callable[[], list[str]]:
    """What builds may leave behind when they are over: nothing."""

    def look() -> list[str]:
        found = [str(path) for path in (host.data_root / "tmp").glob("build-*")]
        found += [str(path) for path in (host.exec_root / "build").glob("*")]
        found += [
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(host.directory) in line
        ]
        bundles = host.exec_root / "containers"
        found += os.listdir(bundles) if bundles.exists() else []
        return [each for each in found if "/netns" not in each]

    return look

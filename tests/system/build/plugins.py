"""buildx and Compose for the stock client, from Debian's unstable suite, in a DOCKER_CONFIG of the tests' own.

apt is pointed at that suite by options alone: the machine's own sources and lists are not touched, nothing is
installed. What was fetched is kept in the tests' cache.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.system import images
from tests.system.build.conftest import Builder
from tests.system.host import ENVIRONMENT, Host

SUITE = "sid"
PACKAGES = {"docker-buildx": "docker-buildx", "docker-compose": "docker-compose"}
"""Debian's names to the plugins'."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBOOTSTRAP = Path("/usr/sbin/debootstrap")
"""Knows a mirror where this machine's apt names none of Debian's."""


def plugins() -> Path:
    """A directory `cli-plugins` with both, fetched when the cache has none."""
    return images.kept("cli-plugins", _fetch)


def _fetch(work: Path) -> Path:
    for directory in ("lists/partial", "cache/archives/partial", "cli-plugins"):
        (work / directory).mkdir(parents=True)
    work.chmod(0o755)
    if not KEYRING.exists():
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "debian-archive-keyring"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Cache": work / "cache",
        "Dir::State::lists": work / "lists",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Check-Valid-Until": "false",  # signed it must be, but a frozen mirror's will do
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update", "-qq"], work)
    for package, plugin in PACKAGES.items():
        _run([*apt, "download", package], work)
        (archive,) = work.glob(f"{package}_*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(work / "root")], work)
        found = work / "root/usr/libexec/docker/cli-plugins" / plugin
        shutil.copy(found, work / "cli-plugins" / plugin)
    return work / "cli-plugins"


def _run(command: list[str], directory: Path) -> None:
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"


def _mirror() -> str:
    """The Debian mirror that this machine's apt is set up with, or debootstrap's."""
    if known := images.mirror():
        return known[0]
    found = re.search(r'DEF_MIRROR="(http[^"]+)"', DEBOOTSTRAP.read_text())
    assert found, f"no mirror in {DEBOOTSTRAP}"
    return found[1]


class Buildx(Builder):
    """The stock client with buildx, as people have it: `build(files)`, `docker(...)`, `compose(...)`."""

    def __init__(self, host: Host, directory: Path, url: str = "") -> None:
        super().__init__(host, directory)
        self.url = url or host.url
        self.config_directory = directory / "docker-config"
        self.config_directory.mkdir()
        (self.config_directory / "cli-plugins").symlink_to(plugins())
        self.environment = {
            **ENVIRONMENT,
            "DOCKER_CONFIG": str(self.config_directory),
            "DOCKER_HOST": self.url,
            "BUILDKIT_PROGRESS": "plain",
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
            "HOME": str(directory),
        }
        for name in ("DOCKER_BUILDKIT", "BUILDX_BUILDER", "SOURCE_DATE_EPOCH"):
            self.environment.pop(name, None)

    def try_docker(
        self,
        *arguments: str,
        input: bytes | None = None,
        timeout: float = 120,
        cwd: Path | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[bytes]:
        """Progress and errors are on stderr."""
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            env={**self.environment, **environment},
            timeout=timeout,
            check=False,
            cwd=cwd or self.directory,
            input=input if input is not None else b"",
        )

    def docker(self, *arguments: str, **options: object) -> str:
        """stdout of a command that succeeds."""
        return self._succeeded(self.try_docker(*arguments, **options)).stdout.decode()  # type: ignore[arg-type]

    def compose(self, *arguments: str, **options: object) -> str:
        """stdout and stderr of `docker compose`."""
        result = self._succeeded(self.try_docker("compose", *arguments, **options))  # type: ignore[arg-type]
        return result.stdout.decode() + result.stderr.decode()

    def attempt(self, files: object, *flags: str, timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
        context = files if isinstance(files, Path) else self.context(files)  # type: ignore[arg-type]
        return self.try_docker("build", *flags, str(context), timeout=timeout)

    def build(self, files: object, *flags: str, timeout: float = 120) -> str:
        """The plain progress."""
        return self._succeeded(self.attempt(files, *flags, timeout=timeout)).stderr.decode()

    @staticmethod
    def _succeeded(result: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[bytes]:
        assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()
        return result

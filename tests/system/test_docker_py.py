"""docker-py's own integration suite against pydd.

The tests come with docker-py's source distribution 7.0.0 (that of 7.1.0 has none) and run, unchanged, with
the installed library. It is downloaded into the test cache and unpacked beside the run, never copied here.
They speak API 1.43 as docker-py's own Makefile has them do. What they pull from Docker Hub comes from a
registry of our own that stands in for it as a mirror.

What does not run is named below with its reason; a name that the suite no longer has fails the test.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.system import images
from tests.system.host import ENVIRONMENT, Host

pytestmark = pytest.mark.slow

VERSION = "7.0.0"
API = "1.43"
LATER_API = "1.47"

FILES = (
    "api_build",
    "api_client",
    "api_container",
    "api_exec",
    "api_healthcheck",
    "api_image",
    "api_network",
    "api_volume",
    "client",
    "context_api",
    "errors",
    "models_containers",
    "models_images",
    "models_networks",
    "models_resources",
    "models_volumes",
    "regression",
)

WHOLE_FILES = {
    "api_config": "configs exist in a swarm only, and there is no swarm mode",
    "api_plugin": "managed plugins are not supported",
    "api_secret": "secrets exist in a swarm only",
    "api_service": "services exist in a swarm only",
    "api_swarm": "there is no swarm mode",
    "models_nodes": "nodes exist in a swarm only",
    "models_services": "services exist in a swarm only",
    "models_swarm": "there is no swarm mode",
}

_SWARM = "starts a swarm"
_ALIASES = "before API 1.45 dockerd 28 and pyd add the short ID to the aliases; run with a later API below"
_IPV6 = "IPv6 networks are not supported yet"
EXCLUDED = {
    "api_build_test.py::BuildTest::test_build_with_cache_from": (
        "expects --cache-from to shut out the engine's own cache, which BuildKit and pyd look at as well"
    ),
    "api_container_test.py::ContainerCPUTest::test_create_with_runtime": (
        "expects the daemon's default runtime to be called runc; ours is pyd"
    ),
    "api_container_test.py::AttachContainerTest::test_run_container_reading_socket_ws": (
        "docker-py has no websockets over Unix sockets; run over TCP below"
    ),
    "api_network_test.py::TestNetworks::test_connect_with_ipv6_address": _IPV6,
    "api_network_test.py::TestNetworks::test_create_network_ipv6_enabled": _IPV6,
    "api_network_test.py::TestNetworks::test_create_with_ipv6_address": _IPV6,
    "api_network_test.py::TestNetworks::test_create_inspect_network_with_scope": _SWARM,
    "api_network_test.py::TestNetworks::test_create_network_attachable": _SWARM,
    "api_network_test.py::TestNetworks::test_create_network_ingress": _SWARM,
    "models_containers_test.py::ContainerCollectionTest::test_run_with_image_that_does_not_exist": (
        "needs Docker Hub's own word that there is no such repository"
    ),
    "models_containers_test.py::ContainerCollectionTest::test_run_with_networking_config": _ALIASES,
    "models_containers_test.py::ContainerCollectionTest::"
    "test_run_with_networking_config_only_undeclared_network": _ALIASES,
    "models_containers_test.py::ContainerTest::test_exec_run_failed": (
        "expects exit code 126 for an unknown command; dockerd 28 and pyd give 127"
    ),
    "models_images_test.py::ImageCollectionTest::test_pull_with_sha": "names the digest of an image on Docker Hub",
}


@dataclass(frozen=True)
class Suite:
    """The unpacked suite, and the daemon it talks to."""

    directory: Path
    address: str
    tcp: str
    temporary: Path

    def run(self, *arguments: str, address: str = "", api: str = API) -> subprocess.CompletedProcess[str]:
        environment = {
            **ENVIRONMENT,
            "DOCKER_HOST": address or self.address,
            "DOCKER_TEST_API_VERSION": api,
            "HOME": str(self.temporary / "home"),
            "PYTHONPATH": str(self.directory / "extras"),
            "TMPDIR": str(self.temporary),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout",
            "60",
            *arguments,
        ]
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def suite(busybox_tar: Path, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    directory = tmp_path_factory.mktemp("docker-py")
    unpack(directory)
    port = images.free_port()
    with tempfile.TemporaryDirectory(prefix="pyd-") as own, shared_directory() as temporary:
        tcp = f"tcp://127.0.0.1:{port}"
        running = Host(Path(own), "-H", tcp, "--registry-mirror", f"http://{registry}")
        running.start()
        try:
            provide_images(running, busybox_tar, registry, directory)
            yield Suite(directory, running.url, tcp, temporary)
        finally:
            running.undo()


def unpack(directory: Path) -> None:
    """The suite; not the library beside it, which would hide the installed one."""
    with tarfile.open(distribution()) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if len(parts) > 1 and (parts[1] == "tests" or parts[1] == "pytest.ini"):
                member.name = str(Path(*parts[1:]))
                archive.extract(member, directory)
    _patient(directory / "tests/integration/api_build_test.py")
    extras = directory / "extras"
    pip("install", "--quiet", "--no-deps", "--target", str(extras), "websocket-client==1.8.0")
    # Imported for one isinstance, with a class of SSH connections; nothing here goes over SSH.
    (extras / "paramiko.py").write_text("class Channel:\n    pass\n")


def _patient(tests: Path) -> None:
    """Four of them read the log of a container that they have just started: with us it may not have ended by then."""
    text, count = re.subn(
        r"(\n +self\.client)\.start\(ctnr\)(\n +lsdata = )",
        r"\1.start(ctnr)\1.wait(ctnr)\2",
        tests.read_text(),
    )
    assert count == 4
    tests.write_text(text)


def distribution() -> Path:
    cache = images.CACHE / "docker-py"
    found = cache / f"docker-{VERSION}.tar.gz"
    if not found.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pip(
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "docker",
            f"docker=={VERSION}",
            "-d",
            str(cache),
        )
    return found


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


class shared_directory:
    """A directory on a mount that is shared: the suite binds its temporary directories with `rshared`."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="pyd-docker-py-"))
        subprocess.run(["mount", "--bind", self.path, self.path], check=True)
        subprocess.run(["mount", "--make-shared", self.path], check=True)
        (self.path / "home").mkdir()
        return self.path

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-R", self.path], check=True)
        subprocess.run(["rm", "-r", self.path], check=True)


def provide_images(running: Host, busybox: Path, registry: str, directory: Path) -> None:
    """busybox, alpine and hello-world, here and in the registry that stands in for Docker Hub."""
    tar = directory / "image.tar"
    for name in ("alpine:3.10", "alpine:latest", "busybox:latest", "hello-world:latest"):
        suite_image(busybox, tar, name)
        running.docker("import", "--change", 'CMD ["sh"]', "--message", name, str(tar), name)
        remote = f"{registry}/library/{name}"
        running.docker("tag", name, remote)
        running.docker("push", remote)
        running.docker("rmi", remote)
    running.docker("rmi", "hello-world:latest")


def suite_image(busybox: Path, target: Path, name: str) -> None:
    """Our busybox with what the suite expects of alpine: a user `postgres`, directories, a layer of its own."""
    users = {"passwd": b"postgres:x:70:70::/tmp:/bin/sh\n", "group": b"postgres:x:70:\n"}
    with tarfile.open(busybox) as source, tarfile.open(target, "w") as out:
        for member in source:
            file = source.extractfile(member) if member.isreg() else None
            data = file.read() if file else b""
            if member.name.startswith("./etc/"):
                data += users.get(Path(member.name).name, b"")
                member.size = len(data)
            out.addfile(member, BytesIO(data))
        for place in ("./var/opt", "./mnt", "./etc/apk"):
            made = tarfile.TarInfo(place)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            out.addfile(made)
        label = tarfile.TarInfo("./etc/image")
        label.size = len(name)
        out.addfile(label, BytesIO(name.encode()))


@pytest.mark.parametrize("name", FILES)
def test_docker_py_suite(suite: Suite, name: str) -> None:
    arguments = [f"tests/integration/{name}_test.py"]
    for test in EXCLUDED:
        if test.startswith(f"{name}_test.py::"):
            arguments += ["--deselect", f"tests/integration/{test}"]
    result = suite.run(*arguments)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


def test_docker_py_websocket_over_tcp(suite: Suite) -> None:
    name = "api_container_test.py::AttachContainerTest::test_run_container_reading_socket_ws"
    result = suite.run(f"tests/integration/{name}", address=suite.tcp)
    assert result.returncode == 0, result.stdout[-6000:]
    assert "1 passed" in result.stdout


def test_docker_py_aliases_with_a_later_api(suite: Suite) -> None:
    tests = [f"tests/integration/{test}" for test, reason in EXCLUDED.items() if reason == _ALIASES]
    result = suite.run(*tests, api=LATER_API)
    assert result.returncode == 0, result.stdout[-6000:]
    assert f"{len(tests)} passed" in result.stdout


def test_every_file_is_run_or_excluded_with_a_reason(suite: Suite) -> None:
    found = {
        path.name.removesuffix("_test.py")
        for path in (suite.directory / "tests/integration").glob("*_test.py")
    }
    assert found == {*FILES, *WHOLE_FILES}


def test_exclusions_name_tests_that_exist(suite: Suite) -> None:
    for test in EXCLUDED:
        file, _, name = test.split("::")
        assert f"def {name}(" in (suite.directory / "tests/integration" / file).read_text(), test

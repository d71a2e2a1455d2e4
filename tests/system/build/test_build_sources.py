"""What comes from elsewhere: git repositories, contexts by URL, base images from a registry, a mirror's packages."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.system import images
from tests.system.build.conftest import Builder
from tests.system.build.plugins import Buildx
from tests.system.host import Host


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A directory and the URL at which it is served."""
    root = tmp_path / "www"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    server.server_close()


@pytest.fixture
def repository(web: tuple[str, Path], builder: Builder) -> str:
    """A repository with a branch, a tag and a directory, over plain HTTP."""
    url, root = web
    work = builder.context({"sub/Dockerfile": "FROM busybox\nCOPY f /f\n", "sub/f": "from git", "top": "top"})
    names = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    bare = root / "repository.git"
    for command in (
        ["-C", str(work), "init", "-q", "-b", "main"],
        ["-C", str(work), "add", "."],
        ["-C", str(work), "commit", "-qm", "x"],
        ["-C", str(work), "tag", "v1"],
        ["clone", "-q", "--bare", str(work), str(bare)],
        ["-C", str(bare), "update-server-info"],
    ):
        subprocess.run(["git", *command], check=True, env={**os.environ, **names}, capture_output=True)
    return f"{url}/repository.git"


def test_a_git_repository_as_context(host: Host, builder: Builder, repository: str) -> None:
    host.pyd("build", "-t", "git", f"{repository}#main:sub")
    assert builder.run("git", "cat", "/f") == "from git"
    refused = host.try_pyd("build", f"{repository}#absent")
    assert refused.returncode == 1 and b"does not contain ref absent" in refused.stderr


def test_add_from_git(builder: Builder, repository: str) -> None:
    dockerfile = f"FROM busybox\nADD {repository}#v1 /a/\nADD --keep-git-dir {repository}#v1:sub /b/\n"
    builder.build({"Dockerfile": dockerfile}, "-t", "addgit")
    assert builder.run("addgit", "sh", "-c", "ls -A /a; ls /b").split() == ["sub", "top", "Dockerfile", "f"]


def test_contexts_by_url(host: Host, builder: Builder, web: tuple[str, Path]) -> None:
    url, root = web
    context = builder.context({"Dockerfile": "FROM busybox\nCOPY f /f\n", "f": "archived"})
    subprocess.run(["tar", "-C", str(context), "-czf", str(root / "context.tgz"), "."], check=True)
    (root / "plain").write_text("FROM busybox\nRUN echo plain > /f\n")
    host.pyd("build", "-t", "url:1", f"{url}/context.tgz")
    assert builder.run("url:1", "cat", "/f") == "archived"
    host.pyd("build", "-t", "url:2", f"{url}/plain")
    assert builder.run("url:2", "cat", "/f") == "plain\n"
    assert b"404" in host.try_pyd("build", f"{url}/absent.tgz").stderr


def test_submodules_or_not(buildx: Buildx, repository: str, web: tuple[str, Path]) -> None:
    url, root = web
    work = root / "outer"
    git = [
        "git",
        "-C",
        str(work),
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@x",
        "-c",
        "protocol.file.allow=always",
    ]
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    subprocess.run(
        [*git, "submodule", "--quiet", "add", repository, "inner"], check=True, capture_output=True
    )
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    bare = root / "outer.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "update-server-info"], check=True)
    outer = f"{url}/outer.git"
    files = {"Dockerfile": f"FROM busybox\nADD {outer} /with/\nADD {outer}?submodules=false /without/\n"}
    buildx.build(files, "-t", "submodules")
    assert buildx.run("submodules", "sh", "-c", "ls /with/inner; echo -; ls -A /without/inner").split() == [
        "sub", "top", "-",
    ]  # fmt: skip
    buildx.docker("rmi", "submodules")


class _Locked(_Quiet):
    """Opens for `Authorization: Bearer t0ken`; /away leads to another host's /seen, which notes what it is shown."""

    seen: ClassVar[list[str | None]] = []
    elsewhere = ""

    def do_GET(self) -> None:
        given = self.headers["Authorization"]
        if self.path == "/seen":
            self.seen.append(given)
        elif given != "Bearer t0ken":
            self.send_error(401)
            return
        elif self.path == "/away":
            self.send_response(302)
            self.send_header("Location", f"{self.elsewhere}/seen")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"in\n")


def test_urls_that_want_a_token(buildx: Buildx) -> None:
    """Secrets of BuildKit's names; no host is shown another's."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Locked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Locked.elsewhere = f"http://localhost:{server.server_port}"
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        files = buildx.context(
            {"Dockerfile": f"FROM busybox\nADD {url}/file /f\nADD {url}/away /g\nRUN cat /f /g\n"}
        )
        refused = buildx.try_docker("buildx", "build", str(files))
        assert b"invalid response status 401" in refused.stderr
        for name, value in (
            ("HTTP_AUTH_TOKEN_127.0.0.1", "t0ken"),
            ("HTTP_AUTH_HEADER_127.0.0.1", "Bearer t0ken"),
        ):
            flags = ("--no-cache", "--secret", f"id={name},env=SECRET")
            said = buildx.try_docker("buildx", "build", *flags, str(files), SECRET=value)
            assert said.returncode == 0 and said.stderr.count(b" in\n") == 2, said.stderr.decode()
        assert _Locked.seen == [None, None]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_c_program_from_scratch(builder: Builder, host: Host, debian: str) -> None:
    """A base from a registry, packages from the distribution with cache mounts, a static program of its own."""
    known = images.mirror()
    if not known:
        pytest.skip("this machine's apt knows no Debian mirror")
    mirror = known[0]
    try:
        urllib.request.urlopen(f"{mirror}/dists/bookworm/Release", timeout=20).close()
    except OSError as error:
        pytest.skip(f"no Debian mirror: {error}")
    dockerfile = f"""FROM {debian} AS build
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \\
    echo "deb [trusted=yes] {mirror} bookworm main" > /etc/apt/sources.list && \\
    apt-get -o Acquire::Check-Valid-Until=false update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY hello.c .
RUN gcc -Os -static -s -o /hello hello.c
FROM scratch
COPY --from=build /hello /hello
ENTRYPOINT ["/hello"]
"""
    program = '#include <unistd.h>\nint main(void) { write(1, "hello\\n", 6); return 0; }\n'
    builder.build({"Dockerfile": dockerfile, "hello.c": program}, "-t", "hello", timeout=170)
    assert builder.run("hello") == "hello\n"
    assert host.inspect("hello")["Size"] < 1 << 20

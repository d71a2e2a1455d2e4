"""What the stock client brings along for a build: directories, secrets, ssh agents, archives on its stdin."""

from __future__ import annotations

import base64
import bz2
import functools
import gzip
import http.server
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.build.plugins import Buildx
from tests.system.host import Host
from tests.system.images_registry import docker_registry, htpasswd


def transferred(said: str) -> int:
    """Bytes that the context was, as BuildKit counts: the list of files, and what was asked for."""
    found = re.findall(r"transferring context: ([0-9.]+)(B|kB|MB)", said.split("load build context", 1)[1])
    return int(float(found[-1][0]) * {"B": 1, "kB": 1000, "MB": 1_000_000}[found[-1][1]])


def test_only_what_changed_travels(buildx: Buildx) -> None:
    context = buildx.context({"Dockerfile": "FROM scratch\nCOPY . /\n", "a": os.urandom(300_000), "b/c": "1"})
    assert transferred(buildx.build(context)) > 300_000
    again = buildx.build(context)
    assert transferred(again) < 1000 and "CACHED" in again
    (context / "b/c").write_text("2")
    said = buildx.build(context, "-t", "changed")
    assert transferred(said) < 1000 and "CACHED" not in said
    (context / "a").unlink()
    (context / "a").symlink_to("b/c")
    buildx.build(context, "-t", "changed")
    archive = buildx.docker("create", "changed", "x").strip()
    try:
        data = buildx.try_docker("cp", f"{archive}:/a", "-").stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert tar.getmembers()[0].linkname == "b/c"
    finally:
        buildx.docker("rm", archive)


def test_a_dockerfile_that_copies_other_files_brings_only_those(buildx: Buildx) -> None:
    context = buildx.context(
        {"Dockerfile": "FROM scratch\nCOPY a /\n", "a": os.urandom(200_000), "b": os.urandom(100_000)}
    )
    assert 200_000 < transferred(buildx.build(context)) < 250_000
    (context / "Dockerfile").write_text("FROM scratch\nCOPY a b /\n")
    assert 100_000 < transferred(buildx.build(context)) < 150_000


SECRETS = """FROM busybox
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" && stat -c '%a %u' /run/secrets/token > /mode
RUN --mount=type=secret,id=token,target=/t,mode=0440,uid=7,gid=8 stat -c '%a %u %g' /t >> /mode && ! touch /t
RUN --mount=type=secret,id=variable,env=TOKEN test "$TOKEN" -a ! -e /run/secrets
RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing
RUN test ! -e /run/secrets -a -z "$TOKEN"
"""


def test_secrets_leave_no_trace(buildx: Buildx, host: Host, leftovers: Callable[[], list[str]]) -> None:
    secret = f"very-secret-{os.urandom(8).hex()}"
    (buildx.directory / "token").write_text(secret)
    context = buildx.context({"Dockerfile": SECRETS})
    flags = ("--secret", f"id=token,src={buildx.directory}/token", "--secret", "id=variable,env=FROM_HERE")
    result = buildx.try_docker("build", *flags, "-t", "secrets", str(context), FROM_HERE=f"{secret}-too")
    assert result.returncode == 0, result.stderr.decode()
    assert buildx.run("secrets", "cat", "/mode") == "400 0\n440 7 8\n"
    command = ["grep", "-rlF", secret, str(host.data_root), str(host.exec_root), str(host.log)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""
    assert leftovers() == []
    said = buildx.refused(
        {"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=x,required cat /run/secrets/x"}
    )
    assert "secret x: not found" in said


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An ssh agent's socket, and the fingerprint of the key that it has."""
    key, address = tmp_path / "key", tmp_path / "agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    serving = subprocess.Popen(["ssh-agent", "-D", "-a", address], stdout=subprocess.DEVNULL)
    try:
        while not address.exists():
            assert serving.poll() is None
            time.sleep(0.02)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(address)}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True, capture_output=True)
        shown = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout
        yield address, shown.split()[1]
    finally:
        serving.terminate()
        serving.wait()


def programs(*names: str) -> dict[str, bytes]:
    """Programs of this machine and the libraries that they need, as files of a context."""
    found = {}
    for name in names:
        program = shutil.which(name)
        assert program is not None
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in (program, *re.findall(r"(/\S+) \(0x", listed)):
            found[f"tools{path}"] = Path(path).resolve().read_bytes()
    return found


SSH = """FROM busybox
COPY --chmod=755 tools /
RUN --mount=type=ssh ssh-add -l > /keys && stat -c '%a %u %g %F' "$SSH_AUTH_SOCK" > /socket
RUN --mount=type=ssh,id=other,target=/s,uid=5,gid=6,mode=0666 stat -c '%a %u %g %F' /s >> /socket && \\
  SSH_AUTH_SOCK=/s ssh-add -l
RUN --mount=type=ssh,id=missing test ! -e "$SSH_AUTH_SOCK"
RUN test ! -e /run/buildkit/ssh_agent.0
"""


def test_ssh_agents_answer_steps(
    buildx: Buildx, agent: tuple[Path, str], leftovers: Callable[[], list[str]]
) -> None:
    address, fingerprint = agent
    context = buildx.context({"Dockerfile": SSH, **programs("ssh-add")})
    flags = ("--ssh", f"default={address}", "--ssh", f"other={address}")
    buildx.build(context, *flags, "-t", "agents")
    assert fingerprint in buildx.run("agents", "cat", "/keys")
    assert buildx.run("agents", "cat", "/socket") == "600 0 0 socket\n666 5 6 socket\n"
    assert leftovers() == []
    said = buildx.refused({"Dockerfile": "FROM busybox\nRUN --mount=type=ssh,required true"})
    assert "unset ssh forward key default" in said


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["none", "gzip", "xz", "bzip2"])
def test_a_context_from_stdin(buildx: Buildx, compression: str) -> None:
    data = archive({"Dockerfile": "FROM busybox\nCOPY x /\n", "x": compression})
    pack = {"none": bytes, "gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}
    result = buildx.try_docker("build", "-t", "stdin", "-", input=pack[compression](data))
    assert result.returncode == 0, result.stderr.decode()
    assert buildx.run("stdin", "cat", "/x") == compression


def test_dockerfiles_from_stdin(buildx: Buildx) -> None:
    text = b"FROM busybox\nRUN echo alone > /x\n"
    result = buildx.try_docker("build", "-t", "stdin", "-", input=text)
    assert result.returncode == 0, result.stderr.decode()
    assert buildx.run("stdin", "cat", "/x") == "alone\n"
    context = buildx.context({"y": "beside"})
    result = buildx.try_docker(
        "build", "-t", "stdin", "-f", "-", str(context), input=b"FROM busybox\nCOPY y /\n"
    )
    assert result.returncode == 0, result.stderr.decode()
    assert buildx.run("stdin", "cat", "/y") == "beside"


def test_a_directory_is_exported_as_it_is(buildx: Buildx) -> None:
    files = {
        "Dockerfile": "FROM busybox AS b\nRUN mkdir -p /o/d && echo 1 > /o/d/f && chmod 640 /o/d/f && ln -s d/f /o/l "
        "&& ln /o/d/f /o/d/hard && head -c 3000000 /dev/zero > /o/big\nFROM scratch\nCOPY --from=b /o /\n"
    }
    out = buildx.directory / "out"
    buildx.build(files, "-o", str(out))
    assert (out / "d/f").read_text() == "1\n" and (out / "d/f").stat().st_mode & 0o777 == 0o640
    assert os.readlink(out / "l") == "d/f" and (out / "d/hard").samefile(out / "d/f")
    assert (out / "big").stat().st_size == 3_000_000


class _Locked(http.server.SimpleHTTPRequestHandler):
    """Serves those who bring the right header."""

    wanted = ""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") == self.wanted:
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def locked(buildx: Buildx) -> Iterator[str]:
    """A git repository that wants a token: "hush"."""
    work = buildx.context({"Dockerfile": "FROM busybox\nCOPY f /f\n", "f": "from a locked repository"})
    names = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    root = buildx.directory / "www"
    for command in (
        ["-C", str(work), "init", "-q", "-b", "main"],
        ["-C", str(work), "add", "."],
        ["-C", str(work), "commit", "-qm", "x"],
        ["clone", "-q", "--bare", str(work), str(root / "repository.git")],
        ["-C", str(root / "repository.git"), "update-server-info"],
    ):
        subprocess.run(["git", *command], check=True, env={**os.environ, **names}, capture_output=True)
    token = base64.b64encode(b"x-access-token:hush").decode()
    handler = type("Locked", (_Locked,), {"wanted": f"basic {token}"})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(root))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/repository.git"
    server.shutdown()
    server.server_close()


def test_locked_repositories_open_with_a_token(buildx: Buildx, host: Host, locked: str) -> None:
    refused = buildx.try_docker("build", locked)
    assert refused.returncode != 0 and b"could not read Username" in refused.stderr
    flags = ("--secret", "id=GIT_AUTH_TOKEN,env=TOKEN", "-t", "locked")
    result = buildx.try_docker("build", *flags, locked, TOKEN="hush")
    assert result.returncode == 0, result.stderr.decode()
    assert buildx.run("locked", "cat", "/f") == "from a locked repository"
    added = {"Dockerfile": f"FROM busybox\nADD --keep-git-dir {locked} /r\nRUN ! grep -r hush /r\n"}
    result = buildx.try_docker("build", *flags, str(buildx.context(added)), TOKEN="hush")
    assert result.returncode == 0, result.stderr.decode()
    host_name = locked.split("/")[2]
    flags = ("--secret", f"id=GIT_AUTH_HEADER.{host_name},env=HEADER")
    header = "basic " + base64.b64encode(b"x-access-token:hush").decode()
    added = {"Dockerfile": f"FROM busybox\nADD {locked} /again\n"}
    assert buildx.try_docker("build", *flags, str(buildx.context(added)), HEADER=header).returncode == 0


def test_base_images_come_with_the_clients_credentials(buildx: Buildx, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "locked", htpasswd("anna", "secret")) as address:
        buildx.docker("login", "-u", "anna", "-p", "secret", address)
        name = f"{address}/base:1"
        buildx.docker("tag", "busybox", name)
        try:
            buildx.docker("push", "-q", name)
        finally:
            buildx.docker("rmi", name)
        context = buildx.context({"Dockerfile": f"FROM {name}\nRUN echo with credentials > /x\n"})
        buildx.build(context, "--pull", "-t", "with-credentials")
        assert buildx.run("with-credentials", "cat", "/x") == "with credentials\n"
        buildx.docker("logout", address)
        refused = buildx.attempt(context, "--pull")
        assert refused.returncode != 0 and b"no basic auth credentials" in refused.stderr, refused.stderr

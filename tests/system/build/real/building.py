"""Builds a kind of image through one of the doors: `pyd build`, or `docker buildx build` on pyd or on a dockerd."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.build.real import machine
from tests.system.build.real.comparing import Image, masked, saved
from tests.system.build.real.kinds import Kind
from tests.system.host import ENVIRONMENT, REPOSITORY

IGNORED = ("dev", "dev/*", "proc", "sys", "run", "run/*", "etc/resolv.conf", "etc/hosts", "etc/mtab")
"""What a step's mounts leave behind in BuildKit's layers, and a base image may have or not."""


@dataclass(frozen=True)
class Surroundings:
    """What the contexts' placeholders stand for: `{web}`, `{archive_sum}`, `{agent}`; `{context}` comes with a kind."""

    values: Mapping[str, str]
    secrets: Mapping[str, Path]

    def fill(self, text: str, context: Path) -> str:
        for name, value in {**self.values, "context": str(context)}.items():
            text = text.replace("{" + name + "}", value)
        return text

    @property
    def texts(self) -> dict[str, str]:
        """What is masked in histories."""
        return {value: "{" + name + "}" for name, value in self.values.items()}


@dataclass(frozen=True)
class Door:
    """`host` is the engine's address; `command` what builds there."""

    host: str
    command: tuple[str, ...]
    environment: Mapping[str, str]

    def build(self, kind: Kind, tree: Path, around: Surroundings, *more: str, timeout: float = 170) -> None:
        for context, tag in kind.before:
            self._run(str(tree / context), "-t", tag, timeout=timeout)
        words = [around.fill(flag, tree) for flag in kind.flags]
        for name in kind.secrets:
            words += ["--secret", f"id={name},src={around.secrets[name]}"]
        for name, value in machine.arguments().items():
            words += ["--build-arg", f"{name}={value}"]
        self._run(str(tree / kind.context), "-t", kind.tag, *words, *more, timeout=timeout)

    def _run(self, context: str, *flags: str, timeout: float) -> None:
        done = subprocess.run(
            [*self.command, *flags, context],
            capture_output=True,
            env={**ENVIRONMENT, **self.environment},
            cwd=REPOSITORY,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, said[-4000:]

    def image(self, kind: Kind, base: Image | None, around: Surroundings, directory: Path) -> Image:
        """What the kind's image has beyond its base's, without what must differ."""
        whole = saved(self.host, kind.tag, directory, base)
        return masked(whole.since(base) if base else whole, kind.varying, IGNORED, around.texts)

    def remove(self, *tags: str) -> None:
        subprocess.run(["docker", "-H", self.host, "rmi", "-f", *tags], capture_output=True, check=False)


def pyd_door(host: str) -> Door:
    return Door(host, (sys.executable, "-m", "client.main", "-H", host, "build", "-q"), {})


def buildx_door(host: str, config: Path) -> Door:
    """`config`: a client's directory with the plugin in it."""
    command = ("docker", "-H", host, "buildx", "build", "--provenance=false", "--progress=plain")
    return Door(host, command, {"DOCKER_CONFIG": str(config)})


def checkout(kind: Kind, directory: Path) -> Path:
    """The kind's files with a fresh clone's modes, whatever umask this one was made with."""
    tree = directory / kind.name
    shutil.copytree(kind.path, tree, symlinks=True)
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    if kind.name == "add-sources":
        (tree / "local.tar.xz").write_bytes(archive(lzma.compress))
    if kind.name == "secrets-ssh":
        (tree / "token").write_text("s3cret")
    return tree


def without_syntax(tree: Path) -> None:
    """Takes out `# syntax=`: an engine would fetch the front end that it names from where none is reachable."""
    for path in tree.rglob("Dockerfile"):
        path.write_text(path.read_text().replace("# syntax=", "# needs "))


def archive(pack: Callable[[bytes], bytes]) -> bytes:
    """A small archive, the same bytes each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, mode_, owner in (("tool-1.0/bin/tool", 0o755, 0), ("tool-1.0/share/doc", 0o640, 7)):
            content = f"this is {name}\n".encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), mode_, owner, owner
            made.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("tool-1.0/tool")
        link.type, link.linkname = tarfile.SYMTYPE, "bin/tool"
        made.addfile(link)
    return pack(out.getvalue())


@contextmanager
def web(root: Path) -> Iterator[dict[str, str]]:
    """A server with an archive, a script and a git repository; the values of `{web}` and `{archive_sum}`."""
    root.mkdir()
    packed = archive(functools.partial(gzip.compress, compresslevel=0, mtime=0))
    (root / "tool-1.0.tar.gz").write_bytes(packed)
    (root / "script.sh").write_text("#!/bin/sh\necho fetched\n")
    _repository(root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        digest = hashlib.sha256(packed).hexdigest()
        yield {"web": f"http://127.0.0.1:{server.server_port}", "archive_sum": digest}
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _repository(root: Path) -> None:
    """`repository.git`: a tag v1.0 and a later commit, with the same names and times each time."""
    work = root / "work"
    (work / "lib/deep").mkdir(parents=True)
    who = {f"GIT_{role}_{what}": "x@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": "2024-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}

    def git(*words: str) -> None:
        command = ["git", "-C", str(work), *words]
        subprocess.run(command, check=True, env={**os.environ, **who, **when}, capture_output=True)

    git("init", "-q", "-b", "main")
    for name, content in (("lib/deep/file", "library\n"), ("README", "read me\n")):
        (work / name).write_text(content)
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "link").symlink_to("run.sh")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1.0")
    (work / "lib/later").write_text("later\n")
    git("add", ".")
    git("commit", "-qm", "two")
    git("clone", "-q", "--bare", str(work), str(root / "repository.git"))
    subprocess.run(["git", "-C", str(root / "repository.git"), "update-server-info"], check=True)
    shutil.rmtree(work)


@contextmanager
def ssh_agent(directory: Path) -> Iterator[dict[str, str]]:
    """An agent with one key; the value of `{agent}`."""
    key, socket = directory / "key", directory / "agent.sock"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "deploy", "-f", str(key)], check=True
    )
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            added = subprocess.run(
                ["ssh-add", "-q", str(key)],
                env={**os.environ, "SSH_AUTH_SOCK": str(socket)},
                capture_output=True,
                check=False,
            )
            if added.returncode == 0:
                break
        yield {"agent": str(socket)}
    finally:
        agent.terminate()
        agent.wait()

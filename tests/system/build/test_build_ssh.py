"""Repositories over ssh: a real server, the client's own agent, host keys as the source asks for them."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.build.plugins import Buildx
from tests.system.build.real import building
from tests.system.build.test_build_policies import VARIABLE
from tests.system.images import free_port


@dataclass(frozen=True)
class Server:
    url: str
    """Of the repository."""
    hosts: str
    """A line of known_hosts."""
    agent: str
    """The socket of an agent with the key that the server takes."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """dropbear (Debian's dropbear-bin) for root, whose home is a directory of the test's own to it alone."""
    port, home, key = free_port(), tmp_path / "home", tmp_path / "host-key"
    with building.web(tmp_path / "www"), building.ssh_agent(tmp_path) as agent:
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(tmp_path / "key.pub", home / ".ssh/authorized_keys")
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chmod(path, 0o700)
        made = subprocess.run(
            ["dropbearkey", "-t", "ed25519", "-f", str(key)], check=True, capture_output=True, text=True
        )
        public = next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519"))
        serve = [
            "dropbear",
            "-F",
            "-E",
            "-s",
            "-p",
            f"127.0.0.1:{port}",
            "-r",
            str(key),
            "-P",
            str(tmp_path / "pid"),
        ]
        mount = ["mount", "--bind", str(home), pwd.getpwuid(0).pw_dir]
        script = f"{shlex.join(mount)} && exec {shlex.join(serve)}"
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=log, stderr=log)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            hosts = f"[127.0.0.1]:{port} {' '.join(public.split()[:2])}\n"
            repository = tmp_path / "www/repository.git"
            yield Server(f"ssh://root@127.0.0.1:{port}{repository}", hosts, agent["agent"])
        finally:
            process.terminate()
            process.wait()


def test_add_with_the_clients_agent(buildx: Buildx, server: Server) -> None:
    files = {"Dockerfile": f"FROM busybox\nADD {server.url}#v1.0 /g\nADD {server.url}#main:lib /l\n"}
    context = buildx.context(files)
    agent = ("--ssh", f"default={server.agent}")
    buildx.docker("buildx", "build", "-t", "ssh-add", *agent, str(context))
    assert buildx.run("ssh-add", "sh", "-c", "ls -A /g; ls /l").split() == [
        "README", "lib", "link", "run.sh", "deep", "later",
    ]  # fmt: skip
    buildx.docker("rmi", "ssh-add")
    without = buildx.try_docker("buildx", "build", "--no-cache", str(context))
    assert b"failed to solve: unset ssh forward key default" in without.stderr  # as dockerd 28.5 says it


def test_an_agent_without_the_key(buildx: Buildx, server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with building.ssh_agent(tmp_path / "other") as other:
        context = buildx.context({"Dockerfile": f"FROM scratch\nADD {server.url} /g\n"})
        refused = buildx.try_docker("buildx", "build", "--ssh", f"default={other['agent']}", str(context))
    assert refused.returncode != 0 and b"Permission denied" in refused.stderr


def test_a_private_repository_is_the_context(buildx: Buildx, server: Server) -> None:
    files = buildx.context({"Dockerfile": "FROM busybox\nCOPY lib/deep/file /\nRUN cat /file\n"})
    flags = ("--ssh", f"default={server.agent}", "--build-context", f"code={server.url}")
    (files / "Dockerfile").write_text("FROM busybox\nCOPY --from=code lib/deep/file /\nRUN cat /file\n")
    said = buildx.try_docker("buildx", "build", "--no-cache", *flags, str(files))
    assert said.returncode == 0 and b"library" in said.stderr, said.stderr.decode()
    command = ("-f", "-", "--ssh", f"default={server.agent}", server.url)
    said = buildx.try_docker(
        "buildx", "build", *command, input=b"FROM busybox\nCOPY README /\nRUN cat /README\n"
    )
    assert said.returncode == 0 and b"read me" in said.stderr, said.stderr.decode()


def test_known_hosts_are_held_to(buildx: Buildx, server: Server, tmp_path: Path) -> None:
    """A source that brings keys of hosts (here by a policy) is read from no other host."""
    context = buildx.context({"Dockerfile": f"FROM busybox\nADD {server.url} /g\n"})
    policy = tmp_path / "policy.json"
    wrong = (
        server.hosts.split()[0]
        + " ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
    )
    for hosts, code in ((server.hosts, 0), (wrong, 1)):
        updates = {"identifier": "${0}", "attrs": {"git.knownsshhosts": hosts}}
        rule = {"action": "CONVERT", "selector": {"identifier": "git://*"}, "updates": updates}
        policy.write_text(json.dumps({"rules": [rule]}))
        flags = ("--no-cache", "--ssh", f"default={server.agent}", str(context))
        built = buildx.try_docker("buildx", "build", *flags, **{VARIABLE: str(policy)})
        assert built.returncode == code, built.stderr.decode()
    assert b"Host key verification failed" in built.stderr

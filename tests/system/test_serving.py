"""A live pydd as clients find it: TLS with the stock client, its contexts and DOCKER_HOST, and SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.system import conftest, images
from tests.system.host import ENVIRONMENT, REPOSITORY, Host
from tests.system.options.bench import Bench


@dataclass(frozen=True)
class Secure:
    """A pydd that speaks TLS; `client` is the certificates' directory, laid out as docker expects it."""

    host: Host
    url: str
    client: Path

    def docker(self, *words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return self.host.run(self.command(*words), input=input)

    def command(self, *words: str) -> list[str]:
        files = [f"--tlscacert={self.client}/ca.pem", f"--tlscert={self.client}/cert.pem"]
        return ["docker", "-H", self.url, "--tlsverify", *files, f"--tlskey={self.client}/key.pem", *words]


def write_certificates(directory: Path, authority: trustme.CA, name: str) -> None:
    directory.mkdir()
    issued = authority.issue_cert("localhost", "127.0.0.1", common_name=name)
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued.private_key_pem.write_to_path(str(directory / "key.pem"))
    for number, piece in enumerate(issued.cert_chain_pems):
        piece.write_to_path(str(directory / "cert.pem"), append=number > 0)


@pytest.fixture(scope="module")
def secure(busybox_tar: Path) -> Iterator[Secure]:
    """--tlsverify on a port of 127.0.0.1; the unix socket beside it stays plain."""
    port = images.free_port()
    with tempfile.TemporaryDirectory(prefix="pyd-") as name:
        directory, authority = Path(name), trustme.CA()
        write_certificates(directory / "server", authority, "server")
        write_certificates(directory / "client", authority, "client")
        write_certificates(directory / "stranger", trustme.CA(), "stranger")
        files = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
        flags = [f"--{flag}={directory}/server/{file}" for flag, file in files.items()]
        host = Host(directory, "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", *flags)
        host.start()
        try:
            conftest.load_busybox(host, busybox_tar)
            yield Secure(host, f"tcp://127.0.0.1:{port}", directory / "client")
        finally:
            host.undo()


# -- TLS


def test_tls_run_exec_and_attach_with_stdin(secure: Secure) -> None:
    """Everything that takes the connection over, data both ways, the end of stdin seen inside."""
    data = os.urandom(3_000_000)
    done = secure.docker("run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo err >&2; exit 3", input=data)
    assert (done.returncode, done.stdout == data, done.stderr) == (3, True, b"err\n")
    secure.docker("run", "-d", "--name", "tls", "-i", "busybox", "sh", "-c", "cat; sleep 60")
    done = secure.docker("exec", "-i", "tls", "wc", "-c", input=data)
    assert (done.returncode, done.stdout) == (0, b"3000000\n")
    with subprocess.Popen(
        secure.command("attach", "tls"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as client:
        assert client.stdin and client.stdout
        client.stdin.write(b"through\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"through\n"
        client.kill()
    assert secure.docker("rm", "-f", "tls").returncode == 0


def test_pyd_over_tls_with_stdin(secure: Secure) -> None:
    """The end of stdin is told and what is printed after it still comes, whatever the sizes."""

    def pyd(*words: str, input: bytes) -> subprocess.CompletedProcess[bytes]:
        return secure.host.run(
            [sys.executable, "-m", "client.main", *secure.command(*words)[1:]], input=input
        )

    data = os.urandom(5_000_000)
    for sent in (b"", b"x\n", data):
        done = pyd("run", "-i", "--rm", "busybox", "cat", input=sent)
        assert (done.returncode, done.stdout == sent) == (0, True), (len(sent), done.stderr)
    late = pyd("run", "-i", "--rm", "busybox", "sh", "-c", "wc -c; sleep 0.3; echo late; exit 5", input=data)
    assert (late.returncode, late.stdout) == (5, b"5000000\nlate\n")
    secure.docker("run", "-d", "--name", "tls", "busybox", "sleep", "60")
    done = pyd("exec", "-i", "tls", "sh", "-c", "head -c 3000000 /dev/zero; wc -c", input=data)
    assert (done.returncode, len(done.stdout), done.stdout[-8:]) == (0, 3_000_008, b"5000000\n"), done.stderr
    assert secure.docker("rm", "-f", "tls").returncode == 0


def test_tls_builds_with_buildx(secure: Secure, tmp_path: Path) -> None:
    """Both of BuildKit's connections, hijacked over TLS: a context that comes, an archive that goes."""
    from tests.system.build.plugins import Buildx

    buildx = Buildx(secure.host, tmp_path, secure.url)
    buildx.environment |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(secure.client)}
    data = os.urandom(3_000_000)
    context = buildx.context({"Dockerfile": "FROM busybox\nCOPY big /big\nRUN wc -c /big\n", "big": data})
    assert "3000000 /big" in buildx.build(context)
    taken = tmp_path / "taken"
    scratch = buildx.context({"Dockerfile": "FROM scratch\nCOPY big /big\n", "big": data})
    buildx.build(scratch, "-o", str(taken))
    assert (taken / "big").read_bytes() == data


def test_tls_terminal(secure: Secure) -> None:
    script = " ".join([*secure.command("run", "--rm", "-it", "busybox"), "sh -c 'tty; stty size; exit 4'"])
    done = secure.host.run(["script", "-qec", f"stty rows 33 cols 77; {script}", "/dev/null"])
    assert done.returncode == 4, done
    assert b"/dev/pts/0" in done.stdout
    assert b"33 77" in done.stdout


def test_tls_streams_end_with_the_client(secure: Secure) -> None:
    """logs -f and events: lines come as they are made."""
    secure.docker(
        "run", "-d", "--name", "chatty", "busybox", "sh", "-c", "while :; do echo x; sleep 0.1; done"
    )
    with subprocess.Popen(
        secure.command("logs", "-f", "chatty"), stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as client:
        assert client.stdout
        assert [client.stdout.readline() for _ in range(3)] == [b"x\n"] * 3
        client.kill()
    assert secure.docker("rm", "-f", "chatty").returncode == 0


def test_tls_strangers_are_refused(secure: Secure) -> None:
    stranger = Secure(secure.host, secure.url, secure.client.with_name("stranger"))
    assert stranger.docker("ps").returncode != 0
    plain = secure.host.run(
        ["curl", "-s", "--cacert", f"{secure.client}/ca.pem", f"https{secure.url[3:]}/_ping"]
    )
    assert (plain.returncode != 0, plain.stdout) == (True, b"")
    unencrypted = secure.host.run(["docker", "-H", secure.url, "ps"])
    assert unencrypted.returncode != 0
    assert secure.docker("ps").returncode == 0


def test_tls_from_the_environment_and_with_pyd(secure: Secure) -> None:
    """DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, as docker's manual has them."""
    environment = {
        **ENVIRONMENT,
        "DOCKER_HOST": secure.url,
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(secure.client),
    }
    for program in (["docker"], [sys.executable, "-m", "client.main"]):
        command = [*program, "run", "--rm", "busybox", "echo", "in"]
        done = subprocess.run(
            command,
            input=b"in",
            capture_output=True,
            env=environment,
            cwd=REPOSITORY,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, b"in\n"), done


# -- which daemon is meant


@pytest.mark.parametrize("client", ["docker", "pyd"])
def test_contexts_and_docker_host(host: Host, tmp_path: Path, client: str) -> None:
    """A context names the daemon; DOCKER_HOST outdoes it, -H outdoes both; --context chooses another."""
    environment = {**ENVIRONMENT, "DOCKER_CONFIG": str(tmp_path)}
    base = Bench(host, client, tmp_path).command("ls")[:-4]

    def ask(*words: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        command = [*base, *words]
        return subprocess.run(
            command, capture_output=True, env={**environment, **more}, cwd=REPOSITORY, check=False, timeout=20
        )

    nowhere = f"unix://{tmp_path}/none.sock"
    made = ask("context", "create", "there", "--docker", f"host={host.url}", "--description", "a pydd")
    assert made.returncode == 0, made
    assert ask("context", "create", "nowhere", "--docker", f"host={nowhere}").returncode == 0
    assert ask("--context", "there", "images", "-q").stdout
    assert ask("context", "use", "there").returncode == 0
    assert ask("context", "show").stdout == b"there\n"
    assert ask("images", "-q").stdout
    assert host.url in ask("context", "ls").stdout.decode()
    shown = json.loads(ask("context", "inspect", "there").stdout)[0]
    assert shown["Endpoints"]["docker"]["Host"] == host.url
    assert ask("--context", "nowhere", "images").returncode != 0
    assert ask("images", DOCKER_HOST=nowhere).returncode != 0
    assert ask("-H", host.url, "images", "-q", DOCKER_HOST=nowhere).stdout
    assert ask("images", "-q", DOCKER_CONTEXT="there").stdout
    assert ask("context", "use", "default").returncode == 0
    assert ask("images", "-q", DOCKER_HOST=host.url).stdout
    assert ask("context", "rm", "there", "nowhere").returncode == 0


# -- SIGHUP


def test_sighup_reloads_what_may_be_reloaded(busybox_tar: Path, tmp_path: Path) -> None:
    """labels, registries, runtimes and the log level; a broken file changes nothing and stops nobody."""
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"labels": ["a=1"], "max-concurrent-downloads": 3}))
    with tempfile.TemporaryDirectory(prefix="pyd-") as directory:
        host = Host(Path(directory), "--config-file", str(file))
        host.start()
        try:
            assert _info(host)["Labels"] == ["a=1"]
            changed = {
                "labels": ["b=2"],
                "debug": True,
                "insecure-registries": ["plain.example:5000"],
                "registry-mirrors": ["https://mirror.example/"],
                "runtimes": {"mine": {"path": "/usr/bin/false"}},
                "max-concurrent-downloads": 7,
                "bip": "10.99.0.1/16",
            }
            _reload(host, file, json.dumps(changed))
            info = _info(host)
            assert (info["Labels"], info["Debug"]) == (["b=2"], True)
            assert "plain.example:5000" in info["RegistryConfig"]["IndexConfigs"]
            assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.example/"]
            assert info["Runtimes"]["mine"]["path"] == "/usr/bin/false"
            assert "10.99." not in host.docker("network", "inspect", "bridge")
            (event,) = _reload_events(host)
            assert json.loads(event["Actor"]["Attributes"]["labels"]) == ["b=2"]
            assert event["Actor"]["Attributes"]["max-concurrent-downloads"] == "7"
            _reload(host, file, "{")
            time.sleep(0.5)
            moving = ("SystemTime", "NFd", "NGoroutines")
            after = _info(host)
            assert {k: v for k, v in after.items() if k not in moving} == {
                k: v for k, v in info.items() if k not in moving
            }
            assert "configuration not reloaded" in host.log.read_text()
        finally:
            host.undo()


def _info(host: Host) -> dict[str, object]:
    return json.loads(host.docker("info", "--format", "{{json .}}"))  # type: ignore[no-any-return]


def _reload_events(host: Host) -> list[dict[str, dict[str, dict[str, str]]]]:
    now = int(time.time())
    words = (
        "--since",
        str(now - 60),
        "--until",
        str(now + 1),
        "--filter",
        "event=reload",
        "--format",
        "{{json .}}",
    )
    return [json.loads(line) for line in host.docker("events", *words).splitlines()]


def _reload(host: Host, file: Path, text: str) -> None:
    """SIGHUP with a new file, and what it leads to."""
    said = host.log.read_text().count("eloaded")
    file.write_text(text)
    assert host.process
    host.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while host.log.read_text().count("eloaded") == said:
        assert time.monotonic() < deadline, "no answer to SIGHUP"
        time.sleep(0.05)

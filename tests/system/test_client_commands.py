"""The `pyd` command against a running pydd, beside the stock docker command: same output, same exit codes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run(program: list[str], host: str, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [*program, "-H", host, *words], input=stdin, capture_output=True, check=False, cwd=ROOT
    )
    return done.returncode, done.stdout, done.stderr


def pyd(host: str, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    return _run([sys.executable, "-m", "client.main"], host, *words, stdin=stdin)


def docker(host: str, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    code, out, err = _run(["docker"], host, *words, stdin=stdin)
    return code, out, err.replace(b"docker", b"pyd")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--rm", "busybox", "echo", "hi"),
        ("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"),
        ("run", "--rm", "busybox", "no-such-command"),
        ("run", "--rm", "busybox", "/etc"),
        ("run", "--rm", "-w", "/tmp", "-e", "A=b", "busybox", "sh", "-c", "echo $A $PWD"),
        ("run", "--rm", "-v", "/no/such:/x:badmode", "busybox", "true"),
        ("run", "-m", "1m", "--rm", "busybox", "true"),
        ("ps", "-a"),
        ("ps", "--filter", "nope=x"),
        ("images", "--format", "{{.Repository}}:{{.Tag}}"),
        ("inspect", "--type", "image", "busybox"),
        ("inspect", "nope"),
        ("version", "-f", "{{json .Server}} {{.Server.APIVersion}}"),
        ("network", "ls"),
        ("volume", "ls"),
        ("rm", "nope"),
        ("logs", "nope"),
        ("exec", "nope", "true"),
    ],
)
def test_pyd_says_what_docker_says(pyd_host: str, words: tuple[str, ...]) -> None:
    assert pyd(pyd_host, *words) == docker(pyd_host, *words)


def test_stdin_is_piped_and_half_closed(pyd_host: str) -> None:
    data = os.urandom(1 << 20)
    assert pyd(pyd_host, "run", "-i", "--rm", "busybox", "cat", stdin=data) == (0, data, b"")


def test_exec_has_its_own_code(pyd_host: str) -> None:
    code, name, _ = pyd(pyd_host, "run", "-d", "busybox", "sleep", "60")
    assert code == 0
    container = name.decode().strip()
    try:
        assert pyd(pyd_host, "exec", container, "sh", "-c", "echo a; exit 5")[:2] == (5, b"a\n")
        assert pyd(pyd_host, "exec", container, "no-such-command")[0] == 127
    finally:
        assert pyd(pyd_host, "rm", "-f", container)[0] == 0


def test_a_terminal_is_a_terminal(pyd_host: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        command = [sys.executable, "-m", "client.main", "-H", pyd_host]
        os.execv(
            command[0],
            [*command, "run", "-it", "--rm", "busybox", "sh", "-c", "tty; stty size; read x; exit $x"],
        )
    subprocess.run(["stty", "rows", "33", "cols", "77"], stdin=terminal, check=True)
    seen, deadline = b"", time.monotonic() + 30
    while b"33 77" not in seen and time.monotonic() < deadline:
        seen += os.read(terminal, 4096)
    os.write(terminal, b"9\n")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 9
    assert b"/dev/pts/0" in seen


def test_copies_there_and_back(pyd_host: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    container = pyd(pyd_host, "create", "busybox", "true")[1].decode().strip()
    try:
        assert pyd(pyd_host, "cp", str(tmp_path / "file"), f"{container}:/copied")[0] == 0
        assert pyd(pyd_host, "cp", f"{container}:/copied", str(tmp_path / "back"))[0] == 0
        assert (tmp_path / "back").read_text() == "content"
    finally:
        pyd(pyd_host, "rm", "-f", container)


def test_nobody_at_the_address(tmp_path: Path) -> None:
    code, out, err = pyd(f"unix://{tmp_path}/none.sock", "ps")
    assert (code, out) == (1, b"")
    assert err.startswith(b"Cannot connect to the pyd daemon at unix://")

"""A pydd of the tests' own: private roots and socket, started, killed and restarted at will."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DOCKER_CLI_HINTS": "false"}
ENVIRONMENT.pop("DOCKER_HOST", None)


class Host:
    """`docker(...)` and `pyd(...)` run the clients against it."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.data_root = directory / "data"
        self.exec_root = directory / "run"
        self.socket = directory / "pyd.sock"
        self.url = f"unix://{self.socket}"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "pydd.log"
        self.environment: dict[str, str] = {}
        """More for the daemon's own environment at its next start: failpoints."""

    def start(self) -> None:
        command = [sys.executable, "-m", "api.serve", "-H", self.url]
        command += ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root)]
        command += ["--pidfile", str(self.directory / "pydd.pid"), *self.flags]
        with open(self.log, "ab") as log:
            environment = {**ENVIRONMENT, **self.environment}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY)
        deadline = time.monotonic() + 30
        while subprocess.run(
            self._docker("version"), capture_output=True, env=ENVIRONMENT, check=False
        ).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"pydd did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; containers go on."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)

    def restart(self) -> None:
        self.stop()
        self.start()

    def undo(self) -> None:
        """Remove all containers, stop everything, leave nothing."""
        if self.process and self.process.poll() is not None:
            self.start()
        ids = self.docker("ps", "-aq").split()
        if ids:
            self.docker("rm", "-f", "-v", *ids)
        self.stop()
        command = [sys.executable, "-m", "daemon.undo", "--data-root", str(self.data_root)]
        subprocess.run(
            [*command, "--exec-root", str(self.exec_root)], check=True, env=ENVIRONMENT, cwd=REPOSITORY
        )

    def supervisor_pids(self) -> list[int]:
        """Supervisor and keeper, whose command line names our exec root."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                command = Path(f"/proc/{int(entry)}/cmdline").read_bytes()
                if str(self.exec_root).encode() in command and b"supervisor" in command:
                    found.append(int(entry))
        return found

    # -- clients

    def _docker(self, *arguments: str) -> list[str]:
        return ["docker", "-H", self.url, *arguments]

    def _pyd(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "client.main", "-H", self.url, *arguments]

    def run(
        self, command: Sequence[str], *, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        stdin: dict[str, Any] = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            command,
            capture_output=True,
            env=ENVIRONMENT,
            cwd=REPOSITORY,
            timeout=timeout,
            check=False,
            **stdin,
        )

    def try_docker(
        self, *arguments: str, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return self.run(self._docker(*arguments), input=input, timeout=timeout)

    def try_pyd(
        self, *arguments: str, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return self.run(self._pyd(*arguments), input=input, timeout=timeout)

    def docker(self, *arguments: str, input: bytes | None = None, timeout: float = 60) -> str:
        return _output(self.try_docker(*arguments, input=input, timeout=timeout))

    def pyd(self, *arguments: str, input: bytes | None = None, timeout: float = 60) -> str:
        return _output(self.try_pyd(*arguments, input=input, timeout=timeout))

    def inspect(self, ref: str) -> dict[str, Any]:
        return json.loads(self.docker("inspect", ref))[0]  # type: ignore[no-any-return]

    def curl(self, method: str, path: str, body: Any = None, *headers: str) -> tuple[int, Any]:
        """(status, decoded body) of one request."""
        command = ["curl", "-s", "-X", method, "--unix-socket", str(self.socket), "-w", "\n%{http_code}"]
        if body is not None:
            data = body if isinstance(body, str) else json.dumps(body)
            command += ["-H", "Content-Type: application/json", "-d", data]
        for header in headers:
            command += ["-H", header]
        text, _, status = self.run([*command, f"http://pyd{path}"]).stdout.decode().rpartition("\n")
        try:
            return int(status), json.loads(text) if text.strip() else None
        except ValueError:
            return int(status), text


def _output(result: subprocess.CompletedProcess[bytes]) -> str:
    assert result.returncode == 0, f"{result.args}: {result.returncode}\n{result.stdout!r}\n{result.stderr!r}"
    return result.stdout.decode()

"""What a trial has at hand: a client on a running pydd, scratch files, and terminals."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.system.host import ENVIRONMENT, REPOSITORY, Host

PATIENCE = 20.0


@dataclass
class Bench:
    """`bench("ls", "-a")` is `docker container ls -a` (or pyd's); words in one string are split like a shell's."""

    host: Host
    client: str
    tmp: Path

    def __call__(self, *words: str, input: bytes | None = None) -> str:
        done = self.attempt(*words, input=input)
        assert done.returncode == 0, f"{done.args}: {done.returncode} {done.stdout!r} {done.stderr!r}"
        return done.stdout.decode()

    def attempt(self, *words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return self.host.run(self.command(*words), input=input)

    def fails(self, *words: str) -> str:
        done = self.attempt(*words)
        assert done.returncode != 0, f"{done.args} succeeded: {done.stdout!r}"
        return done.stderr.decode()

    def command(self, *words: str) -> list[str]:
        split = shlex.split(words[0]) if len(words) == 1 else list(words)
        program = ["docker"] if self.client == "docker" else [sys.executable, "-m", "client.main"]
        return [*program, "-H", self.host.url, "container", *split]

    # -- things to try on

    @property
    def name(self) -> str:
        """A new name."""
        return f"t{uuid.uuid4().hex[:10]}"

    def container(self, *flags: str, run: str = "sleep 600") -> str:
        """A running container's name; the shared daemon's containers are removed after each test."""
        name = self.name
        self.host.docker("run", "-d", "--name", name, *flags, "busybox", *shlex.split(run))
        return name

    def inspect(self, name: str) -> dict[str, Any]:
        return self.host.inspect(name)

    def state(self, name: str) -> str:
        return str(self.inspect(name)["State"]["Status"])

    def until(self, holds: Callable[[], Any], what: str = "what was awaited") -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()):
            assert time.monotonic() < deadline, f"{what} did not come about"
            time.sleep(0.05)
        return found

    @cached_property
    def disk(self) -> str:
        """A block device that the kernel knows."""
        names = (
            name for name in sorted(os.listdir("/sys/block"), reverse=True) if not name.startswith("zram")
        )
        return next(
            (f"/dev/{name}" for name in names if Path(f"/dev/{name}").is_block_device()), "/dev/loop0"
        )

    # -- running beside the test

    @contextlib.contextmanager
    def process(self, *words: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        """The client at work; killed at the end if it has not ended."""
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        } | streams
        started = subprocess.Popen(self.command(*words), env=ENVIRONMENT, cwd=REPOSITORY, **streams)
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()
            started.wait()
            if started.stdout:
                started.stdout.close()

    @contextlib.contextmanager
    def terminal(self, *words: str) -> Iterator[Terminal]:
        """The client with a terminal of its own."""
        ours, theirs = pty.openpty()
        try:
            with self.process(
                *words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
            ) as started:
                os.close(theirs)
                yield Terminal(ours, started)
        finally:
            os.close(ours)


class Terminal:
    """The human's side of a pty."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self._process = process
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def until(self, text: bytes) -> None:
        """Reads until `text` has been shown."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert self._read(deadline - time.monotonic()), f"{text!r} was not shown: {self.seen!r}"

    def end(self) -> int:
        """Reads to the end; the client's exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, timeout))
        if not ready:
            return False
        try:
            piece = os.read(self._descriptor, 4096)
        except OSError:  # EIO: nobody holds the other side any more
            return False
        self.seen += piece
        return bool(piece)

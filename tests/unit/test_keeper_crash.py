"""A keeper killed at each of its half-way points, its successor as well: every byte ends in the log once.

A fork of ours does what the keeper does, up to a SIGKILL at a failpoint; pipes and journal are ours, as they are the
supervisor's. Rotation is made frequent: one read fills several files.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import random
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.containers.logs.localfile import LocalFormat
from daemon.runtime import failpoint
from daemon.runtime.journal import Journal
from daemon.runtime.loop import Loop
from daemon.runtime.stdio import Process
from storage import failpoints

POINTS = (
    "begun",
    "read",
    "appended",
    "full",
    "shifted",
    "renamed",
    "opened",
    "written",
    "saved",
    "ended",
    "recovering",
)
LINES = 1200
ROUNDS = int(os.environ.get("PYD_KEEPER_ROUNDS", "15"))


@dataclass
class Rig:
    """One container's output in two pipes, already written, and what keepers share."""

    spec: dict[str, Any]
    path: Path
    ends: list[int] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal = Journal(None)
        self.slots = {name: self.journal.allocate() for name in ("stdout", "stderr")}
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
            os.write(writer, output(name))
            os.close(writer)
            self.ends.append(reader)

    def keeper(self, rules: str) -> bool:
        """Lives until it is killed by the rules (False) or the output has ended (True)."""
        child = os.fork()
        if child == 0:
            try:
                failpoint.hit = failpoints.hit
                with failpoints.armed(rules):
                    self._live()
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status == 0

    def _live(self) -> None:
        loop, sink = Loop(), os.open(os.devnull, os.O_WRONLY)
        process = Process(("c", None), loop, Journal(self.journal.fd), sink, *[lambda _: None] * 3)
        description: dict[str, Any] = {
            "id": "c",
            "exec_id": None,
            "tty": False,
            "closes_stdin": True,
            "log": self.spec,
        }
        description |= {"names": ["stdout", "stderr"], "slots": self.slots}
        process.adopt(description, [os.dup(end) for end in self.ends], recover=True)
        while any(output.open for output in process.outputs):
            loop.turn(-1)
        process.drain(lambda: None)
        process.release()

    def close(self) -> None:
        for end in self.ends:
            os.close(end)

    def logged(self, stream: str) -> bytes:
        found = b""
        deadline = time.monotonic() + 20
        while self.path.with_name("log.1").exists() and self.spec["options"].get("compress") != "false":
            assert time.monotonic() < deadline, "a compressor does not end"
            time.sleep(0.01)
        for _, path in sorted((number(path), path) for path in self.path.parent.glob("log*")):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            if self.spec["driver"] == "local":
                records, rest = LocalFormat().split(data)
                assert rest == b""
                entries = [entry for record in records if (entry := LocalFormat().parse(record))]
                found += b"".join(entry.line for entry in entries if entry.stream == stream)
            else:
                lines = [json.loads(line) for line in data.splitlines()]
                found += b"".join(line["log"].encode() for line in lines if line["stream"] == stream)
        return found


def number(path: Path) -> int:
    """Older files first; the growing one is the last."""
    match = re.search(r"\.(\d+)(\.gz)?$", path.name)
    return -int(match[1]) if match else 0


def output(name: str) -> bytes:
    """Lines, two of them longer than a piece, and a last one without a newline."""
    lines = [b"%d %b" % (n, name.encode()) for n in range(LINES)]
    for at in (200, LINES - 100):
        lines[at] = b"%d " % at + b"x" * 40_000
    return b"\n".join(lines)


def rig(directory: Path, driver: str, **options: str) -> Rig:
    return Rig({"driver": driver, "path": str(directory / "log"), "options": options}, directory / "log")


def check(made: Rig) -> None:
    for name in ("stdout", "stderr"):
        got, wanted = made.logged(name), output(name)
        assert got == wanted, (len(got), len(wanted))


@pytest.mark.parametrize("driver", ["json-file", "local"])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_each_half_way_point(tmp_path: Path, driver: str, point: str) -> None:
    """At the first, second ... time that it is reached, until a keeper gets through."""
    kills = 0
    for times in (*range(6), 9, 14, 23, 40):
        directory = tmp_path / str(times)
        directory.mkdir()
        made = rig(directory, driver, **{"max-size": "15k", "max-file": "40", "compress": "false"})
        try:
            if point == "recovering":
                made.keeper(f"keeper.appended={2 + times}*off->kill")
                survived = made.keeper("keeper.recovering=kill")
            else:
                survived = made.keeper(
                    f"keeper.{point}={times}*off->kill" if times else f"keeper.{point}=kill"
                )
            kills += not survived
            if not survived:
                assert made.keeper("")
        finally:
            made.close()
        check(made)
        if survived:
            break
    assert kills


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_keepers_that_are_killed_one_after_the_other(tmp_path: Path, driver: str) -> None:
    chance = random.Random(7)
    for run in range(ROUNDS):
        directory = tmp_path / str(run)
        directory.mkdir()
        made = rig(directory, driver, **{"max-size": "15k", "max-file": "40", "compress": "false"})
        try:
            for _ in range(30):
                point, times = chance.choice(POINTS), chance.randrange(1, 8)
                if made.keeper(f"keeper.{point}={times}*off->kill"):
                    break
            else:
                assert made.keeper("")
        finally:
            made.close()
        check(made)


def test_kills_while_entries_wait_for_a_compressor(tmp_path: Path) -> None:
    chance = random.Random(11)
    for run in range(ROUNDS // 3):
        directory = tmp_path / str(run)
        directory.mkdir()
        made = rig(directory, "local", **{"max-size": "30k", "max-file": "40"})
        try:
            while not made.keeper(f"keeper.{chance.choice(POINTS)}={chance.randrange(1, 12)}*off->kill"):
                pass
        finally:
            made.close()
        check(made)

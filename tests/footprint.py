"""What a test run may not leave on the machine: taken before, compared after.

Where nothing of pyd's runs besides, as in CI, whatever came and stayed is a leak. Where others test or run
daemons at the same time (`crowd`), only what is provably this run's is one: its descendants, and what lies
in, or is named after, the temporary directories that it made.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.config import DaemonConfig

CGROUPS = Path("/sys/fs/cgroup")
OURS = re.compile(r"\bpyd|api\.serve|keeper\.py|supervisor\.py|docker-registry|\bsleep\b")
OTHERS = re.compile(r"pytest|api\.serve|pydd|supervisor\.py|keeper\.py|benchmarks")

temporary: set[str] = set()
"""Directories that this process made with `tempfile`."""


def watch_directories() -> None:
    """Collects them from now on: the interpreter reports each (docs.python.org/3/library/audit_events)."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "tempfile.mkdtemp":
            temporary.add(os.path.realpath(str(arguments[0])))

    sys.addaudithook(hook)


@dataclass(frozen=True, order=True)
class Thing:
    kind: str
    name: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}{self.text and ': '}{self.text}"


# -- processes


def _stat(pid: int | str) -> tuple[str, int]:
    """(state, parent); proc_pid_stat(5)."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    return state, int(parent)


def _command(pid: int | str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _all_processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, command line) of all but kernel threads and zombies."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            state, parent = _stat(entry)
            command = _command(entry)
        except (OSError, ValueError):
            continue
        if command and state not in "ZX":
            yield int(entry), parent, command


def descendants() -> set[int]:
    """Of this process, itself not among them; a short-lived child of our own looking is no leak."""
    parents = {pid: parent for pid, parent, _ in _all_processes()}
    found: set[int] = set()
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] != os.getpid():
            line.append(parents[line[-1]])
        if line[-1] == os.getpid():
            found.update(line[:-1])
    return found


def _ancestors() -> set[int]:
    line = [os.getpid()]
    while line[-1] > 1:
        line.append(_stat(line[-1])[1])
    return set(line)


def _processes() -> Iterator[Thing]:
    mine = descendants()
    for pid, _, command in _all_processes():
        if pid != os.getpid() and (pid in mine or OURS.search(command)):
            yield Thing("process", str(pid), command[:160])


def crowd() -> bool:
    """Does somebody else test or run pyd on this machine now?"""
    family = descendants() | _ancestors()
    return any(OTHERS.search(command) for pid, _, command in _all_processes() if pid not in family)


# -- what the kernel holds


def _mounts() -> Iterator[Thing]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield Thing("mount", line.split()[4])


def _cgroups() -> Iterator[Thing]:
    for directory, folders, _ in os.walk(CGROUPS):
        if directory.count("/") - str(CGROUPS).count("/") > 3:
            folders.clear()
        for name in folders:
            if "pyd" in f"{directory}/{name}":
                yield Thing("cgroup", f"{directory}/{name}")


def _links() -> Iterator[Thing]:
    for name in os.listdir("/sys/class/net"):
        yield Thing("network device", name)


def _tables() -> Iterator[Thing]:
    try:
        result = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # not installed: unit tests need none
        return
    for line in result.stdout.splitlines():
        yield Thing("firewall", line)


def _namespaces() -> Iterator[Thing]:
    try:
        for name in os.listdir("/run/netns"):
            yield Thing("network namespace", name)
    except FileNotFoundError:
        return


def _loop_devices() -> Iterator[Thing]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield Thing("loop device", backing.parts[3], backing.read_text().strip())
        except OSError:
            continue


PARTS = (_processes, _mounts, _cgroups, _links, _tables, _namespaces, _loop_devices)


@dataclass(frozen=True)
class Footprint:
    things: frozenset[Thing]

    @classmethod
    def take(cls) -> Footprint:
        return cls(frozenset(thing for part in PARTS for thing in part()))

    def left_since(self, seconds: float = 10, *, alone: bool = True) -> list[Thing]:
        """What came after this one was taken and stays; dying processes get a moment."""
        deadline = time.monotonic() + seconds
        while True:
            left = sorted(Footprint.take().things - self.things)
            if not alone:
                left = [thing for thing in left if provably_ours(thing, descendants())]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)


def identities() -> set[str]:
    """Names of the daemons whose roots are where tests/system/host.py puts them."""
    roots = [Path(directory) for directory in temporary]
    return {DaemonConfig(data_root=root / "data", exec_root=root / "run").identity for root in roots}


def provably_ours(thing: Thing, children: set[int]) -> bool:
    if thing.kind == "process" and int(thing.name) in children:
        return True
    text = str(thing)
    return any(f"{name}/" in f"{text}/" for name in temporary) or any(name in text for name in identities())

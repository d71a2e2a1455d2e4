"""Random operations on a daemon that is killed at random, and what must be true afterwards.

Workers do what users do and note what was *acknowledged*. A container belongs to one worker at a time, so its
expected fate is known. After a request that was not answered both outcomes are right. A killer kills daemon,
supervisor or keeper with SIGKILL and starts the daemon again.

Afterwards: acknowledged containers are there, removed ones gone, exit codes are those of their programs, every
line that a container wrote is in its log once and in order, every event that a subscriber saw is in the journal,
and neither the kernel nor the exec root holds anything of a container that does not run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from daemon.events import KEPT, TRIM_EVERY
from tests.chaos.requests import Unanswered, call
from tests.system.host import Host

WORKERS = 3
OK = range(200, 400)
FORESEEN = ("supervisor", "keeper", "is not paused", "no such process")
"""500s that are dockerd's too (not paused), an end in the middle of an exec's start, or a kill that shows."""


@dataclass
class Known:
    """One container and what was acknowledged of it; None is "not known"."""

    name: str
    lines: int = 0
    code: int | None = None
    """The exit code it will end with by itself, if nobody interferes."""
    exists: bool | None = None
    started: bool | None = False
    touched: bool = False
    """Signalled, stopped or paused: its end is not its own any more."""


@dataclass
class World:
    host: Host
    deadline: float
    seed: int
    containers: list[Known] = field(default_factory=list)
    seen_events: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    requests: int = 0
    unanswered: int = 0
    kills: dict[str, int] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.deadline

    def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        self.requests += 1
        try:
            status, answer = call(str(self.host.socket), method, target, body)
        except Unanswered:
            self.unanswered += 1
            raise
        if status >= 500 and not any(text in str(answer) for text in FORESEEN):
            self.errors.append(f"{method} {target}: {status} {answer}")
        return status, answer


def run(host: Host, seconds: float, seed: int) -> World:
    """Does it all; the daemon runs at the end."""
    world = World(host, time.monotonic() + seconds, seed)
    threads = [threading.Thread(target=_worker, args=(world, index)) for index in range(WORKERS)]
    threads.append(threading.Thread(target=_watcher, args=(world,)))
    for thread in threads:
        thread.start()
    _killer(world)
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a worker hangs"
    return world


# -- users


def _worker(world: World, index: int) -> None:
    chance = random.Random(f"{world.seed}-{index}")
    mine: list[Known] = []
    for number in itertools.count():
        if world.over:
            return
        try:
            _act(world, chance, mine, f"w{index}-{number}")
        except Unanswered:
            time.sleep(0.1)


def _act(world: World, chance: random.Random, mine: list[Known], name: str) -> None:
    alive = [known for known in mine if known.exists]
    if len(alive) < 3 or chance.random() < 0.25:
        _run(world, chance, mine, name)
        return
    known = chance.choice(alive)
    verb: Callable[[World, Known], None] = chance.choice(
        [_remove, _remove, _stop, _kill, _pause, _exec, _rename, _inspect, _inspect]
    )
    verb(world, known)


def _run(world: World, chance: random.Random, mine: list[Known], name: str) -> None:
    lines, code = chance.choice([10, 300, 3000]), chance.choice([0, 1, 42, 255])
    pause = chance.choice(["0", "0.1", "1"])
    known = Known(name, lines, code, exists=None)
    mine.append(known)
    world.containers.append(known)
    script = f"seq {lines // 2}; sleep {pause}; seq {lines // 2 + 1} {lines}; exit {code}"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "bridge"}}
    if chance.random() < 0.7:
        body["HostConfig"] = {"NetworkMode": "none"}
    status, answer = world.call("POST", f"/containers/create?name={name}", body)
    if status != 201:
        known.exists = False
        world.errors.append(f"create {name}: {status} {answer}")
        return
    known.exists, known.started = True, None
    status, answer = world.call("POST", f"/containers/{name}/start")
    known.started = status in OK or None


def _changing(known: Known) -> None:
    known.touched = True


def _remove(world: World, known: Known) -> None:
    known.exists = None
    _changing(known)
    status, _ = world.call("DELETE", f"/containers/{known.name}?force=1")
    if status == 204:
        known.exists = False
    elif status == 404:
        world.errors.append(f"{known.name} was acknowledged and is not there")


def _stop(world: World, known: Known) -> None:
    _changing(known)
    world.call("POST", f"/containers/{known.name}/stop?t=0")


def _kill(world: World, known: Known) -> None:
    _changing(known)
    world.call("POST", f"/containers/{known.name}/kill")


def _pause(world: World, known: Known) -> None:
    """Left paused where the daemon is killed in between: then its end is not its own any more."""
    goes_on = False
    try:
        status, _ = world.call("POST", f"/containers/{known.name}/pause")
        goes_on = status != 204 or world.call("POST", f"/containers/{known.name}/unpause")[0] == 204
    finally:
        if not goes_on:
            _changing(known)


def _exec(world: World, known: Known) -> None:
    status, answer = world.call(
        "POST", f"/containers/{known.name}/exec", {"Cmd": ["true"], "AttachStdout": True}
    )
    if status == 201:
        world.call("POST", f"/exec/{answer['Id']}/start", {"Detach": True})


def _rename(world: World, known: Known) -> None:
    world.call("POST", f"/containers/{known.name}/rename?name={known.name}")  # refused: its own name


def _inspect(world: World, known: Known) -> None:
    status, _ = world.call("GET", f"/containers/{known.name}/json")
    if status == 404:
        world.errors.append(f"{known.name} was acknowledged and is not there")


def _watcher(world: World) -> None:
    """A subscriber to events, back whenever the daemon is."""
    while not world.over:
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(1)
            stream.connect(str(world.host.socket))
            stream.sendall(b"GET /events HTTP/1.0\r\nHost: pyd\r\n\r\n")
            file = stream.makefile("rb")
            while not world.over:
                try:
                    line = file.readline()
                except TimeoutError:
                    break
                if not line:
                    break
                if line.startswith(b"{"):
                    world.seen_events.add(json.loads(line)["timeNano"])
        time.sleep(0.05)


# -- the killer


def _killer(world: World) -> None:
    chance = random.Random(world.seed)
    while not world.over:
        time.sleep(chance.uniform(0.3, 2.5))
        victim = chance.choice(["daemon", "daemon", "supervisor", "keeper", "daemon and supervisor"])
        world.kills[victim] = world.kills.get(victim, 0) + 1
        if "supervisor" in victim:
            _kill_runtime(world.host, b"supervisor.py")
        if "keeper" in victim:
            _kill_runtime(world.host, b"keeper.py")
        if "daemon" in victim:
            world.host.kill()
            time.sleep(chance.choice([0, 0, 0.3]))
            world.host.start()


def _kill_runtime(host: Host, program: bytes) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            command = (entry / "cmdline").read_bytes()
            if str(host.exec_root).encode() in command and b"/daemon/runtime/" + program in command:
                os.kill(int(entry.name), signal.SIGKILL)


# -- afterwards


def check(world: World) -> None:
    host = world.host
    rows = {row["Names"][0][1:]: row for row in host.curl("GET", "/containers/json?all=1")[1]}
    _wait_for_ends(world)
    problems = list(world.errors)
    for known in world.containers:
        if known.exists and known.name not in rows:
            problems.append(f"{known.name}: acknowledged, and gone")
        if known.exists is False and known.name in rows:
            problems.append(f"{known.name}: removed, and there")
        if known.name in rows:
            problems += _fate(host, known)
    problems += _events(world)
    problems += strays(host)
    assert not problems, "\n".join([f"seed {world.seed}", *problems[:30]])


def _events(world: World) -> list[str]:
    """Of what a subscriber saw, the journal lacks only what is older than all it keeps, which are enough."""
    kept = {event["timeNano"] for event in _journal(world.host)}
    problems = []
    if not min(KEPT, len(world.seen_events)) <= len(kept) <= KEPT + 2 * TRIM_EVERY:
        problems.append(f"the journal holds {len(kept)} events")
    lost = {event for event in world.seen_events - kept if event > min(kept, default=0)}
    if lost:
        problems.append(f"{len(lost)} of {len(world.seen_events)} events are not in the journal")
    return problems


def _wait_for_ends(world: World) -> None:
    deadline = time.monotonic() + 20
    while any(row["State"] == "running" for row in world.host.curl("GET", "/containers/json")[1]):
        assert time.monotonic() < deadline, world.host.docker("ps")
        time.sleep(0.2)


def _fate(host: Host, known: Known) -> list[str]:
    state = host.inspect(known.name)["State"]
    text = host.docker("logs", known.name)
    expected = "".join(f"{number}\n" for number in range(1, known.lines + 1))
    problems = []
    if not expected.startswith(text):  # who was killed may have been in the middle of a line
        at = next(i for i, (a, b) in enumerate(zip(text, expected + "\0", strict=False)) if a != b)
        problems.append(f"{known.name}: its log goes wrong at {text[max(0, at - 20) : at + 20]!r}")
    if known.started and not known.touched:
        if state["Status"] != "exited" or state["ExitCode"] != known.code:
            problems.append(f"{known.name}: should have exited with {known.code}, is {state}")
        if len(text) < len(expected):
            problems.append(f"{known.name}: {text.count(chr(10))} of {known.lines} lines")
    return problems


def _journal(host: Host) -> list[dict[str, Any]]:
    text = host.docker("events", "--since", "1", "--until", f"{time.time():.9f}", "--format", "{{json .}}")
    return [json.loads(line) for line in text.splitlines()]


def strays(host: Host) -> list[str]:
    """What belongs to no running container, once background work is done."""
    config = DaemonConfig(data_root=host.data_root, exec_root=host.exec_root)
    deadline = time.monotonic() + 10
    while True:
        running = {row["Id"] for row in host.curl("GET", "/containers/json")[1]}
        every = {row["Id"] for row in host.curl("GET", "/containers/json?all=1")[1]}
        found = [f"cgroup {p}" for p in _cgroups(config.cgroup_root) if p.name not in running]
        found += [f"bundle {n}" for n in _names(config.exec_root / "containers") if n not in running]
        found += [f"files {n}" for n in _names(config.data_root / "containers") if n not in every]
        found += [f"mount {point}" for point in _mounts(config, host)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _names(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if len(name) == 64] if path.is_dir() else []


def _cgroups(root: str) -> list[Path]:
    found = []
    for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if (hierarchy / root).is_dir():
            found += [path for path in (hierarchy / root).iterdir() if path.is_dir() and len(path.name) == 64]
    return found


def _mounts(config: DaemonConfig, host: Host) -> list[str]:
    own = f"{config.exec_root}/netns"
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [p for p in points if p.startswith(f"{host.directory}/") and not p.startswith(own)]

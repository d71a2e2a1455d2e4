"""attach with logs=1 and stream=1: what was logged, then what comes, as one sequence without gap or repetition."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from client.streams import Demultiplexer
from tests.system.host import Host
from tests.system.test_api_streams import BOTH, WEBSOCKET, Daemon, Raw

COUNTING = "i=0; while :; do i=$((i+1)); printf $i; printf '.\\n'; [ $((i % 100)) = 0 ] && usleep 5000; done"
"""Each line in two pieces, so that often the log does not have the line's beginning yet when a client attaches."""
TIMES = 20
BEYOND = 500
"""Lines read beyond what was logged before the attachment."""


@pytest.fixture
def daemon(host: Host) -> Iterator[Daemon]:
    made = Daemon(str(host.socket))
    yield made
    for identifier in made.made:
        made.ask("DELETE", f"/containers/{identifier}?force=1&v=1")


def last_logged(daemon: Daemon, container: str) -> int:
    while True:
        found = re.findall(
            rb"(\d+)\.", daemon.ask("GET", f"/containers/{container}/logs?stdout=1&tail=1").body
        )
        if found:
            return int(found[-1])


def framed(raw: Raw) -> Iterator[bytes]:
    frames = Demultiplexer()
    while True:
        yield b"".join(bytes(piece) for _, piece in frames.feed(raw.some()))


def bare(raw: Raw) -> Iterator[bytes]:
    while True:
        yield raw.some()


def messages(raw: Raw) -> Iterator[bytes]:
    while True:
        yield raw.message()[1]


def numbers(pieces: Iterator[bytes], end: bytes, beyond: int) -> list[int]:
    """The lines' numbers up to one above `beyond`."""
    text = bytearray()
    while True:
        text += next(pieces)
        found = re.findall(rb"(\d+)\." + end, text[-100:])
        if found and int(found[-1]) > beyond:
            lines = bytes(text).rpartition(end)[0].split(end)
            assert all(line.endswith(b".") for line in lines)
            return [int(line[:-1]) for line in lines]


@pytest.mark.parametrize(
    ("driver", "options", "tty", "kind"),
    [
        ("json-file", {}, False, "hijack"),
        ("local", {}, False, "websocket"),
        ("json-file", {}, True, "websocket"),
        ("local", {}, True, "hijack"),
        ("json-file", {"max-size": "40k", "max-file": "4"}, False, "hijack"),
        ("local", {"max-size": "20k", "max-file": "4", "compress": "true"}, False, "hijack"),
        ("json-file", {"max-size": "40k", "max-file": "1"}, True, "hijack"),
    ],
)
def test_the_log_and_what_follows_are_one_sequence(
    daemon: Daemon, driver: str, options: dict[str, str], tty: bool, kind: str
) -> None:
    log = {"LogConfig": {"Type": driver, "Config": options}}
    container = daemon.run(COUNTING, Tty=tty, HostConfig=log)
    read: Callable[[Raw], Iterator[bytes]] = messages if kind == "websocket" else bare if tty else framed
    for _ in range(TIMES):
        beyond = last_logged(daemon, container) + BEYOND
        with _attached(daemon, container, kind) as raw:
            found = numbers(read(raw), b"\r\n" if tty else b"\n", beyond)
        assert found == list(range(found[0], found[-1] + 1))
        assert found[0] == 1 or options


def _attached(daemon: Daemon, container: str, kind: str) -> Raw:
    query = f"logs=1&stream=1&{BOTH}"
    if kind == "hijack":
        return daemon.open("POST", f"/containers/{container}/attach?{query}")
    target = f"/containers/{container}/attach/ws?{query}"
    return daemon.open("GET", target, upgrade="websocket", Origin="http://x", **WEBSOCKET)


def test_a_client_that_leaves_during_the_replay_holds_nobody_up(daemon: Daemon) -> None:
    """It never reads: its container waits for it, and goes on when it is gone."""
    container = daemon.run(COUNTING)
    while last_logged(daemon, container) < 20_000:
        pass
    with _attached(daemon, container, "hijack"):
        pass
    before = last_logged(daemon, container)
    while last_logged(daemon, container) < before + 1000:
        pass
    with _attached(daemon, container, "hijack") as raw:
        found = numbers(framed(raw), b"\n", before + 1000)
        assert found == list(range(1, found[-1] + 1))


def test_the_replay_of_an_ended_run_is_followed_by_the_next_run(daemon: Daemon) -> None:
    container = daemon.run("echo run; exec cat", OpenStdin=True, StdinOnce=True)
    daemon.await_output(container)
    assert daemon.ask("POST", f"/containers/{container}/stop?t=0").status == 204
    time.sleep(0.5)  # a client that comes while the keeper still lets the ended run go is let go with it
    query = f"logs=1&stream=1&stdin=1&{BOTH}"
    with daemon.open("POST", f"/containers/{container}/attach?{query}") as raw:
        raw.until(b"run\n")
        assert daemon.ask("POST", f"/containers/{container}/start").status == 204
        raw.until(b"run\n")
        raw.sock.sendall(b"said\n")
        raw.until(b"said\n")
    daemon.wait(container)
    logged = daemon.ask("GET", f"/containers/{container}/logs?stdout=1").body
    assert json.dumps(logged.decode()).count("run") == 2

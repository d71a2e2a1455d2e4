"""The keeper's parts on pipes and sockets of the test's own: pumping, clients, keys, protocol. No containers."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.runtime import protocol
from daemon.runtime.attach import HIGH, Client, DetachKeys
from daemon.runtime.journal import Journal
from daemon.runtime.logfile import LogFile
from daemon.runtime.loop import Loop
from daemon.runtime.protocol import FRAGMENT, Connection, Disconnected
from daemon.runtime.stdio import COMPRESSOR_PATIENCE, Process
from daemon.runtime.tasks import Future, start


class Bench:
    """One process' stdio without a process: we hold the ends that it would hold."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.journal = Journal(None)
        self.sink = os.open(os.devnull, os.O_WRONLY)
        self.detached: list[Process] = []
        self.idle: list[Process] = []
        self.process = Process(
            ("c", None),
            self.loop,
            self.journal,
            self.sink,
            self.detached.append,
            lambda process: None,
            self.idle.append,
        )
        self.stdin, self.stdout, self.stderr = -1, -1, -1

    def adopt(
        self, log: dict[str, Any] | None = None, *, closes_stdin: bool = True, stdin: bool = True
    ) -> None:
        names, fds = [], []
        if stdin:
            self.stdin, keep = os.pipe()
            names, fds = ["stdin"], [keep]
        keep, self.stdout = os.pipe()
        names, fds = [*names, "stdout"], [*fds, keep]
        keep, self.stderr = os.pipe()
        names, fds = [*names, "stderr"], [*fds, keep]
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.set_blocking(fd, False)
        description = {
            "id": "c",
            "exec_id": None,
            "tty": False,
            "closes_stdin": closes_stdin,
            "log": log,
            "names": names,
        }
        self.process.adopt(description, fds, recover=False)

    def attach(self, **changes: Any) -> socket.socket:
        ours, theirs = socket.socketpair()
        request = {"stdin": True, "stdout": True, "stderr": True, "tty": False, "framed": True}
        self.process.attach(theirs.detach(), {**request, "detach_keys": "", "early": "", **changes})
        ours.setblocking(False)
        return ours

    def settle(self) -> None:
        for _ in range(200):
            if not self.loop.turn(0):
                return

    def received(self, sock: socket.socket) -> bytes:
        """All that has come; None marks nothing: the end is an empty read, see `ended`."""
        out = b""
        self.settle()
        while True:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                return out
            if not data:
                return out
            out += data
            self.settle()

    def ended(self, sock: socket.socket) -> bool:
        self.received(sock)
        try:
            return sock.recv(1) == b""
        except BlockingIOError:
            return False

    def end(self) -> None:
        """The process is gone."""
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = -1


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = len(os.listdir("/proc/self/fd"))
    bench = Bench()
    yield bench
    bench.end()
    bench.process.discard()
    bench.settle()
    os.close(bench.sink)
    bench.journal.chunk.release()
    del bench
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # epoll and journal go with the collector


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


# -- output --------------------------------------------------------------------------------------------


def test_output_is_framed_by_stream(bench: Bench) -> None:
    bench.adopt()
    client = bench.attach()
    os.write(bench.stdout, b"out")
    bench.settle()
    os.write(bench.stderr, b"err")
    assert bench.received(client) == frame(1, b"out") + frame(2, b"err")
    client.close()


def test_clients_before_the_start_miss_nothing(bench: Bench) -> None:
    client = bench.attach()
    bench.settle()
    bench.adopt()
    os.write(bench.stdout, b"first")
    assert bench.received(client) == frame(1, b"first")
    client.close()


def test_each_client_gets_what_it_asked_for(bench: Bench) -> None:
    bench.adopt()
    both, errors, bare = bench.attach(), bench.attach(stdout=False), bench.attach(framed=False, stderr=False)
    os.write(bench.stdout, b"o")
    bench.settle()
    os.write(bench.stderr, b"e")
    assert bench.received(both) == frame(1, b"o") + frame(2, b"e")
    assert bench.received(errors) == frame(2, b"e")
    assert bench.received(bare) == b"o"
    for sock in (both, errors, bare):
        sock.close()


def test_output_that_nobody_sees_is_not_held_up(bench: Bench) -> None:
    bench.adopt()
    for _ in range(100):
        os.write(bench.stdout, bytes(60_000))
        bench.settle()


def test_a_single_client_that_does_not_read_holds_the_pipe_not_memory(bench: Bench) -> None:
    bench.adopt()
    client = bench.attach()
    sent = 0
    try:
        while sent < 100 << 20:
            sent += os.write(bench.stdout, b"x" * 65536)
            bench.settle()
    except BlockingIOError:
        pass
    assert sent < 16 << 20
    assert bench.process.clients[0].buffered <= 8
    got = bench.received(client)
    bench.settle()
    got += bench.received(client)
    while len(got) < sent:
        got += bench.received(client)
    payload = 0
    position = 0
    while position < len(got):
        size = struct.unpack_from(">I", got, position + 4)[0]
        assert got[position : position + 4] == b"\1\0\0\0"
        payload += len(got[position + 8 : position + 8 + size])
        position += 8 + size
    assert payload == sent
    client.close()


def test_a_slow_client_of_several_is_bounded(bench: Bench, tmp_path: Path) -> None:
    bench.adopt({"driver": "json-file", "path": str(tmp_path / "log"), "options": {}})
    slow, quick = bench.attach(), bench.attach()
    sent = 0
    try:
        while sent < 100 << 20:
            sent += os.write(bench.stdout, b"line\n" * 5000)
            bench.received(quick)
    except BlockingIOError:
        pass
    assert sent < 16 << 20
    assert max(client.buffered for client in bench.process.clients) < HIGH + (128 << 10)
    slow.close()
    bench.settle()
    os.write(bench.stdout, b"again\n")
    assert bench.received(quick).endswith(b"again\n")
    quick.close()


def test_the_end_drains_reports_and_lets_clients_go(bench: Bench, tmp_path: Path) -> None:
    bench.adopt({"driver": "json-file", "path": str(tmp_path / "log"), "options": {}})
    client = bench.attach()
    os.write(bench.stdout, b"last words")
    bench.end()
    done: list[bool] = []
    bench.process.drain(lambda: done.append(True))
    assert bench.received(client) == frame(1, b"last words")
    assert done
    assert not bench.ended(client)  # not before the exit is known to the daemon
    bench.process.release()
    assert bench.ended(client)
    assert '"last words"' in (tmp_path / "log").read_text()
    client.close()


def test_a_late_compressor_does_not_keep_the_end_of_a_log_back(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "log.1").write_bytes(b"old")
    with open(tmp_path / "log.1", "rb") as old:
        fcntl.flock(old, fcntl.LOCK_EX)  # so that the compressor waits
        options = {"max-size": "1k", "max-file": "5", "compress": "true"}
        bench.adopt({"driver": "json-file", "path": str(log), "options": options})
        for number in range(200):
            os.write(bench.stdout, b"%d\n" % number)
            bench.settle()
        bench.end()
        done: list[bool] = []
        bench.process.drain(lambda: done.append(True))
        bench.settle()
        assert not done
        bench.process.give_up_draining()
        began = time.monotonic()
        while not done:  # exec(2) closes the compressor's inherited ends only after posix_spawn has returned
            bench.loop.turn(0.01)
        assert time.monotonic() - began < COMPRESSOR_PATIENCE
        logged = log.read_text().splitlines()
        assert [json.loads(line)["log"] for line in logged] == [f"{n}\n" for n in range(200)]
        assert bench.process.log
        file = bench.process.log.file
    while isinstance(file, LogFile) and file._compressor:
        bench.loop.turn(0.01)


def test_output_held_open_by_others_does_not_delay_for_ever(bench: Bench) -> None:
    bench.adopt()
    client = bench.attach()
    os.write(bench.stdout, b"x")
    done: list[bool] = []
    bench.process.drain(lambda: done.append(True))
    bench.settle()
    assert not done
    bench.process.give_up_draining()
    assert done
    bench.process.release()
    assert bench.received(client) == frame(1, b"x")
    assert bench.ended(client)
    client.close()


# -- held while a log is replayed ----------------------------------------------------------------------


def test_a_keeper_that_was_held_up_reads_before_it_gives_up(bench: Bench, tmp_path: Path) -> None:
    """Its timer comes first when a slow disk has blocked it for longer than the patience: the log is whole."""
    log = tmp_path / "log"
    bench.adopt({"driver": "json-file", "path": str(log), "options": {}})
    os.write(bench.stdout, b"hello\n")
    reported: list[bool] = []
    bench.process.drain(lambda: reported.append('"hello\\n"' in log.read_text()))
    bench.process.give_up_draining()
    assert reported == [True]


def hold(bench: Bench, log: Path, **changes: Any) -> tuple[socket.socket, Client, dict[str, int]]:
    sock = bench.attach(replay=str(log), **changes)
    client = bench.process.clients[-1]
    return sock, client, bench.process.hold(client, str(log))


@pytest.mark.parametrize("started", [True, False])
def test_a_held_client_begins_where_the_log_stood(bench: Bench, tmp_path: Path, started: bool) -> None:
    """The log up to the place and what the client gets are all of the output, each byte once."""
    log = tmp_path / "log"
    spec = {"driver": "local", "path": str(log), "options": {"max-size": "30", "compress": "false"}}
    if started:
        bench.adopt(spec)
        os.write(bench.stdout, b"one\ntw")
        bench.settle()
    sock, client, place = hold(bench, log)
    assert place["size"] == (log.stat().st_size if started else 0)
    if not started:
        bench.adopt(spec)
        os.write(bench.stdout, b"one\ntw")
        bench.settle()
    os.write(bench.stdout, b"o\nthree\n")
    os.write(bench.stderr, b"err")
    sock.send(b"input")
    assert bench.received(sock) == b""
    assert not (tmp_path / "log.1").exists()
    with pytest.raises(BlockingIOError):
        os.read(bench.stdin, 10)
    bench.process.let_loose(client, drop=False)
    got = bench.received(sock)
    rest = (
        frame(1, b"tw") + frame(1, b"o\nthree\n")
        if started
        else frame(1, b"one\ntw") + frame(1, b"o\nthree\n")
    )
    assert got in (rest + frame(2, b"err"), frame(1, b"tw") + frame(2, b"err") + frame(1, b"o\nthree\n"))
    assert os.read(bench.stdin, 10) == b"input"
    os.write(bench.stdout, b"four\n")
    assert bench.received(sock) == frame(1, b"four\n")
    assert (tmp_path / "log.1").exists()
    sock.close()


def test_a_held_client_outlives_its_process_and_may_be_dropped(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    bench.adopt({"driver": "json-file", "path": str(log), "options": {}})
    kept, first, _ = hold(bench, log)
    dropped, second, _ = hold(bench, log)
    os.write(bench.stdout, b"last")
    bench.end()
    bench.process.drain(lambda: None)
    bench.settle()
    bench.process.release()
    assert bench.received(kept) == b"" and not bench.ended(kept)
    bench.process.let_loose(second, drop=True)
    assert bench.ended(dropped)
    bench.process.let_loose(first, drop=False)
    assert bench.received(kept) == frame(1, b"last")
    assert bench.ended(kept)
    kept.close()
    dropped.close()


def test_output_for_a_held_client_is_bounded(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    bench.adopt({"driver": "json-file", "path": str(log), "options": {}})
    sock, client, _ = hold(bench, log)
    sent = 0
    try:
        while sent < 100 << 20:
            sent += os.write(bench.stdout, b"line\n" * 5000)
            bench.settle()
    except BlockingIOError:
        pass
    assert HIGH < client.buffered < HIGH + (128 << 10)
    bench.process.let_loose(client, drop=True)
    bench.settle()
    os.write(bench.stdout, b"goes on\n")
    bench.settle()
    assert b"goes on" in log.read_bytes()
    sock.close()


# -- input ---------------------------------------------------------------------------------------------


def test_input_of_several_clients_arrives(bench: Bench) -> None:
    bench.adopt(closes_stdin=False)
    first, second = bench.attach(early=b"0".hex()), bench.attach()
    first.send(b"1")
    bench.settle()
    second.send(b"2")
    bench.settle()
    assert os.read(bench.stdin, 10) == b"012"
    first.close()
    second.close()


def test_more_input_than_the_pipe_takes_waits(bench: Bench) -> None:
    bench.adopt()
    client = bench.attach()
    sent, got = 0, 0
    try:
        while sent < 64 << 20:
            sent += client.send(b"y" * 65536)
            bench.settle()
    except BlockingIOError:
        pass
    client.shutdown(socket.SHUT_WR)
    assert sent < 8 << 20
    while True:
        bench.settle()
        try:
            data = os.read(bench.stdin, 1 << 20)
        except BlockingIOError:
            continue
        if not data:
            break
        got += len(data)
    assert got == sent
    client.close()


@pytest.mark.parametrize("vanishes", [True, False])
def test_the_end_of_a_clients_input_ends_stdin(bench: Bench, vanishes: bool) -> None:
    bench.adopt(closes_stdin=True)
    client = bench.attach()
    client.send(b"all of it")
    if vanishes:
        client.close()
    else:
        client.shutdown(socket.SHUT_WR)
    bench.settle()
    assert os.read(bench.stdin, 100) == b"all of it"
    bench.settle()
    assert os.read(bench.stdin, 100) == b""
    client.close()


def test_without_stdin_once_the_client_goes_and_stdin_stays(bench: Bench) -> None:
    bench.adopt(closes_stdin=False)
    client = bench.attach()
    client.send(b"part")
    client.shutdown(socket.SHUT_WR)
    assert bench.ended(client)
    assert os.read(bench.stdin, 100) == b"part"
    with pytest.raises(BlockingIOError):
        os.read(bench.stdin, 100)
    client.close()


def test_a_process_that_closed_its_stdin_does_not_stop_the_client(bench: Bench) -> None:
    bench.adopt()
    client = bench.attach()
    os.close(bench.stdin)
    bench.stdin = -1
    for _ in range(100):
        client.send(b"z" * 1000)
        bench.settle()
    os.write(bench.stdout, b"still here")
    assert bench.received(client) == frame(1, b"still here")
    client.close()


def test_a_client_that_waits_for_a_start_and_goes_leaves_nothing(bench: Bench) -> None:
    client = bench.attach()
    client.close()
    bench.settle()
    assert bench.idle == [bench.process]
    assert not bench.process.clients


def test_a_tty_client_detaches_by_keys(bench: Bench) -> None:
    bench.adopt(closes_stdin=False)
    client = bench.attach(tty=True, framed=False, detach_keys="1011")
    client.send(b"a\x10")
    bench.settle()
    assert os.read(bench.stdin, 10) == b"a"
    client.send(b"\x11")
    assert bench.ended(client)
    assert bench.detached == [bench.process]
    client.close()


# -- detach keys -----------------------------------------------------------------------------------------


def feed_all(keys: bytes, chunks: list[bytes]) -> tuple[bytes, bool]:
    matcher, out = DetachKeys(keys), b""
    for chunk in chunks:
        data, done = matcher.feed(chunk)
        out += data
        if done:
            return out, True
    return out, False


@settings(deadline=None)  # a busy machine is no fault
@given(st.binary(min_size=1, max_size=4), st.lists(st.binary(max_size=6), max_size=8))
def test_keys_are_found_wherever_chunks_end(keys: bytes, chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    out, done = feed_all(keys, chunks)
    if keys in whole:
        assert done
        assert out == whole[: whole.index(keys)]
    else:
        assert not done
        held = len(whole) - len(out)
        assert whole.startswith(out)
        assert held == max(n for n in range(len(keys)) if whole.endswith(keys[:n]))


@settings(deadline=None)  # a busy machine is no fault
@given(st.text("ab", min_size=1, max_size=5), st.lists(st.text("ab", max_size=5), max_size=10))
def test_keys_that_overlap_themselves_are_found(keys: str, chunks: list[str]) -> None:
    whole = "".join(chunks).encode()
    out, done = feed_all(keys.encode(), [chunk.encode() for chunk in chunks])
    assert done == (keys.encode() in whole)
    if done:
        assert out == whole[: whole.index(keys.encode())]


def test_without_keys_everything_passes() -> None:
    assert DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


# -- protocol --------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    left, right = (Connection(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield left, right
    left.close()
    right.close()


def test_large_messages_and_descriptors_pass(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    message = {"op": "x", "text": "ü" * FRAGMENT, "bytes": os.fsdecode(b"\xff/raw")}
    read, write = os.pipe()
    left.send(message, [write])
    os.close(write)
    received = right.receive()
    assert received is not None
    assert received[0] == message
    os.write(received[1][0], b"through")
    assert os.read(read, 10) == b"through"
    assert not os.get_inheritable(received[1][0])
    protocol.close_all([read, *received[1]])
    assert right.receive() is None


def test_what_the_peer_does_not_take_waits(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    count = 0
    while not left.pending:
        left.send({"n": count, "fill": "x" * 50_000}, [0])
        count += 1
        assert count < 10_000
    got: list[int] = []
    while len(got) < count:
        while (received := right.receive()) is not None:
            got.append(received[0]["n"])
            protocol.close_all(received[1])
        left.flush()
    assert got == list(range(count))


@pytest.mark.parametrize("packet", [b".not json", b".\xff\xfe", b".{"])
def test_nonsense_ends_the_connection(ends: tuple[Connection, Connection], packet: bytes) -> None:
    left, right = ends
    left.sock.send(packet)
    with pytest.raises(Disconnected):
        right.receive()


def test_long_socket_paths_work(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    path = str(folder / "name.sock")
    listener = protocol.listen(path)
    client = protocol.connect(path)
    peer, _ = listener.accept()
    assert protocol.peer_allowed(peer)
    assert protocol.peer_pid(client) == os.getpid()
    for sock in (listener, client, peer):
        sock.close()


# -- tasks -----------------------------------------------------------------------------------------------


def test_coroutines_go_on_when_futures_are_set() -> None:
    first, second, log = Future(), Future(), []

    async def work() -> None:
        log.append(await first)
        try:
            await second
        except ValueError as error:
            log.append(str(error))

    start(work())
    assert log == []
    first.set("one")
    second.fail(ValueError("two"))
    assert log == ["one", "two"]


def test_timers_expire_in_order_and_can_be_cancelled() -> None:
    loop, log = Loop(), []

    def note(name: str) -> Callable[[], None]:
        return lambda: log.append(name)

    loop.later(0.02, note("late"))
    loop.later(0.0, note("soon"))
    loop.later(0.01, note("never")).cancel()
    loop.later(0.03, loop.stop)
    loop.run()
    assert log == ["soon", "late"]

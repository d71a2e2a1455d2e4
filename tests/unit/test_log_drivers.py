"""Log options as dockerd takes and refuses them, and messages for syslog and the journal, byte by byte."""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from daemon.containers.logs import drivers
from daemon.runtime import logremote
from daemon.runtime.logfile import open_log
from daemon.runtime.loglines import LIMIT
from daemon.runtime.loop import Loop
from storage.errors import InvalidArgument

NOW = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("foo", {}, 'error looking up logging plugin foo: plugin "foo" not found'),
        ("json-file", {"x": "1"}, "unknown log opt 'x' for json-file log driver"),
        ("local", {"x": "1"}, "unknown log opt 'x' for log driver local"),
        ("syslog", {"x": "1"}, "unknown log opt 'x' for syslog log driver"),
        ("journald", {"max-size": "1"}, "unknown log opt 'max-size' for journald log driver"),
        ("json-file", {"mode": "foo"}, "logger: logging mode not supported: foo"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            "json-file",
            {"mode": "non-blocking", "max-buffer-size": "zz"},
            "error parsing option max-buffer-size: invalid size: 'zz'",
        ),
        ("syslog", {"syslog-address": "foo"}, "unsupported scheme: ''"),
        ("syslog", {"syslog-address": "unix:///no/such"}, "stat /no/such: no such file or directory"),
        ("syslog", {"syslog-facility": "foo"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "foo"}, "Invalid syslog format"),
        ("syslog", {"cache-disabled": "zz"}, "invalid value for option cache-disabled: zz"),
    ],
)
def test_refused_at_create(driver: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        drivers.check_create(driver, options)
    assert str(caught.value) == text


def test_taken_at_create() -> None:
    drivers.check_create("none", {"what": "ever"})
    drivers.check_create("json-file", {"max-size": "abc", "tag": "{{.Foo}}", "mode": "non-blocking"})
    drivers.check_create("syslog", {"syslog-address": "udp://127.0.0.1", "syslog-facility": "23"})


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("json-file", {"max-size": "abc"}, "invalid size: 'abc'"),
        ("json-file", {"max-size": "-1"}, "invalid size: '-1'"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"compress": "maybe"}, 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        (
            "json-file",
            {"compress": "true"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("local", {"max-size": "abc"}, "invalid value for max-size: abc: invalid size: 'abc'"),
        ("local", {"max-file": "0"}, "compression cannot be enabled when max file count is 1"),
        ("syslog", {"cache-max-file": "0"}, "compression cannot be enabled when max file count is 1"),
    ],
)
def test_refused_at_start(driver: str, options: dict[str, str], text: str) -> None:
    drivers.check_create(driver, options)
    with pytest.raises(ValueError) as caught:
        drivers.check_start(driver, options)
    assert str(caught.value) == text


def test_tags() -> None:
    known = {"ID": "abc", "Name": "box"}
    assert drivers.tag("{{.Name}}/{{ .ID }}-x", known, {}) == "box/abc-x"
    assert drivers.tag("{{ (.ExtraAttributes nil).ENV }}", known, {"ENV": "v"}) == "v"
    with pytest.raises(ValueError, match=r'^template: log-tag:1:2: executing "log-tag" at <\.Foo>: '):
        drivers.tag("{{.Foo}}", known, {})


@pytest.mark.parametrize(("text", "size"), [("1m", 1 << 20), ("4KiB", 4096), ("2.5k", 2560), ("10", 10)])
def test_ram_sizes(text: str, size: int) -> None:
    assert drivers.ram_bytes(text) == size


# -- messages


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("", rb"<30>Nov 14 22:13:20 t\[%d\]: hi\n"),
        ("rfc3164", rb"<30>Nov 14 22:13:20 vm t\[%d\]: hi\n"),
        ("rfc5424", rb"<30>1 2023-11-14T22:13:20Z vm t %d t - hi\n"),
        ("rfc5424micro", rb"<30>1 2023-11-14T22:13:20.123456Z vm t %d t - hi\n"),
    ],
)
def test_syslog_formats(format: str, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    settings = {"facility": "3", "format": format, "tag": "t", "hostname": "vm"}
    message = logremote.SyslogMessages("stdout", settings).message(b"hi", NOW, None, True)
    assert message and re.fullmatch(expected % os.getpid(), message)
    stderr = logremote.SyslogMessages("stderr", settings)
    assert (stderr.message(b"x", NOW, None, True) or b"").startswith(b"<27>")
    assert stderr.message(b"", NOW, None, True) is None  # Docker sends no empty lines to syslog


# -- through a log, to a server


class Receiver:
    """A datagram or stream server that collects what comes, once it is told to."""

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind
        stream = kind in ("tcp", "unix")
        family = socket.AF_UNIX if kind in ("unix", "unixgram") else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        self.socket.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if stream:
            self.socket.listen()
        self.to = {"to:kind": kind}
        if family == socket.AF_UNIX:
            self.to["to:address"] = path
        else:
            self.to |= {"to:host": "127.0.0.1", "to:port": str(self.socket.getsockname()[1])}
        self.messages: list[bytes] = []

    def collect(self, count: int) -> threading.Thread:
        """Reads `count` lines (streams) or datagrams in the background."""

        def run() -> None:
            self.socket.settimeout(10)
            if self.kind in ("tcp", "unix"):
                connection, _ = self.socket.accept()
                with connection, connection.makefile("rb") as file:
                    self.messages += [file.readline() for _ in range(count)]
                return
            while len(self.messages) < count:
                data, rights, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
                if rights:
                    os.lseek(rights[0], 0, os.SEEK_SET)
                    data = os.read(rights[0], 1 << 24)
                    os.close(rights[0])
                self.messages.append(data)

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def turn(loop: Loop, until: Any, seconds: float = 10) -> None:
    """Runs the loop until the condition holds."""
    deadline = loop.later(seconds, loop.stop)

    def check() -> None:
        if until():
            loop.stop()
        else:
            loop.later(0.005, check)

    loop.later(0, check)
    loop.run()
    deadline.cancel()
    assert until()


def remote_log(driver: str, receiver: Receiver, loop: Loop, path: str = "", **options: str) -> Any:
    fields = {"field:facility": "3", "field:format": "", "field:tag": "t", "field:hostname": "vm"}
    if driver == "journald":
        fields = {"field:CONTAINER_NAME": "box", "field:CONTAINER_TAG": "t"}
    log = open_log(
        {"driver": driver, "path": path, "options": {**receiver.to, **fields, **options}},
        lambda fd, callback: None,
        loop,
    )
    assert log is not None
    return log


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix", "unixgram"])
def test_syslog_gets_every_line_in_order(kind: str, tmp_path: Path) -> None:
    receiver, loop = Receiver(kind, str(tmp_path / "s")), Loop()
    log = remote_log("syslog", receiver, loop)
    lines, encoder = log.stream("stdout")
    thread = receiver.collect(500)
    for number in range(500):
        log.file.write(lines.feed(b"line %d\n" % number, NOW), encoder)
        if kind == "udp":
            select.select([], [], [], 0.0002)  # udp loses what its receiver has no room for
    log.file.close()
    turn(loop, lambda: len(receiver.messages) == 500)
    thread.join()
    assert [m.rpartition(b": ")[2] for m in receiver.messages] == [b"line %d\n" % n for n in range(500)]


def test_syslog_over_tls_waits_for_a_slow_server_and_finds_it_again(tmp_path: Path) -> None:
    """A handshake under way and a full socket block this log only; the connection that broke is made anew."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("logs.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    receiver, loop = Receiver("tcp", ""), Loop()
    receiver.to |= {"to:kind": "tcp+tls", "to:name": "logs.example", "to:ca": str(tmp_path / "ca.pem")}
    log = remote_log("syslog", receiver, loop)
    lines, encoder = log.stream("stdout")

    def serve(count: int) -> threading.Thread:
        def run() -> None:
            plain, _ = receiver.socket.accept()
            with context.wrap_socket(plain, server_side=True) as secured, secured.makefile("rb") as file:
                receiver.messages += [file.readline() for _ in range(count)]

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(number: int) -> None:
        log.file.write(lines.feed(b"%01000d\n" % number, NOW), encoder)

    write(0)
    assert log.file.blocked
    thread = serve(1)
    turn(loop, lambda: not log.file.blocked)
    thread.join()
    while not log.file._sink.dropped:  # the server has closed: a write or two, and it is noticed
        write(1)
        turn(loop, lambda: not log.file.blocked)
    assert len(receiver.messages) == 1
    thread = serve(20_000)
    for number in range(2, 20_002):
        write(number)
    assert log.file.blocked
    turn(loop, lambda: len(receiver.messages) == 20_001)
    thread.join()
    found = [int(m.rpartition(b": ")[2]) for m in receiver.messages]
    assert found == [0, *range(2, 20_002)]
    log.file.close()


def fields_of(datagram: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[9 + size :]
        fields[name.decode()] = value
    return fields


def test_the_journals_native_protocol(tmp_path: Path) -> None:
    receiver, loop = Receiver("unixgram", str(tmp_path / "s")), Loop()
    log = remote_log("journald", receiver, loop, **{"field:MULTI": "a\nb"})
    lines, encoder = log.stream("stderr")
    thread = receiver.collect(5)
    long = b"x" * (2 * LIMIT + 10) + b"\n"
    log.file.write(lines.feed(b"one\n\n" + long, NOW), encoder)
    log.file.close()
    turn(loop, lambda: len(receiver.messages) == 5)
    thread.join()
    found = [fields_of(m) for m in receiver.messages]
    first = found[0]
    assert first["MESSAGE"] == b"one" and first["PRIORITY"] == b"3" and first["MULTI"] == b"a\nb"
    assert first["CONTAINER_NAME"] == b"box" and first["CONTAINER_LOG_ORDINAL"] == b"1"
    assert len(first["CONTAINER_LOG_EPOCH"]) == 64
    assert len({f["CONTAINER_LOG_EPOCH"] for f in found}) == 1
    assert first["SYSLOG_TIMESTAMP"] == b"2023-11-14T22:13:20.123456789Z"
    assert found[1]["MESSAGE"] == b"" and "CONTAINER_PARTIAL_ID" not in found[1]
    pieces = found[2:]
    assert b"".join(p["MESSAGE"] for p in pieces) == long[:-1]
    assert [p["CONTAINER_PARTIAL_ORDINAL"] for p in pieces] == [b"1", b"2", b"3"]
    assert [p["CONTAINER_PARTIAL_LAST"] for p in pieces] == [b"false", b"false", b"true"]
    assert len({p["CONTAINER_PARTIAL_ID"] for p in pieces}) == 1


def test_a_message_too_large_for_a_datagram_goes_in_a_memory_file(tmp_path: Path) -> None:
    receiver, loop = Receiver("unixgram", str(tmp_path / "s")), Loop()
    log = remote_log("journald", receiver, loop, **{"field:LARGE": "y" * 1_000_000})
    lines, encoder = log.stream("stdout")
    thread = receiver.collect(1)
    log.file.write(lines.feed(b"hi\n", NOW), encoder)
    turn(loop, lambda: len(receiver.messages) == 1)
    thread.join()
    assert len(fields_of(receiver.messages[0])["LARGE"]) == 1_000_000
    log.file.close()


def test_a_slow_receiver_blocks_this_log_until_it_reads_and_loses_nothing(tmp_path: Path) -> None:
    receiver, loop = Receiver("unixgram", str(tmp_path / "s")), Loop()
    log = remote_log("syslog", receiver, loop)
    lines, encoder = log.stream("stdout")
    ready: list[bool] = []
    log.file.on_ready = lambda: ready.append(True)
    count = 0
    while not log.file.blocked:
        log.file.write(lines.feed(b"%d\n" % count, NOW), encoder)
        count += 1
        assert count < 10_000
    thread = receiver.collect(count)
    turn(loop, lambda: not log.file.blocked)
    assert ready
    thread.join()
    assert [int(m.rpartition(b": ")[2]) for m in receiver.messages] == list(range(count))
    log.file.close()


def test_non_blocking_keeps_its_buffer_and_drops_what_comes_after(tmp_path: Path) -> None:
    receiver, loop = Receiver("unixgram", str(tmp_path / "s")), Loop()
    options = {"mode": "non-blocking", "max-buffer-bytes": "10000"}
    log = remote_log("syslog", receiver, loop, **options)
    lines, encoder = log.stream("stdout")
    for number in range(5000):
        log.file.write(lines.feed(b"%d\n" % number, NOW), encoder)
        assert not log.file.blocked
    receiver.socket.setblocking(False)
    got: list[int] = []

    def drained() -> bool:
        while True:
            try:
                got.append(int(receiver.socket.recv(1000).rpartition(b": ")[2]))
            except BlockingIOError:
                return not log.file._sink._queue

    turn(loop, drained)
    drained()
    assert got == list(range(len(got))) and 100 < len(got) < 5000
    log.file.close()


def test_a_receiver_that_comes_back_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first, loop = Receiver("unix", str(path)), Loop()
    log = remote_log("syslog", first, loop)
    lines, encoder = log.stream("stdout")
    thread = first.collect(1)
    log.file.write(lines.feed(b"before\n", NOW), encoder)
    thread.join()
    first.socket.close()
    path.unlink()
    log.file.write(lines.feed(b"lost\n", NOW), encoder)
    log.file.write(lines.feed(b"lost too\n", NOW), encoder)
    assert not log.file.blocked
    second = Receiver("unix", str(path))
    thread = second.collect(1)
    log.file.write(lines.feed(b"after\n", NOW), encoder)
    thread.join()
    assert second.messages[0].endswith(b": after\n")
    log.file.close()


def test_a_copy_for_reading_is_kept_beside(tmp_path: Path) -> None:
    receiver, loop = Receiver("unixgram", str(tmp_path / "s")), Loop()
    path = tmp_path / "cached.log"
    options = {"cache-max-size": "1k", "cache-max-file": "2", "cache-compress": "false"}
    log = remote_log("syslog", receiver, loop, str(path), **options)
    lines, encoder = log.stream("stdout")
    thread = receiver.collect(100)
    for number in range(100):
        log.file.write(lines.feed(b"line %d\n" % number, NOW), encoder)
        turn(loop, lambda: not log.file.blocked)
    thread.join()
    assert b"line 99" in path.read_bytes() and 0 < path.stat().st_size < 1100
    assert (tmp_path / "cached.log.1").exists() and not (tmp_path / "cached.log.2").exists()
    log.file.close()


def test_a_receiver_that_never_reads_is_given_up_when_the_container_is_gone(tmp_path: Path) -> None:
    receiver, loop = Receiver("unixgram", str(tmp_path / "s")), Loop()
    path = tmp_path / "cached.log"
    log = remote_log("syslog", receiver, loop, str(path))
    lines, encoder = log.stream("stdout")
    while not log.file.blocked:
        log.file.write(lines.feed(b"line\n", NOW), encoder)
    before = len(os.listdir("/proc/self/fd"))
    log.file.give_up()
    assert not log.file.blocked and len(os.listdir("/proc/self/fd")) == before - 1
    log.file.write(lines.feed(b"the last\n", NOW), encoder)
    assert not log.file.blocked and b"the last" in path.read_bytes()
    log.file.close()

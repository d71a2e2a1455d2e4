"""Containers of front ends (gateway.exec), as the wire has them. A dockerd, where one is, is asked the same."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from daemon.build.proto import control_pb2, gateway_pb2
from daemon.build.proto import ops_pb2 as pb
from tests.system.build import peers
from tests.system.build.frontend_program import Graph, source
from tests.system.build.grpc_peer import channel, stub
from tests.system.build.test_buildx import until
from tests.system.host import Host

PEER = pytest.param("dockerd", marks=pytest.mark.peer)
PATH = ["PATH=/bin:/usr/bin"]
Message = gateway_pb2.ExecMessage
KILLED, NOBODY_KNOWS = 137, (1 << 32) - 1
"""What a killed process's status is here, and at BuildKit with runc."""


@pytest.fixture(scope="module")
def ours(host: Host, busybox_tar: Path) -> Iterator[Path]:
    with peers.based(host.url, busybox_tar):
        yield host.socket


@pytest.fixture(scope="module")
def theirs(busybox_tar: Path) -> Iterator[Path]:
    with peers.based(peers.SOCKET, busybox_tar):
        yield Path(peers.SOCKET.removeprefix("unix://"))


@pytest.fixture(params=["pyd", PEER])
def door(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue("ours" if request.param == "pyd" else "theirs")
    return path


# -- a front end that is this process


@dataclass
class Ended:
    """What a process said and how it ended; `kinds`: the messages, in their order, repetitions left out."""

    out: dict[int, bytes] = field(default_factory=dict)
    code: int = -1
    error: str = ""
    kinds: list[str] = field(default_factory=list)


class Front:
    def __init__(self, bridge: Any, metadata: dict[str, str]) -> None:
        self._bridge, self._metadata = bridge, metadata

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self._bridge, method)(request, metadata=self._metadata, timeout=30)

    async def tree(self, *lines: str) -> str:
        """A reference to the base's tree, and what the commands did to it."""
        graph = Graph()
        graph.add(
            source(f"docker-image://docker.io/library/{peers.BASE}", **{"image.resolvemode": "local"}), "base"
        )
        for line in lines:
            meta = pb.Meta(args=["/bin/sh", "-c", line], env=PATH, cwd="/")
            mounts = [pb.Mount(input=0, dest="/", output=0)]
            graph.add(pb.Op(inputs=graph.inputs(), exec=pb.ExecOp(meta=meta, mounts=mounts)), line)
        request = gateway_pb2.SolveRequest(
            definition=graph.definition(), allow_result_return=True, allow_result_array_ref=True
        )
        return str((await self.call("Solve", request)).result.ref.id)

    async def container(self, *mounts: pb.Mount, **more: Any) -> str:
        id = secrets.token_hex(8)
        await self.call(
            "NewContainer", gateway_pb2.NewContainerRequest(container_id=id, mounts=mounts, **more)
        )
        return id

    async def release(self, id: str) -> None:
        """BuildKit answers with the error of the first process, if it ended with one."""
        with contextlib.suppress(GRPCError):
            await self.call("ReleaseContainer", gateway_pb2.ReleaseContainerRequest(container_id=id))

    @contextlib.asynccontextmanager
    async def talk(self) -> AsyncIterator[Any]:
        async with self._bridge.ExecProcess.open(metadata=self._metadata, timeout=30) as stream:
            yield stream
            await stream.end()


def root(ref: str) -> pb.Mount:
    return pb.Mount(dest="/", result_id=ref)


def started(container: str, *args: str, id: str = "p", fds: tuple[int, ...] = (1, 2), **more: Any) -> Message:
    meta = pb.Meta(args=args, env=more.pop("env", PATH), cwd=more.pop("cwd", "/"), user=more.pop("user", ""))
    init = gateway_pb2.InitMessage(container_id=container, meta=meta, fds=fds, **more)
    return Message(process_id=id, init=init)


def given(data: bytes, id: str = "p", *, eof: bool = False) -> Message:
    return Message(process_id=id, file=gateway_pb2.FdMessage(fd=0, data=data, eof=eof))


async def ended(stream: Any, id: str = "p", on: Callable[[Message], Awaitable[None]] | None = None) -> Ended:
    """Reads to the process's end."""
    found = Ended()
    async for message in stream:
        if message.process_id != id:
            continue
        kind = message.WhichOneof("input")
        shown = "eof" if kind == "file" and message.file.eof else kind
        if not found.kinds or found.kinds[-1] != shown:
            found.kinds.append(shown)
        if kind == "file":
            found.out[message.file.fd] = found.out.get(message.file.fd, b"") + message.file.data
        elif kind == "exit":
            found.code, found.error = message.exit.code, message.exit.error.message
        if on is not None:
            await on(message)
        if kind == "done":
            return found
    return found


async def ran(front: Front, container: str, *args: str, **more: Any) -> Ended:
    async with front.talk() as stream:
        await stream.send_message(started(container, *args, **more))
        return await ended(stream)


@contextlib.asynccontextmanager
async def fronting(door: Path) -> AsyncIterator[Front]:
    async with channel(door) as connection:
        ref = secrets.token_hex(12)
        control, bridge = stub(connection, control_pb2, "Control"), stub(connection, gateway_pb2, "LLBBridge")
        solving = asyncio.ensure_future(control.Solve(control_pb2.SolveRequest(ref=ref)))
        front = Front(bridge, {"buildkit-controlapi-buildid": ref})
        try:
            yield front
            with contextlib.suppress(GRPCError, StreamTerminatedError):
                await front.call("Return", gateway_pb2.ReturnRequest(result=gateway_pb2.Result()))
                await asyncio.wait_for(solving, 20)
        finally:
            solving.cancel()
            await asyncio.gather(solving, return_exceptions=True)


def building(door: Path, work: Callable[[Front], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with fronting(door) as front:
            return await work(front)

    return asyncio.run(asyncio.wait_for(run(), 60))


# -- processes


def test_a_process_and_how_it_ends(door: Path) -> None:
    async def work(front: Front) -> list[Ended]:
        ref = await front.tree("echo built > /b")
        container = await front.container(root(ref))
        first = await ran(front, container, "/bin/sh", "-c", "cat /b; echo no >&2; echo w > /w; exit 3")
        await front.release(container)
        other = await front.container(root(ref))
        second = await ran(front, other, "/bin/sh", "-c", "cat /w; pwd; id -u; echo $A", env=[*PATH, "A=b"],
                           cwd="/tmp", user="user")  # fmt: skip
        await front.release(other)
        return [first, second]

    first, second = building(door, work)
    assert (first.out[1], first.out[2], first.code) == (b"built\n", b"no\n", 3)
    assert first.error == "exit code: 3"
    assert first.kinds[0] == "started" and first.kinds[-1] == "done" and "exit" in first.kinds
    assert second.out[1] == b"/tmp\n1000\nb\n"
    assert b"can't open '/w'" in second.out[2]
    assert (second.code, second.error) == (0, "")


def test_input_and_its_end(door: Path) -> None:
    async def work(front: Front) -> Ended:
        container = await front.container(root(await front.tree()))
        async with front.talk() as stream:
            await stream.send_message(started(container, "cat", fds=(0, 1, 2)))

            async def feed(message: Message) -> None:
                if message.WhichOneof("input") == "started":
                    for _ in range(3):
                        await stream.send_message(given(b"x" * 100_000))
                    await stream.send_message(given(b"", eof=True))

            return await ended(stream, on=feed)

    found = building(door, work)
    assert (len(found.out[1]), found.code) == (300_000, 0)


def test_done_waits_for_the_clients_end_of_input(ours: Path) -> None:
    """BuildKit's clients say it when they hear of the exit (at BuildKit that waits for it, without a terminal)."""

    async def work(front: Front) -> Ended:
        container = await front.container(root(await front.tree()))
        async with front.talk() as stream:
            await stream.send_message(started(container, "true", fds=(0, 1)))

            async def close(message: Message) -> None:
                if message.WhichOneof("input") == "exit":
                    await stream.send_message(given(b"", eof=True))

            return await ended(stream, on=close)

    assert building(ours, work).kinds[-1] == "done"


def test_a_terminal_its_size_and_keys(door: Path) -> None:
    async def work(front: Front) -> Ended:
        container = await front.container(root(await front.tree()))
        async with front.talk() as stream:
            await stream.send_message(started(container, "sh", fds=(0, 1, 2), tty=True))
            seen = b""

            async def type_(message: Message) -> None:
                nonlocal seen
                kind = message.WhichOneof("input")
                if kind == "started":
                    size = gateway_pb2.ResizeMessage(rows=33, cols=77)
                    await stream.send_message(Message(process_id="p", resize=size))
                    await asyncio.sleep(0.2)
                    await stream.send_message(given(b"stty size; echo $TERM; sleep 1000\n"))
                if kind == "file":
                    seen += message.file.data
                    if b"xterm\r\n" in seen:
                        seen = b""
                        await stream.send_message(given(b"\x03"))
                        await stream.send_message(given(b"exit 5\n"))
                if kind == "exit":
                    await stream.send_message(given(b"", eof=True))

            return await ended(stream, on=type_)

    found = building(door, work)
    assert b"33 77\r\n" in found.out[1]
    assert (found.out.get(2, b""), found.code) == (b"", 5)


def test_signals(door: Path) -> None:
    async def work(front: Front) -> list[Ended]:
        container = await front.container(root(await front.tree()))
        command = "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.1; done"
        ends = []
        async with front.talk() as stream:
            await stream.send_message(started(container, "sh", "-c", command))

            async def kick(message: Message) -> None:
                if message.WhichOneof("input") == "file" and b"ready" in message.file.data:
                    kill = gateway_pb2.SignalMessage(name="USR1")
                    await stream.send_message(Message(process_id="p", signal=kill))

            ends.append(await ended(stream, on=kick))
        container = await front.container(root(await front.tree()))
        async with front.talk() as stream:
            await stream.send_message(started(container, "sleep", "1000"))

            async def shoot(message: Message) -> None:
                if message.WhichOneof("input") == "started":
                    kill = gateway_pb2.SignalMessage(name="KILL")
                    await stream.send_message(Message(process_id="p", signal=kill))

            ends.append(await ended(stream, on=shoot))
        return ends

    first, second = building(door, work)
    assert (first.out[1], first.code) == (b"ready\ngot it\n", 9)
    assert second.code in (KILLED, NOBODY_KNOWS)


def test_several_processes_share_a_container(door: Path) -> None:
    async def work(front: Front) -> list[Ended]:
        container = await front.container(root(await front.tree()))
        async with front.talk() as stream:
            await stream.send_message(started(container, "sleep", "1000", id="init", fds=()))
            await ended_at(stream, "started")
            ends = []
            for id, command in (
                ("a", "echo of a > /shared; pwd"),
                ("b", "cat /shared; exit 4"),
            ):
                await stream.send_message(started(container, "sh", "-c", command, id=id))
                ends.append(await ended(stream, id))
            kill = gateway_pb2.SignalMessage(name="KILL")
            await stream.send_message(Message(process_id="init", signal=kill))
            ends.append(await ended(stream, "init"))
        ends.append(await ran(front, container, "true"))
        return ends

    first, second, init, late = building(door, work)
    assert first.out[1] == b"/\n"
    assert (second.out[1], second.code) == (b"of a\n", 4)
    assert init.code in (KILLED, NOBODY_KNOWS)
    assert late.code != 0


async def ended_at(stream: Any, kind: str) -> None:
    async for message in stream:
        if message.WhichOneof("input") == kind:
            return


def test_a_program_that_is_not_there(door: Path) -> None:
    async def work(front: Front) -> Ended:
        container = await front.container(root(await front.tree()))
        return await ran(front, container, "/nosuch")

    found = building(door, work)
    assert (found.code, found.error) == (1, "exit code: 1")
    assert b"/nosuch" in found.out[2] and b"no such file or directory" in found.out[2]


# -- what is in it


def test_mounts_network_and_names(door: Path) -> None:
    async def work(front: Front) -> Ended:
        ref = await front.tree("mkdir /d; echo below > /d/f")
        mounts = [
            root(ref),
            pb.Mount(dest="/again", result_id=ref, selector="/d"),
            pb.Mount(dest="/read", result_id=ref, readonly=True),
            pb.Mount(dest="/mem", mount_type=pb.MountType.TMPFS),
            pb.Mount(
                dest="/cache", mount_type=pb.MountType.CACHE, cache_opt=pb.CacheOpt(id=secrets.token_hex(4))
            ),
            pb.Mount(dest="/empty"),
        ]
        more = {
            "network": pb.NetMode.NONE,
            "hostname": "named",
            "extra_hosts": [pb.HostIP(host="x", ip="1.2.3.4")],
        }
        container = await front.container(*mounts, **more)
        command = (
            "cat /again/f; echo new > /again/f && cat /again/f /read/d/f; echo x 2>/dev/null > /read/y || echo kept; "
            "touch /mem/a /cache/b /empty/c; ls /mem; ls /cache; ls /empty; hostname; grep -c 1.2.3.4 /etc/hosts; "
            "ls /sys/class/net"
        )
        return await ran(front, container, "sh", "-c", command)

    lines = building(door, work).out[1].decode().split("\n")
    assert lines == ["below", "new", "below", "kept", "a", "b", "c", "named", "1", "lo", ""]


def test_what_a_failed_step_left(door: Path) -> None:
    """The error of a step tells by what its mounts can be had again: as they were, and as they are."""

    async def work(front: Front) -> tuple[Any, Ended, Ended]:
        ref = await front.tree("echo before > /b", "echo after > /a; exit 6")
        with pytest.raises(GRPCError) as caught:
            await front.call("Evaluate", gateway_pb2.EvaluateRequest(ref=ref))
        told = solve_error(caught.value)
        ends = []
        for ids in (told["mountIDs"], told["inputIDs"]):
            container = await front.container(root(ids[0]))
            ends.append(await ran(front, container, "sh", "-c", "cat /b /a"))
            await front.release(container)
        return told, *ends

    told, after, before = building(door, work)
    assert told["op"]["exec"]["meta"]["args"] == ["/bin/sh", "-c", "echo after > /a; exit 6"]
    assert told["op"]["exec"]["mounts"][0]["dest"] == "/"
    assert (after.out[1], after.code) == (b"before\nafter\n", 0)
    assert (before.out[1], before.code) == (b"before\n", 1)


def solve_error(error: GRPCError) -> Any:
    import json

    for each in error.details or ():
        if each.type_url.endswith("errdefs.Solve+json"):
            return json.loads(each.value)
    raise AssertionError([each.type_url for each in error.details or ()])


# -- refusals


def test_what_breaks_the_rules(door: Path) -> None:
    async def work(front: Front) -> list[Status]:
        ref = await front.tree()
        container = await front.container(root(ref))
        found = []

        async def refused(*messages: Message) -> None:
            try:
                async with front.talk() as stream:
                    for message in messages:
                        await stream.send_message(message)
            except GRPCError as error:
                found.append(error.status)

        kill = gateway_pb2.SignalMessage(name="NONE")
        await refused(started("nowhere", "true"))
        await refused(started(container, "true", id=""))
        await refused(given(b"x"))
        await refused(started(container, "sleep", "0.1"), started(container, "true"))
        await refused(Message(process_id="p", signal=kill))
        for method, request in (
            ("NewContainer", gateway_pb2.NewContainerRequest(container_id=container, mounts=[root(ref)])),
            ("ReleaseContainer", gateway_pb2.ReleaseContainerRequest(container_id="nowhere")),
            ("NewContainer", gateway_pb2.NewContainerRequest(container_id="x", mounts=[root("nowhere")])),
        ):
            with pytest.raises(GRPCError) as caught:
                await front.call(method, request)
            found.append(caught.value.status)
        return found

    assert building(door, work) == [
        Status.NOT_FOUND, Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.ALREADY_EXISTS, Status.NOT_FOUND,
        Status.ALREADY_EXISTS, Status.UNKNOWN, Status.UNKNOWN,
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["the build ends", "the client goes"])
def test_nothing_is_left(ours: Path, how: str, leftovers: Callable[[], list[str]]) -> None:
    async def work(front: Front) -> None:
        container = await front.container(root(await front.tree()))
        async with front.talk() as stream:
            await stream.send_message(started(container, "sleep", "1000"))
            await ended_at(stream, "started")
            await stream.send_message(started(container, "sleep", "1000", id="q"))
            await ended_at(stream, "started")
            assert leftovers()
            if how == "the client goes":
                raise ConnectionAbortedError
            await front.call("Return", gateway_pb2.ReturnRequest(result=gateway_pb2.Result()))
            async for _ in stream:
                pass

    with contextlib.suppress(ConnectionAbortedError, GRPCError):
        building(ours, work)
    until(lambda: not leftovers())

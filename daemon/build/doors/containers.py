"""Containers of front ends (gateway.exec): what `buildx debug` looks into a build with.

    Containers   those of one front end, by the IDs that it gave them; gone when it is
    Container    mounts of references, or of what a failed step left; the first process is its init, more run beside it
    Talk         ExecProcess: one stream, any number of processes, each with its own stdio, signals and end

A root and what is mounted writably are thrown away. Messages in the order in which a client can rely on them: Started,
File... (with EOF for each descriptor), Exit, and Done when the client has ended the process's input as well.

Source: BuildKit frontend/gateway (gateway.go, container/container.go, grpcclient/client.go).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.build.bench import SCRATCH, Bench, Job, Result
from daemon.build.frontend.places import joined
from daemon.build.graph import Exec, ExecMount
from daemon.build.llb.decodeexec import NETWORKS, mounted
from daemon.build.proto import gateway_pb2 as gateway
from daemon.build.proto import ops_pb2 as pb
from daemon.build.proto import rpc_pb2
from daemon.build.solver import entitlements, runmounts, secretmounts
from daemon.build.solver.layering import Active
from daemon.build.solver.processes import HEADER, Ended, Process, ProcessFailed, Stdio
from daemon.containers import signals
from daemon.rpc.status import Refusal, Status
from daemon.runtime.client import RuntimeCallError
from storage.errors import InvalidArgument, NotFound, PydError

if TYPE_CHECKING:
    from daemon.build.doors.bridge import Bridge

UNKNOWN_EXIT = 255
"""gatewayapi.UnknownExitStatus: it did not run, or nobody knows."""
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIECE = 64 << 10
_LATE = 10.0
"""Seconds that the output of an ended process may take."""
Message = gateway.ExecMessage
Receive = Callable[[], Awaitable[Message | None]]
Send = Callable[[Message], Awaitable[None]]


class Containers:
    def __init__(self, bench: Bench, job: Job, bridge: Bridge) -> None:
        self._bench, self._job, self._bridge = bench, job, bridge
        self._known: dict[str, Container] = {}

    async def create(self, request: gateway.NewContainerRequest) -> None:
        """Refusal when there is one of that ID; else the errors of its mounts."""
        id = request.container_id
        if id in self._known:
            raise Refusal(Status.ALREADY_EXISTS, f"Container {id} already exists")
        trees = [await self._tree(mount) for mount in request.mounts]
        made = self._known[id] = Container(self._bench, self._job, request, trees)
        try:
            await made.prepare()
        except BaseException:
            del self._known[id]
            await asyncio.shield(made.release())
            raise

    async def _tree(self, mount: pb.Mount) -> Result | None:
        if not mount.result_id:
            return None
        if (left := (self._job.left or {}).get(mount.result_id)) is not None:
            return left
        try:
            ref = self._bridge.ref(mount.result_id)
        except NotFound as error:
            told = f'failed to find ref {mount.result_id} for "{mount.dest}" mount: {error}'
            raise NotFound(told) from None
        (tree,) = await self._bridge.trees([ref])
        return tree

    def get(self, id: str) -> Container:
        if (found := self._known.get(id)) is None:
            raise Refusal(Status.NOT_FOUND, f'container "{id}" previously released or not created')
        return found

    async def release(self, id: str) -> None:
        """Kills what runs in it; nothing is left."""
        if (found := self._known.pop(id, None)) is None:
            raise NotFound(f"container details for {id} not found")
        await asyncio.shield(found.release())

    async def close(self) -> None:
        while self._known:
            _, container = self._known.popitem()
            await container.release()


class Container:
    """`trees`: one a mount of the request's, None where it names none."""

    def __init__(
        self, bench: Bench, job: Job, request: gateway.NewContainerRequest, trees: list[Result | None]
    ) -> None:
        self._bench, self._job, self._request, self._trees = bench, job, request, trees
        self._stack = contextlib.AsyncExitStack()
        self._starting = asyncio.Lock()
        self._init: Process | None = None
        self._ended: asyncio.Future[Ended] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._mounts: tuple[ExecMount, ...] = ()
        self._inputs: list[Result] = [SCRATCH]
        self._root = ""
        self._mounted: Process | None = None

    async def prepare(self) -> None:
        """Its root and its mounts."""
        mounts = []
        for mount, tree in zip(self._request.mounts, self._trees, strict=True):
            if joined("/", mount.dest) != "/":
                mounts.append(self._mount(mount, tree))
                continue
            if mount.mount_type != pb.MountType.BIND:
                raise InvalidArgument(
                    f"invalid mount type {pb.MountType.Name(mount.mount_type)} for {mount.dest}"
                )
            self._inputs[0] = tree or SCRATCH
        self._mounts = tuple(mounts)
        active = await self._stack.enter_async_context(Active(self._bench, self._inputs[0]))
        operation = self._operation(("container", self._request.container_id), (), "/", "")
        process = Process(self._bench, self._job, operation, active.key)
        await asyncio.to_thread(process.directory.mkdir)
        self._stack.push_async_callback(process.clean)
        process.mounted = await runmounts.prepare(
            self._bench, self._job, operation, self._inputs, process.directory, process.private, {}
        )
        self._mounted = process

    def _mount(self, mount: pb.Mount, tree: Result | None) -> ExecMount:
        place = -1
        if tree is not None:
            self._inputs.append(tree)
            place = len(self._inputs) - 1
        return mounted(mount, place, -1, "/")

    def _operation(
        self, args: tuple[str, ...], env: tuple[str, ...], cwd: str, user: str, *, insecure: bool = False
    ) -> Exec:
        request = self._request
        return Exec(
            args=args,
            env=env,
            cwd=cwd or "/",
            user=user,
            mounts=self._mounts,
            network=NETWORKS.get(request.network, "default"),
            security="insecure" if insecure else "sandbox",
            hostname=request.hostname,
            hosts=tuple(f"{each.host}:{each.ip}" for each in request.extra_hosts),
        )

    @contextlib.asynccontextmanager
    async def process(
        self, init: gateway.InitMessage, stdio: list[Stdio]
    ) -> AsyncIterator[tuple[str | None, asyncio.Future[Ended]]]:
        """Runs in the block: its name (None: the container's first), and what is set when it ends.

        The first one goes on behind the block, until the container is released.
        """
        operation = await self._asked(init)
        entitlements.check(operation, self._job.entitlements)
        async with self._starting:
            if self._mounted is None:
                raise NotFound(f'container "{self._request.container_id}" is gone')
            first = self._init is None
            if first:
                self._init = self._mounted
                self._init.operation, self._init.tty = operation, init.tty
                ended = await self._stack.enter_async_context(self._init.running(self._inputs[0], stdio))
                self._ended = ended
        if first:
            yield None, ended
            return
        assert self._init is not None
        if self._ended is None or self._ended.done():
            raise InvalidArgument(f"container {self._request.container_id} has stopped")
        async with self._init.beside(self._inputs[0], operation, stdio, tty=init.tty) as found:
            yield found

    async def _asked(self, init: gateway.InitMessage) -> Exec:
        meta = init.meta
        if not meta.args:
            raise InvalidArgument("a process without arguments")
        env = list(meta.env)
        names = {each.partition("=")[0] for each in env}
        env += [PATH] if "PATH" not in names else []
        env += ["TERM=xterm"] if init.tty and "TERM" not in names else []
        for each in init.secretenv:
            wanted = ExecMount("secret", "", id=each.id, env=each.name, required=not each.optional)
            data = await secretmounts.secret(self._job, wanted) or b""
            env.append(f"{each.name}={data.decode('utf-8', 'surrogateescape')}")
        insecure = init.security == pb.SecurityMode.INSECURE
        return self._operation(tuple(meta.args), tuple(env), meta.cwd, meta.user, insecure=insecure)

    async def signal(self, name: str | None, number: int) -> None:
        """To one of its processes; one that is over hears nothing."""
        if self._init is not None:
            with contextlib.suppress(RuntimeCallError):
                await self._bench.ctx.runtime.kill(self._init.id, number, exec_id=name)

    async def resize(self, name: str | None, rows: int, columns: int) -> None:
        if self._init is not None:
            with contextlib.suppress(RuntimeCallError):
                await self._bench.ctx.runtime.resize(self._init.id, name, rows, columns)

    async def release(self) -> None:
        async with self._starting:
            self._mounted = None
            await self._stack.aclose()


@dataclass
class _Child:
    """A process of a talk."""

    id: str
    container: Container
    tty: bool
    descriptors: frozenset[int]
    ours: socket.socket
    name: str | None = None
    started: bool = False
    writer: asyncio.StreamWriter | None = None
    input_over: asyncio.Event = field(default_factory=asyncio.Event)
    early: list[gateway.FdMessage] = field(default_factory=list)

    async def write(self, message: gateway.FdMessage) -> None:
        """Refusal for a descriptor that is not open for writing."""
        if message.fd != 0 or 0 not in self.descriptors or self.input_over.is_set():
            raise Refusal(Status.OUT_OF_RANGE, f"fd {message.fd} unavailable to write")
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.write(message.data)
                await self.writer.drain()
                if message.eof and not self.tty:
                    self.writer.write_eof()
        if message.eof:
            self.input_over.set()


class Talk:
    """One call of ExecProcess."""

    def __init__(self, containers: Containers, receive: Receive, send: Send) -> None:
        self._containers, self._receive, self._sender = containers, receive, send
        self._sending = asyncio.Lock()
        self._children: dict[str, _Child] = {}
        self._following: set[asyncio.Task[None]] = set()

    async def _send(self, message: Message) -> None:
        async with self._sending:
            await self._sender(message)

    async def run(self) -> None:
        """Until the client has said all and every process is over. Refusal for what breaks the rules."""
        try:
            while (message := await self._receive()) is not None:
                await self._take(message)
            await asyncio.gather(*self._following)
        finally:
            for task in self._following:
                task.cancel()
            await asyncio.gather(*self._following, return_exceptions=True)

    async def _take(self, message: Message) -> None:
        id, kind = message.process_id, message.WhichOneof("input")
        if not id:
            raise Refusal(Status.INVALID_ARGUMENT, "ProcessID required")
        child = self._children.get(id)
        if kind == "init":
            if child is not None:
                raise Refusal(Status.ALREADY_EXISTS, f"Process {id} already exists")
            await self._begin(id, message.init)
        elif kind in ("file", "resize", "signal"):
            if child is None:
                raise Refusal(Status.NOT_FOUND, f'IO for process "{id}" not found')
            if kind == "file":
                await child.write(message.file)
            elif kind == "resize":
                await child.container.resize(child.name, message.resize.rows, message.resize.cols)
            else:
                await child.container.signal(child.name, _number(message.signal.name))

    async def _begin(self, id: str, init: gateway.InitMessage) -> None:
        """Returns when it runs, or has failed to."""
        container = self._containers.get(init.container_id)
        ours, theirs = socket.socketpair()
        child = self._children[id] = _Child(id, container, init.tty, frozenset(init.fds), ours)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._follow(child, init, theirs, begun))
        self._following.add(task)
        await asyncio.wait((task, begun), return_when=asyncio.FIRST_COMPLETED)

    async def _follow(
        self, child: _Child, init: gateway.InitMessage, theirs: socket.socket, begun: asyncio.Future[None]
    ) -> None:
        wants = child.descriptors
        stdio = Stdio(theirs, stdin=0 in wants, stdout=1 in wants, stderr=2 in wants, framed=not init.tty)
        status, error = UNKNOWN_EXIT, ""
        started, refused = False, b""
        child.ours.setblocking(False)
        reader, child.writer = await asyncio.open_connection(sock=child.ours)
        try:
            async with child.container.process(init, [stdio]) as (child.name, ended):
                await self._send(Message(process_id=child.id, started=gateway.StartedMessage()))
                started = True
                begun.set_result(None)
                reading = asyncio.ensure_future(self._output(child, reader))
                try:
                    status, _ = await asyncio.shield(ended)
                    await asyncio.wait((reading,), timeout=_LATE)
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        except ProcessFailed as failure:  # the runtime says so on stderr there
            status, refused = 1, f"{failure.reason}\n".encode()
        except PydError as failure:
            error = str(failure)
        finally:
            child.writer.close()
            child.writer = None
            theirs.close()
        if not started:
            await self._send(Message(process_id=child.id, started=gateway.StartedMessage()))
            begun.set_result(None)
        if refused:
            number = 1 if init.tty else 2
            await self._say(child, number, refused)
        await self._over(child, status, error or (f"exit code: {status}" if status else ""))

    async def _output(self, child: _Child, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                number, size = 1, 0
                if child.tty:
                    data = await reader.read(_PIECE)
                    if not data:
                        return
                else:
                    number, size = HEADER.unpack(await reader.readexactly(HEADER.size))
                    data = await reader.readexactly(size)
                await self._say(child, number, data)

    async def _say(self, child: _Child, number: int, data: bytes) -> None:
        if number in child.descriptors:
            file = gateway.FdMessage(fd=number, data=data)
            await self._send(Message(process_id=child.id, file=file))

    async def _over(self, child: _Child, status: int, error: str) -> None:
        for number in sorted(child.descriptors - {0}):
            await self._send(Message(process_id=child.id, file=gateway.FdMessage(fd=number, eof=True)))
        end = gateway.ExitMessage(code=status)
        if error:
            end.error.CopyFrom(rpc_pb2.Status(code=Status.UNKNOWN, message=error))
        await self._send(Message(process_id=child.id, exit=end))
        if 0 in child.descriptors:
            await child.input_over.wait()
        await self._send(Message(process_id=child.id, done=gateway.DoneMessage()))


def _number(name: str) -> int:
    try:
        return signals.parse(name)
    except InvalidArgument:
        raise Refusal(Status.INVALID_ARGUMENT, f"Unknown signal {name}") from None

"""A front end of the tests' own, to be run as an image: it reads a file of orders and builds what they say.

    # syntax=IMAGE            FROM NAME               the base; scratch without
    WRITE PATH TEXT           a file                  RUN COMMAND          a step
    SEEN PATH                 a file with all that it knows: environment, options, what Ping and Inputs say
    SAY TEXT                  on stderr               WARN TEXT            a warning of the build
    EVALUATE                  solves what there is    CAT PATH             on stderr, of what there is
    LIST PATH, STAT PATH      on stderr as well       INPUT NAME           the base is an input, or the first
    FAIL TEXT                 Return with an error    EXIT STATUS          at once
    HANG                      does nothing for long   CHILD COMMAND        a container: its output to stderr

It speaks gRPC over its stdin and stdout as BuildKit's front ends do. It runs in an image that
has nothing but this machine's Python and what is imported here (frontend_image.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterable
from typing import Any

from grpclib.exceptions import GRPCError

from daemon.build.proto import gateway_pb2, rpc_pb2
from daemon.build.proto import ops_pb2 as pb
from tests.system.build.grpc_peer import Hijacked, stub

OPTION = "BUILDKIT_FRONTEND_OPT_"


def connected() -> socket.socket:
    """stdin and stdout, pipes or whatever they are, as one socket."""
    ours, theirs = socket.socketpair()

    def inwards() -> None:
        while data := os.read(0, 1 << 16):
            theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)

    def outwards() -> None:
        while data := theirs.recv(1 << 16):
            while data:
                data = data[os.write(1, data) :]

    for work in (inwards, outwards):
        threading.Thread(target=work, daemon=True).start()
    return ours


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def options() -> dict[str, str]:
    found = {}
    for name, value in os.environ.items():
        if name.startswith(OPTION):
            key, _, rest = value.partition("=")
            found[key] = rest
    return found


# -- definitions


class Graph:
    """A chain of operations; `output` is the digest of the last, empty for scratch."""

    def __init__(self) -> None:
        self.ops: list[bytes] = []
        self.names: dict[str, str] = {}
        self.output, self.index = "", 0

    def add(self, op: pb.Op, name: str, index: int = 0) -> None:
        op.platform.CopyFrom(pb.Platform(os="linux", architecture="amd64"))
        data = op.SerializeToString(deterministic=True)
        self.ops.append(data)
        self.output, self.index = f"sha256:{hashlib.sha256(data).hexdigest()}", index
        self.names[self.output] = name

    def inputs(self) -> list[pb.Input]:
        return [pb.Input(digest=self.output, index=self.index)] if self.output else []

    def take(self, definition: pb.Definition) -> None:
        """Goes on from a definition of others."""
        *ops, last = definition.ops
        self.ops += ops
        (head,) = pb.Op.FromString(last).inputs
        self.output, self.index = head.digest, head.index

    def definition(self) -> pb.Definition:
        made = pb.Definition(ops=self.ops)
        for digest, name in self.names.items():
            made.metadata[digest].description["llb.customname"] = name
        if self.output:
            made.ops.append(pb.Op(inputs=self.inputs()).SerializeToString())
        return made


def source(identifier: str, **attrs: str) -> pb.Op:
    return pb.Op(source=pb.SourceOp(identifier=identifier, attrs=attrs))


def written(graph: Graph, path: str, data: bytes) -> pb.Op:
    made = pb.FileActionMkFile(path=path, mode=0o644, data=data, timestamp=-1)
    action = pb.FileAction(input=0 if graph.output else -1, secondary_input=-1, output=0, mkfile=made)
    return pb.Op(inputs=graph.inputs(), file=pb.FileOp(actions=[action]))


def ran(graph: Graph, command: str) -> pb.Op:
    meta = pb.Meta(args=["/bin/sh", "-c", command], env=["PATH=/bin:/usr/bin"], cwd="/")
    return pb.Op(
        inputs=graph.inputs(), exec=pb.ExecOp(meta=meta, mounts=[pb.Mount(input=0, dest="/", output=0)])
    )


# -- the front end


class FrontEnd:
    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.graph = Graph()
        self.config: dict[str, Any] = {}
        self.options = options()

    async def solve(self, definition: pb.Definition, *, evaluate: bool = False) -> str:
        request = gateway_pb2.SolveRequest(
            definition=definition, allow_result_return=True, allow_result_array_ref=True, evaluate=evaluate
        )
        answer = await self.bridge.Solve(request)
        return str(answer.result.ref.id)

    async def current(self) -> str:
        return await self.solve(self.graph.definition())

    async def orders(self) -> list[str]:
        graph = Graph()
        name = self.options.get("filename") or "Dockerfile"
        session = os.environ["BUILDKIT_SESSION_ID"]
        attrs = {"local.session": session, "local.followpaths": json.dumps([name])}
        attrs |= {"local.sharedkeyhint": "dockerfile"}
        local = self.options.get("dockerfilekey") or "dockerfile"
        graph.add(source(f"local://{local}", **attrs), "[front end] load orders")
        ref = await self.solve(graph.definition())
        found = await self.bridge.ReadFile(gateway_pb2.ReadFileRequest(ref=ref, file_path=name))
        lines = found.data.decode().splitlines()
        return [line for line in lines if line and not line.startswith(("#", "//"))]

    async def run(self) -> None:
        for line in await self.orders():
            word, _, rest = line.partition(" ")
            await getattr(self, f"on_{word.lower()}")(rest)

    async def on_from(self, name: str) -> None:
        asked = pb.SourceOp(identifier=f"docker-image://{name}")
        request = gateway_pb2.ResolveSourceMetaRequest(
            source=asked, resolve_mode="local", log_name=f"[front end] look at {name}"
        )
        found = await self.bridge.ResolveSourceMeta(request)
        self.config = json.loads(found.image.config)
        self.graph.add(source(found.source.identifier), f"[front end] FROM {name}")

    async def on_input(self, name: str) -> None:
        found = await self.bridge.Inputs(gateway_pb2.InputsRequest())
        self.graph.take(found.definitions[name or min(found.definitions)])

    async def on_write(self, rest: str) -> None:
        path, _, text = rest.partition(" ")
        self.graph.add(written(self.graph, path, f"{text}\n".encode()), f"[front end] WRITE {path}")

    async def on_run(self, command: str) -> None:
        self.graph.add(ran(self.graph, command), f"[front end] RUN {command}")

    async def on_seen(self, path: str) -> None:
        pong = await self.bridge.Ping(gateway_pb2.PingRequest())
        inputs = await self.bridge.Inputs(gateway_pb2.InputsRequest())
        seen = {
            "environment": {k: v for k, v in os.environ.items() if not k.startswith(OPTION)},
            "options": self.options,
            "arguments": sys.argv,
            "user": os.getuid(),
            "directory": os.getcwd(),
            "network": sorted(os.listdir("/sys/class/net")),
            "definition": len(read("/run/config/buildkit/metadata/frontend.bin")),
            "caps": sorted(each.id for each in pong.frontend_api_caps if each.enabled),
            "workers": len(pong.workers),
            "inputs": sorted(inputs.definitions),
        }
        self.graph.add(written(self.graph, path, json.dumps(seen).encode()), f"[front end] SEEN {path}")

    async def on_say(self, text: str) -> None:
        say(text)

    async def on_warn(self, text: str) -> None:
        request = gateway_pb2.WarnRequest(digest=self.graph.output, level=1, short=text.encode())
        await self.bridge.Warn(request)

    async def on_evaluate(self, _: str) -> None:
        await self.bridge.Evaluate(gateway_pb2.EvaluateRequest(ref=await self.current()))

    async def on_cat(self, path: str) -> None:
        request = gateway_pb2.ReadFileRequest(ref=await self.current(), file_path=path)
        say((await self.bridge.ReadFile(request)).data.decode())

    async def on_list(self, path: str) -> None:
        request = gateway_pb2.ReadDirRequest(ref=await self.current(), dir_path=path)
        say(" ".join(each.path for each in (await self.bridge.ReadDir(request)).entries))

    async def on_stat(self, path: str) -> None:
        request = gateway_pb2.StatFileRequest(ref=await self.current(), path=path)
        found = (await self.bridge.StatFile(request)).stat
        say(f"{found.path} {found.mode:o} {found.size}")

    async def on_fail(self, text: str) -> None:
        await self.bridge.Return(gateway_pb2.ReturnRequest(error=rpc_pb2.Status(code=3, message=text)))
        raise SystemExit(0)

    async def on_exit(self, status: str) -> None:
        raise SystemExit(int(status))

    async def on_hang(self, _: str) -> None:
        say("hanging")
        await asyncio.sleep(1000)

    async def on_child(self, command: str) -> None:
        mount = pb.Mount(dest="/", result_id=await self.current())
        await self.bridge.NewContainer(gateway_pb2.NewContainerRequest(container_id="one", mounts=[mount]))
        async with self.bridge.ExecProcess.open() as stream:
            meta = pb.Meta(args=["/bin/sh", "-c", command], env=["PATH=/bin:/usr/bin"], cwd="/")
            init = gateway_pb2.InitMessage(container_id="one", meta=meta, fds=[1, 2])
            await stream.send_message(gateway_pb2.ExecMessage(process_id="p", init=init))
            out, code = b"", 0
            async for message in stream:
                kind = message.WhichOneof("input")
                if kind == "file":
                    out += message.file.data
                elif kind == "exit":
                    code = message.exit.code
                elif kind == "done":
                    await stream.end()
                    break
        await self.bridge.ReleaseContainer(gateway_pb2.ReleaseContainerRequest(container_id="one"))
        say(f"child said {out.decode().strip()}, status {code}")

    async def give(self) -> None:
        ref = await self.current()
        result = gateway_pb2.Result(ref=gateway_pb2.Ref(id=ref))
        if self.config:
            result.metadata["containerimage.config"] = json.dumps(self.config).encode()
        await self.bridge.Return(gateway_pb2.ReturnRequest(result=result))


def read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return str(error).encode()


async def main(arguments: Iterable[str]) -> None:
    if "--die" in arguments:
        raise SystemExit(3)
    channel = Hijacked(connected())
    front = FrontEnd(stub(channel, gateway_pb2, "LLBBridge"))
    try:
        await front.run()
        await front.give()
    except GRPCError as error:
        status = rpc_pb2.Status(code=error.status.value, message=error.message or "")
        await front.bridge.Return(gateway_pb2.ReturnRequest(error=status))
    finally:
        channel.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv))

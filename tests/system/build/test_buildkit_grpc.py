"""BuildKit's services as the wire has them: definitions, files of results, status at any time, refusals."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import io
import json
import os
import secrets
import socket
import subprocess
import sys
import tarfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from daemon.build.proto import control_pb2, gateway_pb2, health_pb2
from daemon.build.proto import ops_pb2 as pb
from tests.system.build.grpc_peer import channel, stub, upgraded
from tests.system.host import REPOSITORY, Host

BUILD = "buildkit-controlapi-buildid"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def definition(*ops: pb.Op) -> pb.Definition:
    """A chain: each upon the one before it, the last one's output 0 is the graph's."""
    made, inputs = pb.Definition(), []
    for op in ops:
        op.inputs.extend(inputs)
        data = op.SerializeToString()
        made.ops.append(data)
        made.metadata[digest(data)].description["llb.customname"] = f"op {len(made.ops)}"
        inputs = [pb.Input(digest=digest(data))]
    made.ops.append(pb.Op(inputs=inputs).SerializeToString())
    return made


def image() -> pb.Op:
    identifier = "docker-image://docker.io/library/busybox:latest"
    return pb.Op(source=pb.SourceOp(identifier=identifier, attrs={"image.resolvemode": "local"}))


def run(*args: str) -> pb.Op:
    meta = pb.Meta(args=args, env=["PATH=/bin"], cwd="/")
    return pb.Op(exec=pb.ExecOp(meta=meta, mounts=[pb.Mount(input=0, dest="/", output=0)]))


def ref() -> str:
    return f"test{secrets.token_hex(10)}"


async def followed(control: Any, name: str) -> list[control_pb2.StatusResponse]:
    async with control.Status.open() as stream:
        await stream.send_message(control_pb2.StatusRequest(ref=name), end=True)
        return [message async for message in stream]


async def test_a_definition_is_solved_and_followed(host: Host) -> None:
    """Whoever asks for the status before the build is there waits for it; after its end the record tells the same."""
    async with channel(host.socket) as connection:
        control = stub(connection, control_pb2, "Control")
        name = ref()
        following = asyncio.ensure_future(followed(control, name))
        await asyncio.sleep(0.2)
        mark = secrets.token_hex(4)
        solved = definition(image(), run("sh", "-c", f"echo {mark}; echo err >&2"))
        answer = await control.Solve(
            control_pb2.SolveRequest(
                ref=name, definition=solved, exporters=[control_pb2.Exporter(type="image", attrs={})]
            )
        )
        assert answer.exporter_response["containerimage.digest"].startswith("sha256:")
        messages = await asyncio.wait_for(following, 5)
        _check_story(messages, mark)
        _check_story(await followed(control, name), mark)


async def test_a_build_without_a_record_is_told_of_for_a_while(host: Host) -> None:
    """Clients ask for the status beside the build, and may be later than its end."""
    async with channel(host.socket) as connection:
        control = stub(connection, control_pb2, "Control")
        name = ref()
        solved = definition(image(), run("echo", secrets.token_hex(4)))
        await control.Solve(control_pb2.SolveRequest(ref=name, definition=solved, internal=True))
        messages = await asyncio.wait_for(followed(control, name), 2)
        assert "op 2" in {each.name for message in messages for each in message.vertexes}


def _check_story(messages: Sequence[control_pb2.StatusResponse], mark: str) -> None:
    vertices = {each.name: each for message in messages for each in message.vertexes}
    last = vertices["op 2"]
    assert last.HasField("completed")
    assert last.started.ToNanoseconds() <= last.completed.ToNanoseconds()
    assert list(last.inputs) == [vertices["op 1"].digest]
    logs = [each for message in messages for each in message.logs if each.vertex == last.digest]
    assert b"".join(each.msg for each in logs if each.stream == 1) == f"{mark}\n".encode()
    assert b"".join(each.msg for each in logs if each.stream == 2) == b"err\n"
    assert all(each.HasField("timestamp") for each in logs)
    assert vertices["exporting to image"].HasField("completed")


class FrontEnd:
    """A client that is its own front end."""

    def __init__(self, connection: Any) -> None:
        self.control = stub(connection, control_pb2, "Control")
        self.bridge = stub(connection, gateway_pb2, "LLBBridge")
        self.name = ref()
        self.solving: asyncio.Future[control_pb2.SolveResponse] = asyncio.ensure_future(
            self.control.Solve(control_pb2.SolveRequest(ref=self.name, internal=True))
        )

    async def ask(self, method: str, request: Any) -> Any:
        return await getattr(self.bridge, method)(request, metadata={BUILD: self.name})


async def test_a_front_end_looks_into_its_results(host: Host) -> None:
    async with channel(host.socket) as connection:
        front = FrontEnd(connection)
        program = "mkdir /d; echo hello > /d/file; ln -s file /d/link; chmod 640 /d/file"
        solved = await front.ask(
            "Solve",
            gateway_pb2.SolveRequest(
                definition=definition(image(), run("sh", "-c", program)),
                allow_result_return=True,
                allow_result_array_ref=True,
                evaluate=True,
            ),
        )
        tree = solved.result.ref
        assert len(tree.definition.ops) == 3
        read = gateway_pb2.ReadFileRequest(ref=tree.id, file_path="/d/file")
        assert (await front.ask("ReadFile", read)).data == b"hello\n"
        read.range.CopyFrom(gateway_pb2.FileRange(offset=1, length=3))
        assert (await front.ask("ReadFile", read)).data == b"ell"
        listed = await front.ask("ReadDir", gateway_pb2.ReadDirRequest(ref=tree.id, dir_path="/d"))
        assert [(each.path, each.linkname) for each in listed.entries] == [("file", ""), ("link", "file")]
        only = gateway_pb2.ReadDirRequest(ref=tree.id, dir_path="d", include_pattern="l*")
        assert [each.path for each in (await front.ask("ReadDir", only)).entries] == ["link"]
        stat = await front.ask("StatFile", gateway_pb2.StatFileRequest(ref=tree.id, path="/d/file"))
        assert (stat.stat.mode, stat.stat.size) == (0o640, 6)
        with pytest.raises(GRPCError, match="no such file or directory"):
            await front.ask("StatFile", gateway_pb2.StatFileRequest(ref=tree.id, path="/none"))
        with pytest.raises(GRPCError, match="no such ref"):
            await front.ask("Evaluate", gateway_pb2.EvaluateRequest(ref="another"))
        returned = gateway_pb2.Result(ref=gateway_pb2.Ref(id=tree.id))
        await front.ask("Return", gateway_pb2.ReturnRequest(result=returned))
        await front.solving


async def test_images_are_resolved_and_what_is_missing_is_said(host: Host) -> None:
    async with channel(host.socket) as connection:
        front = FrontEnd(connection)
        pong = await front.ask("Ping", gateway_pb2.PingRequest())
        offered = {cap.id for cap in pong.frontend_api_caps if cap.enabled}
        assert {"solve.base", "frontend.inputs", "gateway.exec"} <= offered
        found = await front.ask(
            "ResolveImageConfig", gateway_pb2.ResolveImageConfigRequest(ref="busybox", resolve_mode="local")
        )
        assert json.loads(found.config)["config"]["Cmd"] == ["sh"]
        assert found.ref == f"docker.io/library/busybox:latest@{found.digest}"
        source = pb.SourceOp(identifier="docker-image://busybox")
        meta = await front.ask(
            "ResolveSourceMeta", gateway_pb2.ResolveSourceMetaRequest(source=source, resolve_mode="local")
        )
        assert meta.image.digest == found.digest and meta.source == source
        with pytest.raises(GRPCError) as refused:
            await front.ask("ReadFileContainer", gateway_pb2.ReadFileRequest())
        assert refused.value.status is Status.UNIMPLEMENTED
        solve = gateway_pb2.SolveRequest(frontend="nosuch.v0")
        with pytest.raises(GRPCError, match=r"frontend not found: nosuch\.v0"):
            await front.ask("Solve", solve)
        front.solving.cancel()
        with pytest.raises((asyncio.CancelledError, StreamTerminatedError)):
            await front.solving
        with pytest.raises(GRPCError, match="no such job"):
            await front.ask("Solve", solve)


async def test_what_is_no_image_is_told_as_it_was_named(host: Host) -> None:
    """As dockerd 28.5.2 tells it; policies of the call are asked."""
    async with channel(host.socket) as connection:
        front = FrontEnd(connection)

        async def ask(identifier: str, *rules: dict[str, Any]) -> Any:
            source = pb.SourceOp(identifier=identifier, attrs={"k": "v"})
            request = gateway_pb2.ResolveSourceMetaRequest(source=source)
            if rules:
                ParseDict({"rules": rules}, request.source_policies.add())
            return await front.ask("ResolveSourceMeta", request)

        for name in ("git://example.org/a.git#main", "https://example.org/f", "local://context"):
            found = await ask(name)
            assert found.source == pb.SourceOp(identifier=name, attrs={"k": "v"})
            assert not found.HasField("image")
            with pytest.raises(GRPCError) as refused:
                await ask(name, {"action": "DENY", "selector": {"identifier": "*"}})
            reason = f'source "{name}" denied by policy: source denied by policy'
            assert refused.value.message == f"could not resolve image due to policy: {reason}"
        updates = {"identifier": "https://mirror/$1", "attrs": {"more": "x"}}
        rule = {"action": "CONVERT", "selector": {"identifier": "https://example.org/*"}, "updates": updates}
        changed = await ask("https://example.org/f", rule)
        assert changed.source == pb.SourceOp(identifier="https://mirror/f", attrs={"k": "v", "more": "x"})
        for name, text in (
            ("nonsense", "failed to parse nonsense: invalid"),
            ("a://b", "unknown scheme a: not found"),
        ):
            with pytest.raises(GRPCError) as refused:
                await ask(name)
            assert refused.value.message == text
        front.solving.cancel()
        with pytest.raises((asyncio.CancelledError, StreamTerminatedError)):
            await front.solving


async def test_what_a_front_end_fails_of_is_the_builds_error(host: Host) -> None:
    async with channel(host.socket) as connection:
        front = FrontEnd(connection)
        failed = gateway_pb2.ReturnRequest()
        failed.error.code, failed.error.message = 2, "it would not"
        await front.ask("Return", failed)
        with pytest.raises(GRPCError, match="it would not"):
            await front.solving


async def test_refusals(host: Host) -> None:
    async with channel(host.socket) as connection:
        control = stub(connection, control_pb2, "Control")
        health = await stub(connection, health_pb2, "Health").Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.ServingStatus.SERVING
        bridge = stub(connection, gateway_pb2, "LLBBridge")
        with pytest.raises(GRPCError, match="no buildid"):
            await bridge.Solve(gateway_pb2.SolveRequest())
        garbage = pb.Definition(ops=[b"\xff\xff"])
        for wrong in (
            control_pb2.SolveRequest(ref=ref(), definition=garbage),
            control_pb2.SolveRequest(ref=ref(), frontend="dockerfile.v0", session="nobody"),
            control_pb2.SolveRequest(
                ref=ref(), definition=definition(image()), exporters=[control_pb2.Exporter(type="no")]
            ),
        ):
            with pytest.raises(GRPCError) as refused:
                await asyncio.wait_for(control.Solve(wrong), 15)
            assert refused.value.status is Status.UNKNOWN


def test_connections_that_are_none(host: Host) -> None:
    status, answer = host.curl("POST", "/grpc")
    assert (status, answer["message"]) == (400, "no upgrade proto in request")
    status, answer = host.curl("POST", "/session", None, "Connection: Upgrade", "Upgrade: h2c")
    assert status == 400
    assert "ID" in answer["message"]
    with upgraded(host.socket) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        client.settimeout(10)
        while client.recv(4096):  # its settings, then the end
            pass
    with upgraded(host.socket) as client:
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass


def posted(host: Host, path: str, body: bytes) -> tuple[int, list[dict[str, Any]]]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(host.socket))
    connection.request("POST", path, body, {"Content-Type": "application/x-tar"})
    answer = connection.getresponse()
    lines = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    return answer.status, lines


def test_the_older_endpoint_leads_to_the_same_builder(host: Host) -> None:
    """POST /build?version=2, with the context as its body."""
    context = io.BytesIO()
    files = {
        "Dockerfile": b"FROM busybox\nARG V\nCOPY . /c/\nRUN ls /c; echo v is $V\n",
        ".dockerignore": b"secret*\nDockerfile\n",
        "secret.txt": b"",
        "shown.txt": b"",
    }
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    arguments = urllib.parse.quote('{"V": "seven"}')
    status, lines = posted(
        host, f"/build?version=2&t=second&nocache=1&buildargs={arguments}", context.getvalue()
    )
    assert status == 200
    traces = [base64.b64decode(line["aux"]) for line in lines if line.get("id") == "moby.buildkit.trace"]
    messages = [control_pb2.StatusResponse.FromString(trace) for trace in traces]
    logs = b"".join(log.msg for message in messages for log in message.logs)
    assert logs == b"shown.txt\nv is seven\n"
    assert lines[-1] == {"id": "moby.image.id", "aux": {"ID": host.inspect("second")["Id"]}}
    status, lines = posted(host, "/build?version=2", b"FROM busybox\nRUN exit 7\n")
    assert "exit code: 7" in lines[-1]["error"]
    status, lines = posted(host, "/build?version=2&networkmode=odd", b"")
    assert (status, lines[0]["message"]) == (400, "network mode 'odd' not supported by buildkit")


def test_an_idle_daemon_has_nothing_of_it_loaded() -> None:
    program = (
        "import sys, api.serve, api.app, daemon.engine\n"
        "api.app.create_api(None)\n"
        "print([name for name in ('google.protobuf', 'h2', 'hpack', 'grpclib') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "[]\n"


def test_early_bytes_are_not_lost(host: Host, tmp_path: Path) -> None:
    """A client that sends its preface with the request, before it has read the 101."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(host.socket))
        client.sendall(
            b"POST /grpc HTTP/1.1\r\nHost: pyd\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + preface
        )
        data = b""
        while data.count(b"\x00\x00\x00\x04\x01") < 1:  # the acknowledgement of our settings
            more = client.recv(4096)
            assert more, data
            data += more

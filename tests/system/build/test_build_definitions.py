"""Definitions that no Dockerfile makes, through BuildKit's door: outputs of mounts, merges, what processes see."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpclib.exceptions import GRPCError

from daemon.build.proto import control_pb2, gateway_pb2
from daemon.build.proto import ops_pb2 as pb
from tests.definitions import Writer
from tests.system.build.grpc_peer import channel, stub
from tests.system.host import Host

BUILD = "buildkit-controlapi-buildid"


class Front:
    def __init__(self, connection: Any, name: str) -> None:
        self._bridge, self._name = stub(connection, gateway_pb2, "LLBBridge"), name

    async def read(self, definition: pb.Definition, path: str) -> str:
        metadata = {BUILD: self._name}
        request = gateway_pb2.SolveRequest(
            definition=definition, allow_result_return=True, allow_result_array_ref=True, evaluate=True
        )
        solved = await self._bridge.Solve(request, metadata=metadata)
        asked = gateway_pb2.ReadFileRequest(ref=solved.result.ref.id, file_path=path)
        found = await self._bridge.ReadFile(asked, metadata=metadata)
        return bytes(found.data).decode()


@asynccontextmanager
async def front_end(host: Host) -> AsyncIterator[Front]:
    """A client that is its own front end."""
    async with channel(host.socket) as connection:
        name = f"test{secrets.token_hex(10)}"
        request = control_pb2.SolveRequest(ref=name, internal=True)
        solving = asyncio.ensure_future(stub(connection, control_pb2, "Control").Solve(request))
        try:
            yield Front(connection, name)
        finally:
            solving.cancel()
            await asyncio.gather(solving, return_exceptions=True)


async def test_what_a_process_leaves_in_its_mounts(host: Host) -> None:
    """A new output, one upon files that were there, and a root that can't be written."""
    writer = Writer()
    base, old = writer.busybox(), writer.files(old="1", both="2")
    mounts = [
        pb.Mount(input=0, dest="/", output=-1, readonly=True),
        pb.Mount(input=-1, dest="/new", output=0),
        pb.Mount(input=1, dest="/old", output=1),
    ]
    script = (
        "! touch /x && echo made > /new/f && echo more >> /old/both && rm /old/old && ls /old > /new/seen"
    )
    process = writer.run(script, (base, 0), (old, 0), mounts=mounts)
    merged = writer.add(
        pb.Op(merge=pb.MergeOp(inputs=[pb.MergeInput(input=0), pb.MergeInput(input=1)])),
        (process, 0),
        (process, 1),
    )
    shown = writer.run("cat /f /both; ls /", (base, 0), mounts=[
        pb.Mount(input=0, dest="/", output=0),
    ])  # fmt: skip
    assert shown
    async with front_end(host) as front:
        assert await front.read(writer.end(process, 0), "/seen") == "both\n"
    again = Writer()
    again.definition.ops.extend(writer.definition.ops[:-1])
    async with front_end(host) as front:
        assert await front.read(again.end(merged), "/both") == "2more\n"
        with pytest.raises(GRPCError, match="no such file"):
            await front.read(again.definition, "/old")


async def test_what_a_process_is_told(host: Host) -> None:
    writer = Writer()
    script = "(hostname; ulimit -n; grep there /etc/hosts; echo $http_proxy $HTTP_PROXY; pwd) > /told; exit 3"
    meta: dict[str, Any] = {
        "hostname": "named",
        "ulimit": [pb.Ulimit(name="nofile", soft=77, hard=88)],
        "extra_hosts": [pb.HostIP(host="there", ip="1.2.3.4")],
        "proxy_env": pb.ProxyEnv(http_proxy="http://p"),
        "valid_exit_codes": [3],
    }
    process = writer.run(script, (writer.busybox(), 0), **meta)
    async with front_end(host) as front:
        told = await front.read(writer.end(process), "/told")
    assert told.split("\n")[:5] == ["named", "77", "1.2.3.4\tthere", "http://p http://p", "/"]


async def test_a_device_is_not_there(host: Host) -> None:
    """In dockerd's words; one that may be missing is."""
    for optional in (True, False):
        writer = Writer()
        device = pb.CDIDevice(name="vendor.com/gpu=0", optional=optional)
        base = writer.busybox()
        meta = pb.Meta(args=["sh", "-c", "echo ran > /ran"], env=["PATH=/bin"], cwd="/")
        mounts = [pb.Mount(input=0, dest="/", output=0)]
        process = writer.add(pb.Op(exec=pb.ExecOp(meta=meta, mounts=mounts, cdi_devices=[device])), (base, 0))
        async with front_end(host) as front:
            if optional:
                assert await front.read(writer.end(process), "/ran") == "ran\n"
                continue
            with pytest.raises(GRPCError) as refused:
                await front.read(writer.end(process), "/ran")
        said = str(refused.value.message)
        assert said == 'failed to load LLB: required device "vendor.com/gpu=0" is not registered'


async def test_a_difference_is_only_what_a_step_did(host: Host) -> None:
    writer = Writer()
    base = writer.busybox()
    process = writer.run("mkdir /n && echo x > /n/f && rm /bin/vi", (base, 0))
    diff = pb.DiffOp(lower=pb.LowerDiffInput(input=0), upper=pb.UpperDiffInput(input=1))
    changes = writer.add(pb.Op(diff=diff), (base, 0), (process, 0))
    files = writer.files(own="1")
    merge = pb.MergeOp(inputs=[pb.MergeInput(input=0), pb.MergeInput(input=1)])
    merged = writer.add(pb.Op(merge=merge), (files, 0), (changes, 0))
    copied = pb.FileActionCopy(src="/", dest="/seen", mode=-1, timestamp=-1, create_dest_path=True,
                               dir_copy_contents=True)  # fmt: skip
    action = pb.FileAction(input=0, secondary_input=1, output=0, copy=copied)
    seen = writer.add(pb.Op(file=pb.FileOp(actions=[action])), (base, 0), (merged, 0))
    listed = writer.run("cd /seen && find . | grep -v -e dev -e proc -e sys | sort > /list", (seen, 0))
    async with front_end(host) as front:
        assert await front.read(writer.end(listed), "/list") == ".\n./bin\n./n\n./n/f\n./own\n"

"""Definitions as clients write them, by hand and by our own encoder."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.build.dockerfile.parser import parse
from daemon.build.frontend.stages import Frontend
from daemon.build.frontend.terms import Request
from daemon.build.graph import CopyFiles, Diff, Exec, File, Merge, Mkfile, Output, Source, describe, ordered
from daemon.build.llb import decode, encode
from daemon.build.proto import ops_pb2 as pb
from daemon.build.sources.resolved import ResolvedImage
from storage.errors import InvalidArgument, NotImplementedYet
from tests.definitions import Writer


def source(identifier: str, **attributes: str) -> pb.Op:
    return pb.Op(source=pb.SourceOp(identifier=identifier, attrs=attributes))


def mkfile(path: str, data: bytes, *, input: int = -1, output: int = 0) -> pb.FileAction:
    made = pb.FileActionMkFile(path=path, data=data, mode=0o644, timestamp=-1)
    return pb.FileAction(input=input, secondary_input=-1, output=output, mkfile=made)


def solved(definition: pb.Definition) -> list[Any]:
    return [vertex.operation for vertex in ordered([decode(definition, {})])]


def test_an_empty_definition_is_scratch() -> None:
    assert decode(pb.Definition(), {}) is None and not encode(None).ops


def test_a_process_with_all_that_it_can_have() -> None:
    writer = Writer()
    base = writer.add(source("docker-image://docker.io/library/a:1", **{"image.resolvemode": "local"}))
    meta = pb.Meta(args=["x"], env=["A=1"], cwd="/w", user="u", hostname="h", cgroup_parent="/p",
                   valid_exit_codes=[0, 3], proxy_env=pb.ProxyEnv(http_proxy="http://p"),
                   extra_hosts=[pb.HostIP(host="a", ip="1.2.3.4")],
                   ulimit=[pb.Ulimit(name="nofile", soft=1, hard=2)])  # fmt: skip
    mounts = [
        pb.Mount(input=0, dest="/", output=0),
        pb.Mount(input=0, dest="/ro", selector="/etc", readonly=True, output=-1),
        pb.Mount(input=-1, dest="out", output=1),
        pb.Mount(input=-1, dest="/c", output=-1, mount_type=pb.MountType.CACHE,
                 cache_opt=pb.CacheOpt(id="k", sharing=pb.CacheSharingOpt.LOCKED)),
        pb.Mount(input=-1, dest="/t", output=-1, mount_type=pb.MountType.TMPFS, tmpfs_opt=pb.TmpfsOpt(size=9)),
        pb.Mount(input=-1, dest="/s", output=-1, mount_type=pb.MountType.SECRET,
                 secret_opt=pb.SecretOpt(id="s", uid=1, mode=0o400, optional=True)),
    ]  # fmt: skip
    exec_op = pb.ExecOp(meta=meta, mounts=mounts, network=pb.NetMode.NONE, security=pb.SecurityMode.INSECURE,
                        secretenv=[pb.SecretEnv(id="t", name="TOKEN")])  # fmt: skip
    arm = pb.Platform(os="linux", architecture="arm64")
    process = writer.add(pb.Op(exec=exec_op, platform=arm), (base, 0))
    output = decode(writer.end(process, 1), {})
    assert output is not None and output.index == 1
    found = output.vertex.operation
    assert isinstance(found, Exec)
    assert (found.args, found.env, found.cwd, found.user, found.hostname) == (
        ("x",),
        ("A=1",),
        "/w",
        "u",
        "h",
    )
    assert (found.network, found.security, found.platform) == ("none", "insecure", "linux/arm64")
    assert (found.hosts, found.ulimits, found.valid_codes) == (("a:1.2.3.4",), (("nofile", 1, 2),), (0, 3))
    assert found.proxy == ("HTTP_PROXY=http://p", "http_proxy=http://p")
    kinds = [(m.kind, m.target, m.source, m.readonly, m.output) for m in found.mounts]
    assert kinds[:2] == [("bind", "/ro", "/etc", True, -1), ("bind", "/w/out", "/", False, 1)]
    assert [m.kind for m in found.mounts[2:]] == ["cache", "tmpfs", "secret", "secret"]
    assert (found.mounts[2].sharing, found.mounts[3].size, found.mounts[4].required) == ("locked", 9, False)
    assert (found.mounts[5].env, found.mounts[5].target, found.mounts[5].required) == ("TOKEN", "", True)


def test_file_actions_that_branch_become_several_vertices() -> None:
    writer = Writer()
    base = writer.add(source("local://c"))
    copied = pb.FileActionCopy(src="/x", dest="/y/", mode=-1, timestamp=-1, create_dest_path=True)
    actions = [
        mkfile("/one", b"1", input=-1, output=-1),
        mkfile("/two", b"2", input=1, output=0),
        pb.FileAction(input=0, secondary_input=2, output=1, copy=copied),
    ]
    made = writer.add(pb.Op(file=pb.FileOp(actions=actions)), (base, 0))
    known: Any = {}
    output = decode(writer.end(made, 1), known)
    assert output is not None
    copy: Any = output.vertex
    chain: Any = known[made, 0].vertex
    assert [type(a) for a in copy.operation.actions] == [CopyFiles]
    assert [a.path for a in chain.operation.actions] == ["/one", "/two"] and chain.inputs == (None,)
    assert copy.inputs[1] == Output(chain) and copy.operation.actions[0].input == 1


def test_merge_diff_names_places_and_caching() -> None:
    writer = Writer()
    one = writer.add(pb.Op(file=pb.FileOp(actions=[mkfile("/a", b"\xff")])))
    two = writer.add(pb.Op(file=pb.FileOp(actions=[mkfile("/b", b"")])))
    merged = writer.add(
        pb.Op(merge=pb.MergeOp(inputs=[pb.MergeInput(input=0), pb.MergeInput(input=1)])), (one, 0), (two, 0)
    )
    diff = pb.DiffOp(lower=pb.LowerDiffInput(input=0), upper=pb.UpperDiffInput(input=-1))
    last = writer.add(pb.Op(diff=diff), (merged, 0))
    definition = writer.end(last)
    definition.metadata[one].description["llb.customname"] = "named"
    definition.metadata[one].ignore_cache = True
    place = definition.source.locations[one].locations.add().ranges.add()
    place.start.line, place.end.line = 3, 4
    vertices: list[Any] = [*ordered([decode(definition, {})])]
    assert [type(v.operation) for v in vertices] == [File, File, Merge, Diff]
    assert vertices[0].about.name == "named" and vertices[0].about.no_cache
    assert vertices[0].about.span and vertices[0].about.span.first == 3
    assert vertices[0].operation.actions[0].data == "\udcff"
    assert vertices[1].about.name == "mkfile /b" and vertices[3].inputs[1] is None


@pytest.mark.parametrize(
    ("definition", "part"),
    [
        (pb.Definition(ops=[b"\xff\xff"]), "failed to parse llb"),
        (pb.Definition(ops=[pb.Op(merge=pb.MergeOp()).SerializeToString()]), "last operation"),
        (Writer().end("sha256:" + "0" * 64), "invalid missing input digest"),
    ],
)
def test_definitions_that_mean_nothing(definition: pb.Definition, part: str) -> None:
    with pytest.raises(InvalidArgument, match=part):
        decode(definition, {})


def test_numbers_that_name_nothing() -> None:
    for operation in (
        pb.Op(file=pb.FileOp()),
        pb.Op(file=pb.FileOp(actions=[mkfile("/a", b"", input=7)])),
        pb.Op(file=pb.FileOp(actions=[mkfile("/a", b"", input=0)])),
        pb.Op(exec=pb.ExecOp(meta=pb.Meta(args=["x"]))),
        pb.Op(exec=pb.ExecOp(mounts=[pb.Mount(input=-1, dest="/")])),
        pb.Op(exec=pb.ExecOp(meta=pb.Meta(args=["x"]), mounts=[pb.Mount(input=3, dest="/")])),
        pb.Op(merge=pb.MergeOp()),
        pb.Op(diff=pb.DiffOp(lower=pb.LowerDiffInput(input=4))),
        pb.Op(exec=pb.ExecOp(meta=pb.Meta(args=["x"]), mounts=[pb.Mount(input=-1, dest="/")],
                             cdi_devices=[pb.CDIDevice(name="v.com/d=1")])),
    ):  # fmt: skip
        writer = Writer()
        with pytest.raises(InvalidArgument):
            decode(writer.end(writer.add(operation)), {})
    writer = Writer()
    made = writer.add(pb.Op(file=pb.FileOp(actions=[mkfile("/a", b"")])))
    with pytest.raises(InvalidArgument, match="invalid output 5"):
        decode(writer.end(made, 5), {})
    writer = Writer()
    with pytest.raises(NotImplementedYet, match="BuildOp"):
        decode(writer.end(writer.add(pb.Op(build=pb.BuildOp()))), {})


def test_a_chain_of_20_000_operations() -> None:
    writer = Writer()
    made = writer.add(pb.Op(file=pb.FileOp(actions=[mkfile("/a", b"")])))
    for number in range(20_000):
        made = writer.add(pb.Op(file=pb.FileOp(actions=[mkfile(f"/{number}", b"", input=0)])), (made, 0))
    assert len(solved(writer.end(made))) == 20_001


class Images:
    async def image(self, reference: str, platform: str) -> ResolvedImage:
        return ResolvedImage(f"docker-image://{reference}@sha256:1", {"rootfs": {"diff_ids": ["x"]}})


DOCKERFILE = """FROM base AS zero
FROM base AS one
WORKDIR /w
COPY --chown=1:2 --chmod=u+x a b* /d/
COPY --parents x/./y /p/
COPY --link l /l
ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 https://h/f /f
ADD --keep-git-dir https://h/r.git#v:d /g
COPY <<E /here
text
E
RUN --mount=type=cache,target=/c,sharing=private --mount=type=secret,id=s,env=S --mount=type=tmpfs,target=/t \\
    --mount=type=ssh --mount=from=zero,source=/w,target=/o --network=none x
FROM one
RUN y
"""


async def test_what_was_encoded_comes_back() -> None:
    built = await Frontend(parse(DOCKERFILE), Request(), Images()).run()
    known: Any = {}
    definition = encode(built.output, known)
    same = decode(definition, known)
    assert built.output is not None and same is not None and same.vertex is built.output.vertex
    # and without the table it is the same work, in the same order
    other = decode(definition, {})
    mine, theirs = ordered([built.output]), ordered([other])
    assert [type(v.operation) for v in mine] == [type(v.operation) for v in theirs]
    assert [v.about.name for v in mine] == [v.about.name for v in theirs]
    for one, two in zip(mine, theirs, strict=True):
        if isinstance(one.operation, Source):
            assert one.operation == two.operation
        if isinstance(one.operation, File) and all(isinstance(a, Mkfile) for a in one.operation.actions):
            assert one.operation == two.operation
        if isinstance(one.operation, Exec):
            left, right = describe(one.operation), describe(two.operation)
            left.pop("mounts"), right.pop("mounts")
            assert left == right

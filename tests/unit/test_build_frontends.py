"""Which front end a file or a client wants, and what front ends' definitions say that ours would not."""

from __future__ import annotations

import pytest

from daemon.build.dockerfile.directives import Syntax, syntax
from daemon.build.doors import frontends
from daemon.build.llb import decode
from daemon.build.proto import ops_pb2 as pb
from storage.errors import InvalidArgument
from tests.definitions import Writer
from tests.unit.test_build_llb import source

NAMED = {
    "# syntax=a/b:1\nFROM x\n": Syntax("a/b:1", "a/b:1", 1),
    "#  SYNTAX  =  a/b:1 with words \r\n": Syntax("a/b:1", "a/b:1 with words", 1),
    "\ufeff# escape=`\n# syntax=a\n": Syntax("a", "a", 2),
    "#!/usr/bin/x\n# syntax=a\n": Syntax("a", "a", 2),
    "// syntax=a\n": Syntax("a", "a", 1),
    "#!/usr/bin/x\n//syntax=a b\n": Syntax("a", "a b", 2),
    '{"syntax": "a", "more": [1]}': Syntax("a", "a", 0),
    "\n# syntax=a\n": None,
    "FROM x\n# syntax=a\n": None,
    "# a comment\n# syntax=a\n": None,
    "# other=1\n# syntax=a\n": None,
    "# escape=`\n# escape=`\n# syntax=a\n": None,
    '{"syntax": 1}': None,
    "{": None,
    "[" * 5000: None,
    "": None,
}


@pytest.mark.parametrize("text", NAMED)
def test_the_front_end_that_a_file_names(text: str) -> None:
    assert syntax(text.encode()) == NAMED[text]


def test_bytes_that_are_no_text() -> None:
    assert syntax(b"\xff\xfe{\0") is None
    assert syntax(b"{" + b'"a":{' * 100_000) is None


@pytest.mark.parametrize(
    ("image", "ours"),
    [
        ("docker/dockerfile", True),
        ("docker.io/docker/dockerfile:1.4@sha256:00", True),
        ("mirror.example:5000/x/docker/dockerfile-upstream:master", True),
        ("dockerfile", True),
        ("docker/dockerfile-copy", False),
        ("dockerfile/other", False),
        ("mirror.example:5000/buildpacks", False),
    ],
)
def test_the_dockerfiles_front_end_is_known_by_its_last_name(image: str, ours: bool) -> None:
    assert frontends.built_in(image) is ours


def test_what_clients_must_say() -> None:
    assert frontends.source({"source": "a"}) == "a"
    with pytest.raises(InvalidArgument, match="no source specified for gateway"):
        frontends.source({"cmdline": "a"})
    with pytest.raises(InvalidArgument, match="development gateway is no longer supported"):
        frontends.source({"gateway-devel": "", "source": "a"})


@pytest.mark.parametrize(
    ("caps", "name", "forward"),
    [
        ("", None, False),
        ("moby.buildkit.frontend.inputs,moby.buildkit.frontend.contexts+forward", None, False),
        ("x.y", "x.y", False),
        ("x.y+forward", "x.y", True),
        ("x.y+forward,x.z", "x.z", False),
    ],
)
def test_what_is_demanded_of_the_built_in_one(caps: str, name: str | None, forward: bool) -> None:
    found = frontends.refusal({"frontend.caps": caps})
    assert (found and found.name) == name
    assert bool(found and found.forward) is forward


def test_a_definitions_operations_know_their_lines() -> None:
    writer = Writer()
    first = writer.add(source("local://c"))
    definition = writer.end(first)
    definition.source.infos.add(filename="File.x", data=b"one\ntwo\nthree")
    place = definition.source.locations[first].locations.add(source_index=0)
    place.ranges.add(start=pb.Position(line=2), end=pb.Position(line=3))
    output = decode(definition, {})
    assert output is not None
    about = output.vertex.about
    assert about.text is not None and about.span is not None
    assert (about.text.name, about.text.lines) == ("File.x", ("one", "two", "three"))
    assert (about.span.first, about.span.last) == (2, 3)
    definition.source.locations[first].locations[0].source_index = 7
    output = decode(definition, {})
    assert output is not None and output.vertex.about.text is None


def test_what_is_no_output_takes_no_outputs_number() -> None:
    """BuildKit's clients leave 0 in the mounts of secrets and agents."""
    writer = Writer()
    base = writer.add(source("docker-image://docker.io/library/a:1"))
    mounts = [
        pb.Mount(input=0, dest="/", output=0),
        pb.Mount(dest="/s", input=-1, mount_type=pb.MountType.SECRET, secret_opt=pb.SecretOpt(id="s")),
        pb.Mount(dest="/a", input=-1, mount_type=pb.MountType.SSH),
    ]
    process = writer.add(pb.Op(exec=pb.ExecOp(meta=pb.Meta(args=["x"]), mounts=mounts)), (base, 0))
    output = decode(writer.end(process), {})
    assert output is not None and output.index == 0

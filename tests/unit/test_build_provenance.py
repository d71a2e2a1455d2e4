"""Provenance in BuildKit's form: what it names, and what it does not give away."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.build.attest import buildconfig, parse, sbom
from daemon.build.attest.provenance import TYPE_02, TYPE_1, Facts, ImageUsed, package, predicate, redacted
from daemon.build.proto import ops_pb2 as pb
from daemon.images.model import digest_of
from storage.errors import InvalidArgument

DIGEST = digest_of(b"x")
FACTS = Facts(
    frontend="dockerfile.v0",
    arguments={
        "filename": "Dockerfile",
        "build-arg:TOKEN": "geheim",
        "label:l": "geheim",
        "target": "t",
        "platform": "linux/arm64",
        "cgroup-parent": "x",
        "attest:provenance": "mode=max",
        "vcs:source": "https://user:geheim@example.org/r.git",
        "vcs:revision": "abc",
    },
    images=(ImageUsed("docker.io/library/busybox:latest", DIGEST, "linux/amd64"),),
    repositories=(("https://example.org/r.git", "a" * 40),),
    files=(("https://example.org/f", DIGEST),),
    locals=("dockerfile", "context"),
    secrets=(("s", True), ("r", False)),
    network=True,
    platform="linux/amd64",
    started=10**18,
    finished=10**18 + 1,
    invocation="i",
    config={"llbDefinition": []},
    source={"infos": []},
)


def test_version_02() -> None:
    kind, made = predicate(FACTS, {"mode": "max", "builder-id": "b", "reproducible": "true"})
    assert kind == TYPE_02 == "https://slsa.dev/provenance/v0.2"
    assert made["builder"] == {"id": "b"} and made["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert made["materials"] == [
        {
            "uri": "pkg:docker/busybox@latest?platform=linux%2Famd64",
            "digest": {"sha256": DIGEST.partition(":")[2]},
        },
        {"uri": "https://example.org/r.git", "digest": {"sha1": "a" * 40}},
        {"uri": "https://example.org/f", "digest": {"sha256": DIGEST.partition(":")[2]}},
    ]
    invocation = made["invocation"]
    assert invocation["configSource"] == {"entryPoint": "Dockerfile"}
    assert invocation["environment"] == {"platform": "linux/amd64"}
    assert invocation["parameters"] == {
        "frontend": "dockerfile.v0",
        "args": {"build-arg:TOKEN": "geheim", "label:l": "geheim", "target": "t"},
        "secrets": [{"id": "r"}, {"id": "s", "optional": True}],
        "locals": [{"name": "context"}, {"name": "dockerfile"}],
    }
    metadata = made["metadata"]
    assert metadata["completeness"] == {"parameters": True, "environment": True, "materials": False}
    assert metadata["reproducible"] is True
    assert metadata["buildStartedOn"] == "2001-09-09T01:46:40Z"
    assert "https://mobyproject.org/buildkit@v1#hermetic" not in metadata
    vcs = metadata["https://mobyproject.org/buildkit@v1#metadata"]["vcs"]
    assert vcs == {"source": "https://user:xxxxx@example.org/r.git", "revision": "abc"}
    assert made["buildConfig"] == {"llbDefinition": []}


def test_version_1_says_the_same_elsewhere() -> None:
    kind, made = predicate(FACTS, {"version": "v1"})
    assert kind == TYPE_1
    definition, details = made["buildDefinition"], made["runDetails"]
    old = predicate(FACTS, {})[1]
    assert definition["resolvedDependencies"] == old["materials"]
    assert definition["externalParameters"]["request"] == old["invocation"]["parameters"]
    assert definition["externalParameters"]["configSource"] == {"path": "Dockerfile"}
    assert definition["internalParameters"]["buildConfig"] == old["buildConfig"]
    assert details["metadata"]["buildkit_completeness"] == {"request": True, "resolvedDependencies": False}
    assert details["metadata"]["invocationId"] == "i"


@pytest.mark.parametrize("version", ["v0.2", "v1"])
def test_the_short_form_gives_no_arguments_away(version: str) -> None:
    _, made = predicate(FACTS, {"mode": "min", "version": version})
    text = json.dumps(made)
    assert "geheim" not in text and '"secrets"' not in text and "llbDefinition" not in text
    assert '"target": "t"' in text and "infos" not in text
    if version == "v0.2":
        assert made["metadata"]["completeness"]["parameters"] is False
    _, full = predicate(FACTS, {"mode": "max", "version": version})
    assert "geheim" in json.dumps(full), "the test sees what is given away"


def test_a_context_from_a_repository_is_the_configurations_source() -> None:
    arguments = {"context": "https://u:pw@example.org/r.git#main", "filename": "D"}
    facts = Facts("dockerfile.v0", arguments, repositories=(("https://u:pw@example.org/r.git", "b" * 40),))
    _, made = predicate(facts, {})
    assert made["invocation"]["configSource"] == {
        "uri": "https://u:xxxxx@example.org/r.git#main",
        "digest": {"sha1": "b" * 40},
        "entryPoint": "D",
    }
    assert "pw" not in json.dumps(made)
    assert made["metadata"]["completeness"]["materials"] is True
    assert made["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"] is True
    _, online = predicate(replace(facts, network=True), {})
    assert "https://mobyproject.org/buildkit@v1#hermetic" not in online["metadata"]


@pytest.mark.parametrize(
    ("name", "platform", "expected"),
    [
        ("alpine", "", "pkg:docker/alpine@latest"),
        ("docker.io/library/alpine:3.15", "", "pkg:docker/alpine@3.15"),
        (f"alpine:latest@{DIGEST}", "", f"pkg:docker/alpine@latest?digest={DIGEST}"),
        (f"alpine@{DIGEST}", "linux/amd64", f"pkg:docker/alpine?digest={DIGEST}&platform=linux%2Famd64"),
        ("user/test:v2", "", "pkg:docker/user/test@v2"),
        (
            "localhost:5000/a/b",
            "linux/arm/v7",
            "pkg:docker/localhost:5000/a/b@latest?platform=linux%2Farm%2Fv7",
        ),
    ],
)
def test_package_urls(name: str, platform: str, expected: str) -> None:
    assert package(name, platform) == expected


def test_redaction() -> None:
    assert redacted("https://token@h/p?q#f") == "https://xxxxx@h/p?q#f"
    assert redacted("git@h:p.git") == "git@h:p.git"


# -- the graph


def encoded(*ops: pb.Op) -> tuple[pb.Definition, list[str]]:
    bodies = [op.SerializeToString(deterministic=True) for op in ops]
    return pb.Definition(ops=bodies), [digest_of(body) for body in bodies]


def definition() -> tuple[pb.Definition, list[str]]:
    source = pb.Op(source=pb.SourceOp(identifier="local://context", attrs={"local.session": "s", "a": "b"}))
    source.platform.os, source.platform.architecture = "linux", "amd64"
    first = digest_of(source.SerializeToString(deterministic=True))
    copy = pb.FileActionCopy(src="/f", dest="/g", mode=-1, follow_symlink=True, timestamp=-1)
    action = pb.FileAction(input=-1, secondary_input=0, output=0, copy=copy)
    file = pb.Op(inputs=[pb.Input(digest=first, index=0)], file=pb.FileOp(actions=[action]))
    second = digest_of(file.SerializeToString(deterministic=True))
    return encoded(source, file, pb.Op(inputs=[pb.Input(digest=second, index=0)]))


def test_the_graph_as_buildkit_writes_it() -> None:
    made, digests = definition()
    steps = buildconfig.Steps(made)
    source, file, last = steps.definition()
    assert source == {
        "id": "step0",
        "op": {
            "Op": {"source": {"identifier": "local://context", "attrs": {"a": "b"}}},
            "platform": {"Architecture": "amd64", "OS": "linux"},
        },
    }
    assert file["inputs"] == ["step0:0"]
    (action,) = file["op"]["Op"]["file"]["actions"]
    copied = {"src": "/f", "dest": "/g", "mode": -1, "followSymlink": True, "timestamp": -1}
    assert action == {"input": -1, "secondaryInput": 0, "output": 0, "Action": {"copy": copied}}
    assert last == {"id": "step2", "op": {"Op": {}}, "inputs": ["step1:0"]}
    assert steps.mapping() == {digest: f"step{place}" for place, digest in enumerate(digests)}


def test_the_dockerfile_and_its_lines() -> None:
    made, digests = definition()
    assert buildconfig.source(made, buildconfig.Steps(made).places) is None
    made.source.infos.add(filename="Dockerfile", language="Dockerfile", data=b"FROM x")
    made.source.locations[digests[1]].locations.add().ranges.add().start.line = 3
    found = buildconfig.source(made, buildconfig.Steps(made).places)
    assert found == {
        "locations": {"step1": {"locations": [{"ranges": [{"start": {"line": 3}}]}]}},
        "infos": [{"filename": "Dockerfile", "language": "Dockerfile", "data": "RlJPTSB4"}],
    }


def test_an_operation_whose_input_is_missing() -> None:
    made, _ = encoded(pb.Op(inputs=[pb.Input(digest=DIGEST, index=0)]))
    with pytest.raises(InvalidArgument, match="failed to find input"):
        buildconfig.Steps(made)


# -- what may be asked for


def test_requests() -> None:
    assert parse({"attest:provenance": "mode=min,inline-only=true", "build-arg:x": "y"}) == {
        "provenance": {"version": "v0.2", "mode": "min", "inline-only": "true"}
    }
    assert parse({"build-arg:BUILDKIT_ATTEST_SBOM": "generator=a/b"})["sbom"] == {
        "generator": "docker.io/a/b:latest"
    }
    assert (
        parse({"attest:sbom": ""})["sbom"]["generator"] == "docker.io/docker/buildkit-syft-scanner:stable-1"
    )


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"attest:other": ""}, 'unknown attestation type "other"'),
        ({"attest:provenance": "version=v3"}, "invalid provenance SLSA version: v3"),
        ({"attest:provenance": "mode=some"}, 'invalid mode "some"'),
        ({"attest:sbom": "generator="}, "sbom generator cannot be empty"),
        ({"attest:sbom": "generator=UPPER"}, "failed to parse sbom generator UPPER"),
    ],
)
def test_refused_requests(attributes: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse(attributes)
    assert words in str(error.value)


# -- what a generator leaves


def left(directory: Path, **files: object) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / f"{name}.spdx.json").write_text(text)


STATEMENT = {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": sbom.SPDX, "predicate": {"a": 1}}


def test_statements_are_read_the_core_first(tmp_path: Path) -> None:
    subject = [{"name": "n", "digest": {"sha256": "ab"}}]
    left(tmp_path, **{"sbom-extra": STATEMENT | {"subject": subject}, "sbom": STATEMENT})
    first, second = sbom.read(tmp_path, 3)
    assert (first.path, first.platform_index, first.reason) == ("sbom.spdx.json", 3, "sbom")
    assert json.loads(first.predicate) == {"a": 1} and first.subjects == ()
    assert second.subjects == (("n", {"sha256": "ab"}),)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 50_000,
        {"predicateType": "https://slsa.dev/provenance/v1"},
        [],
        STATEMENT | {"subject": [1]},
    ],
)
def test_statements_that_are_none(tmp_path: Path, content: object) -> None:
    left(tmp_path, sbom=content)
    with pytest.raises(InvalidArgument):
        sbom.read(tmp_path, 0)


def test_a_generators_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text(json.dumps(STATEMENT))
    (tmp_path / "out" / "sbom.spdx.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        sbom.read(tmp_path / "out", 0)
    (tmp_path / "out" / "sbom.spdx.json").unlink()
    os.mkfifo(tmp_path / "out" / "sbom.spdx.json")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        sbom.read(tmp_path / "out", 0)
